"""Candidates as CSV and back, and the frontier as a table for the terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepreduce.candidate import TEACHER_ID, Candidate, Measurement
from deepreduce.cost.objective import Objective
from deepreduce.cost.price import CostEstimate, Share
from deepreduce.errors import UserError
from deepreduce.frontier import pareto_front
from deepreduce.plan import ReductionPlan
from deepreduce.report.tables import candidates_csv, frontier_csv, frontier_table, read_candidates_csv
from tests.helpers.report_examples import candidate, failed, priced, random_price, random_run, teacher

FIRST_COLUMNS = "plan_id,relu_count,val_accuracy,test_accuracy,train_seconds"
"""Others script against these."""

STAGES = ("S1", "S2", "stem")

# what a file holds of a number: six decimals of a fraction, two of seconds
fractions = st.integers(0, 10**6).map(lambda n: n / 10**6)
seconds = st.integers(0, 10**8).map(lambda n: n / 100)
counts = st.integers(0, 10**12)
lines = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12).map(
    lambda t: " ".join(t.split())
)
plans = st.builds(
    ReductionPlan,
    sites=st.dictionaries(lines, st.just("identity"), max_size=3).map(lambda sites: tuple(sites.items())),
    alpha=st.sampled_from([1.0, 0.5, 1 / 3]),
    rho=st.sampled_from([1.0, 0.5]),
    depth=st.none() | st.just((1, 2)),
)


@st.composite
def candidates(draw: st.DrawFn, plan_id: str) -> Candidate:
    relu_count = draw(counts)
    measurement = Measurement(
        relu_count=relu_count,
        stage_relu_counts={stage: draw(counts) for stage in STAGES},
        macs=draw(counts),
        val_accuracy=draw(fractions),
        test_accuracy=draw(fractions),
        churn=draw(fractions),
        train_seconds=draw(seconds),
    )
    is_failed = plan_id != TEACHER_ID and draw(st.booleans())
    return Candidate(
        plan_id=plan_id,
        plan=draw(plans),
        label=draw(lines),
        relu_count=relu_count,
        folder=draw(lines),
        measurement=None if is_failed else measurement,
        failure=draw(lines.filter(bool)) if is_failed else None,
        is_dropped=is_failed and draw(st.booleans()),
    )


ids = st.lists(st.text("0123456789abcdef", min_size=1, max_size=10), max_size=5, unique=True)
runs = ids.flatmap(lambda names: st.tuples(*(candidates(name) for name in [TEACHER_ID, *names]))).map(list)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


few = settings(max_examples=40)


# -- CSV ----------------------------------------------------------------------------------------------------


@few
@given(runs)
def test_what_is_read_is_what_was_written(run: list[Candidate]) -> None:
    text = candidates_csv(run, stages=STAGES)
    assert sorted(read_candidates_csv(text), key=lambda c: c.plan_id) == sorted(run, key=lambda c: c.plan_id)
    assert candidates_csv(read_candidates_csv(text), stages=STAGES) == text


@few
@given(runs, st.randoms())
def test_the_order_given_does_not_change_the_file(run: list[Candidate], random: object) -> None:
    shuffled = [*run]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert candidates_csv(shuffled, stages=STAGES) == candidates_csv(run, stages=STAGES)


@few
@given(runs)
def test_both_files_begin_with_the_columns_that_others_script_against(run: list[Candidate]) -> None:
    for text in (candidates_csv(run, stages=STAGES), frontier_csv(pareto_front(run), stages=STAGES)):
        assert text.startswith(FIRST_COLUMNS + ",")
        assert text.endswith("\n")
        assert "\r" not in text


def test_networks_stand_by_relus_descending_and_the_full_one_is_called_teacher() -> None:
    text = candidates_csv(random_run(3, size=8), stages=["S1"])
    rows = rows_of(text)
    assert rows[0]["plan_id"] == "teacher"
    relus = [int(row["relu_count"]) for row in rows]
    assert relus == sorted(relus, reverse=True)


def test_a_row_says_all_of_a_measurement_in_plain_numbers() -> None:
    plan = ReductionPlan(sites=(("layer1.relu", "identity"),), alpha=0.5)
    measured = candidate(229_376, 0.75, "cull S1, thin", plan_id="0123abcdef", val_accuracy=0.76)
    (row,) = rows_of(candidates_csv([dataclasses.replace(measured, plan=plan)], stages=["S1", "S2"]))
    assert json.loads(row.pop("plan")) == plan.to_json()
    assert row == {
        "plan_id": "0123abcdef",
        "relu_count": "229376",
        "val_accuracy": "0.760000",
        "test_accuracy": "0.750000",
        "train_seconds": "12.30",
        "label": "cull S1, thin",
        "status": "ok",
        "failure": "",
        "relus_S1": "229376",
        "relus_S2": "0",
        "macs": "1000000",
        "churn": "0.100000",
        "folder": "candidates/0123abcdef",
    }


def test_a_failure_is_a_row_with_its_reason_on_one_line_and_no_numbers() -> None:
    (row,) = rows_of(candidates_csv([failed(failure="loss is\nnan, twice")], stages=["S1"]))
    assert row["status"] == "failed"
    assert row["failure"] == "loss is nan, twice"
    assert row["relu_count"] == "1000"
    for name in ("val_accuracy", "test_accuracy", "train_seconds", "relus_S1", "macs", "churn"):
        assert row[name] == ""


def test_a_dropped_network_is_not_called_failed_and_says_why() -> None:
    dropped = dataclasses.replace(failed(failure="its draft is worse"), is_dropped=True)
    (row,) = rows_of(candidates_csv([dropped], stages=["S1"]))
    assert (row["status"], row["failure"], row["val_accuracy"]) == ("dropped", "its draft is worse", "")
    with pytest.raises(UserError, match=r"broken .* has no measurement: its draft is worse"):
        frontier_csv([dropped], stages=["S1"])


def test_a_failure_is_on_no_frontier() -> None:
    with pytest.raises(UserError, match=r"broken .* has no measurement: the loss is not finite"):
        frontier_csv([failed()], stages=["S1"])


def test_a_run_without_candidates_is_a_header() -> None:
    text = candidates_csv([], stages=["S1"])
    assert text.count("\n") == 1
    assert read_candidates_csv(text) == []


def test_relus_in_a_stage_without_a_column_are_refused() -> None:
    with pytest.raises(UserError, match="p has ReLUs in S1; the table's stages are S2"):
        candidates_csv([candidate(10, 0.5, plan_id="p")], stages=["S2"])


@few
@given(runs)
def test_a_file_that_a_spreadsheet_saved_is_read_too(run: list[Candidate]) -> None:
    text = candidates_csv(run, stages=STAGES)
    assert read_candidates_csv("\ufeff" + text.replace("\n", "\r\n")) == read_candidates_csv(text)


def edited(column: str, value: str) -> str:
    """A file of two rows, of which the second (line 3) has that cell."""
    run = [teacher(2000), candidate(1000, 0.5, plan_id="p")]
    rows = rows_of(candidates_csv(run, stages=["S1"]))
    rows[1][column] = value
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("relu_count", "1_000", "relu_count is '1_000'; give a whole number"),
        ("relu_count", "-1", "relu_count is '-1'"),
        ("relu_count", "", "relu_count is ''"),
        ("relus_S1", "1.5", "relus_S1 is '1.5'"),
        ("val_accuracy", "76.2", "val_accuracy is '76.2'; give a fraction in [0, 1], not a percentage"),
        ("test_accuracy", "nan", "test_accuracy is 'nan'; give a finite number"),
        ("train_seconds", "soon", "train_seconds is 'soon'"),
        ("status", "done", "status is 'done'; give one of ok, failed, dropped"),
        ("plan", "{", "plan is not JSON"),
        ("plan", '{"alpha": 2}', "alpha is 2"),
        ("plan", "[]", "a plan is a JSON object"),
        ("plan_id", "", "plan_id is empty"),
        ("plan_id", "teacher", "a second row for plan_id 'teacher'"),
    ],
)
def test_a_cell_that_does_not_fit_is_named_with_its_line(column: str, value: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_candidates_csv(edited(column, value))
    assert str(caught.value).startswith("candidates CSV, line 3: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the file is empty"),
        ("plan_id,relu_count\n", "line 1: the header lacks the columns val_accuracy, test_accuracy"),
        (candidates_csv([], stages=[]) + "p,1\n", "line 2: the row has 2 cells, the header"),
        (candidates_csv([], stages=[]) + '"p', "line 2: unexpected end of data"),
    ],
)
def test_a_file_of_another_form_is_named_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_candidates_csv(text)
    assert words in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_candidates_or_refused(text: str) -> None:
    for given_text in (text, candidates_csv([teacher()], stages=["S1"]) + text):
        try:
            read_candidates_csv(given_text)
        except UserError as error:
            assert "line " in str(error)


# -- the terminal's table -----------------------------------------------------------------------------------


@few
@given(runs)
def test_the_table_is_at_most_100_columns_wide_whatever_the_labels(run: list[Candidate]) -> None:
    full = next(c for c in run if c.is_teacher)
    wide = [dataclasses.replace(c, label=c.label + " cull S1 S4 S2, thin, alpha 0.5 rho 0.5" * 3) for c in run]
    table = frontier_table(pareto_front(wide), teacher=full)
    assert max(len(line) for line in table.splitlines()) <= 100


def test_the_table_says_how_much_is_saved_and_lost() -> None:
    full = teacher(200_000, 0.80)
    small = candidate(50_000, 0.7825, "cull S1", plan_id="0123abcdef", val_accuracy=0.79)
    heads, rule, *rows = frontier_table([small, full], teacher=full).splitlines()
    assert heads.split("  ")[-2:] == ["network     ".strip(), "plan_id"] or heads.split()[-2:] == [
        "network",
        "plan_id",
    ]
    assert set(rule) == {"-"}
    assert [row.split()[0] for row in rows] == ["200,000", "50,000"]
    assert rows[1].split() == ["50,000", "4.0x", "79.00", "78.25", "-1.75", "12", "cull", "S1", "0123abcdef"]
    assert rows[0].split()[-1] == "teacher"


def test_the_teacher_is_the_last_line_where_it_is_not_on_the_frontier() -> None:
    full = teacher(200_000, 0.5)
    better = candidate(50_000, 0.6, plan_id="better")
    table = frontier_table([better], teacher=full)
    assert table.splitlines()[-1].endswith("teacher")
    assert table.count("teacher") == 1 + table.splitlines()[0].count("teacher")


def test_a_network_without_relus_has_infinitely_fewer_which_is_left_out() -> None:
    full = teacher(200_000, 0.5)
    (row,) = [
        r for r in frontier_table([candidate(0, 0.3, plan_id="linear")], teacher=full).splitlines() if "linear" in r
    ]
    assert row.split()[:2] == ["0", "-"]


def test_an_unmeasured_teacher_or_candidate_has_no_table() -> None:
    with pytest.raises(UserError, match="has no measurement"):
        frontier_table([failed()], teacher=teacher())
    with pytest.raises(UserError, match="has no measurement"):
        frontier_table([], teacher=failed(TEACHER_ID))


# -- costs under secure computation -------------------------------------------------------------------------


def test_each_preset_has_its_columns_and_what_is_not_known_is_empty() -> None:
    lan, wan = random_price(1), random_price(2)
    one = priced(priced(teacher(), "delphi-wan", wan), "cheetah-lan", lan)
    run = [one, priced(candidate(1000, 0.5, plan_id="p"), "cheetah-lan", wan)]
    full, small = rows_of(candidates_csv(run, stages=["S1"]))
    for row, preset, price in ((full, "cheetah-lan", lan), (full, "delphi-wan", wan), (small, "cheetah-lan", wan)):
        found = [float(row[f"{name}_{preset}"]) for name in ("latency", "online_bytes", "offline_bytes", "rounds")]
        expected = [price.latency, price.online_bytes, price.offline_bytes, price.rounds]
        assert found == pytest.approx(expected, rel=1e-5, abs=0.5)
        assert float(row[f"offline_seconds_{preset}"]) == pytest.approx(price.offline_seconds, rel=1e-5)
    assert {row for name, row in small.items() if name.endswith("_delphi-wan")} == {""}


def test_a_file_with_costs_is_read_without_them() -> None:
    text = candidates_csv([priced(teacher(), "cheetah-lan", random_price(1))], stages=["S1"])
    assert read_candidates_csv(text) == [teacher()]


def test_the_table_leads_with_the_objective() -> None:
    objective = Objective(name="latency", preset="cheetah-lan")
    fast = CostEstimate.of([Share(kind="ReLU", compute_seconds=0.5)])
    middle = CostEstimate.of([Share(kind="ReLU", compute_seconds=1.0)])
    slow = CostEstimate.of([Share(kind="ReLU", compute_seconds=4.0)])
    full = priced(teacher(), "cheetah-lan", slow)
    # more ReLUs, and yet faster than the other one
    points = [
        priced(candidate(50_000, 0.6, plan_id="quick"), "cheetah-lan", fast),
        priced(candidate(10_000, 0.7, plan_id="tight"), "cheetah-lan", middle),
        full,
    ]
    lines = frontier_table(points, teacher=full, objective=objective).splitlines()
    assert lines[0].split()[:3] == ["latency", "less", "ReLUs"]
    assert [line.split()[:4] for line in lines[2:]] == [
        ["4", "s", "1.0x", "557,056"], ["1", "s", "4.0x", "10,000"], ["0.5", "s", "8.0x", "50,000"]
    ]  # fmt: skip
