"""What a run hands back: shown, turned into a data frame, and read back from its folder."""

from __future__ import annotations

import csv
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import deepreduce
from deepreduce.errors import CheckpointError, UserError
from tests.helpers.runs import TINY


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> deepreduce.Result:
    fewer = ["data.train_limit=100", "training.epochs=1", "method.alphas=1.0"]
    return deepreduce.optimize(out=tmp_path_factory.mktemp("run") / "tiny", settings=fewer, **TINY)


# -- read back ------------------------------------------------------------------------------------------------


def test_a_finished_run_reads_back_as_the_result_it_was(finished: deepreduce.Result) -> None:
    again = deepreduce.load_result(finished.folder)
    assert again.folder == finished.folder and again.criticality == finished.criticality
    assert again.teacher.candidate == finished.teacher.candidate
    assert {n.plan_id: n.candidate for n in again.candidates} == {n.plan_id: n.candidate for n in finished.candidates}
    assert [n.plan_id for n in again.frontier] == [n.plan_id for n in finished.frontier]
    assert again.knee.plan_id == finished.knee.plan_id
    assert again.table() == finished.table() and again.summary() == finished.summary()


def test_a_network_of_a_run_read_back_computes_the_same(finished: deepreduce.Result) -> None:
    import torch

    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mine = finished.knee
    again = next(n for n in deepreduce.load_result(str(finished.folder)) if n.plan_id == mine.plan_id)
    with torch.no_grad():
        assert torch.equal(again.model(images), mine.model(images))


def test_a_folder_without_a_run_is_refused_in_one_line(finished: deepreduce.Result, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", finished.teacher.folder):
        with pytest.raises(UserError, match=r"holds no run .*; give the folder that optimize wrote to"):
            deepreduce.load_result(folder)


def test_a_run_that_is_not_finished_says_how_to_go_on(finished: deepreduce.Result, tmp_path: Path) -> None:
    shutil.copy(finished.folder / "candidates.csv", tmp_path)
    with pytest.raises(UserError, match=r"not finished .*give its command again"):
        deepreduce.load_result(tmp_path)


def test_a_corrupt_criticality_is_named(finished: deepreduce.Result, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    for content in ("[]", '{"criticality": {"S1": "much"}}', "{"):
        (copy / "criticality.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"criticality\.json"):
            deepreduce.load_result(copy)
    (copy / "criticality.json").unlink()  # of a run whose cull order was given
    assert deepreduce.load_result(copy).criticality == {}


# -- shown ----------------------------------------------------------------------------------------------------


def test_a_notebook_shows_the_frontier_as_a_table_and_a_plot(finished: deepreduce.Result) -> None:
    shown = finished._repr_html_()
    networks = {*finished.frontier, finished.teacher}
    assert shown.count("<tr>") == 1 + len(networks)
    for network in networks:
        assert f">{network.plan_id}</td>" in shown and f">{network.relu_count:,}</td>" in shown
        assert f">{100 * network.test_accuracy:.2f}</td>" in shown
    assert ">resnet20 on digits<" in shown
    assert len(re.findall(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+"', shown)) == 1


def test_a_result_is_shown_when_its_folder_is_gone(finished: deepreduce.Result, tmp_path: Path) -> None:
    orphan = replace(finished, folder=tmp_path / "gone<b>")
    assert "gone&lt;b&gt;" in orphan._repr_html_() and "gone<b>" not in orphan._repr_html_()


def test_results_and_networks_are_told_in_a_line(finished: deepreduce.Result) -> None:
    front = len(finished.frontier)
    assert (
        repr(finished)
        == f"Result({finished.folder}: {len(finished.candidates)} networks, {front} points on the frontier)"
    )
    network = finished.candidates[0]
    told = f"{network.relu_count:,} ReLUs, val {100 * network.val_accuracy:.2f} %"
    assert told in repr(network) and told in network._repr_html_()
    assert "\n" not in repr(network) and str(network.folder) in repr(network)


def test_a_network_that_failed_says_why(finished: deepreduce.Result) -> None:
    network = finished.candidates[0]
    failed = replace(network, candidate=replace(network.candidate, measurement=None, failure="loss < 0"))
    assert "failed: loss < 0" in repr(failed)
    assert "failed: loss &lt; 0" in failed._repr_html_()


def test_a_network_that_was_dropped_says_why_and_counts_apart_from_those_that_failed(
    finished: deepreduce.Result,
) -> None:
    first, second, *others = finished.candidates
    dropped = replace(
        first, candidate=replace(first.candidate, measurement=None, failure="worse < better", is_dropped=True)
    )
    failed = replace(second, candidate=replace(second.candidate, measurement=None, failure="it burnt"))
    assert "dropped: worse < better" in repr(dropped) and "failed" not in repr(dropped)
    assert "dropped: worse &lt; better" in dropped._repr_html_()
    with pytest.raises(UserError, match="has no measurement: worse < better"):
        dropped.measurement  # noqa: B018
    count = len(finished.candidates)
    for networks, told in (
        (
            (dropped, failed, *others),
            f"1 of {count} networks failed; 1 of {count} networks were dropped, since others",
        ),
        (
            (dropped, second, *others),
            f"1 of {count} networks were dropped, since others are better. candidates.csv says",
        ),
        ((first, failed, *others), f"1 of {count} networks failed. candidates.csv says why."),
    ):
        assert replace(finished, candidates=networks).summary().startswith(told)
    assert "failed" not in finished.summary() and "dropped" not in finished.summary()


def test_plain_values_tell_a_dropped_network_from_a_failed_one(finished: deepreduce.Result) -> None:
    first, second, *_ = finished.candidates
    dropped = replace(first.candidate, measurement=None, failure="worse", is_dropped=True)
    failed = replace(second.candidate, measurement=None, failure="it burnt")
    networks = (replace(first, candidate=dropped), replace(second, candidate=failed))
    told = replace(finished, candidates=networks).to_json()["candidates"]
    assert [(c["failure"], c["is_dropped"]) for c in told[1:]] == [("worse", True), ("it burnt", False)]


# -- pandas ---------------------------------------------------------------------------------------------------


def test_a_data_frame_has_the_rows_and_columns_of_candidates_csv(finished: deepreduce.Result) -> None:
    pytest.importorskip("pandas")
    frame = finished.to_pandas()
    with open(finished.folder / "candidates.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(frame.columns) == list(rows[0])
    assert list(frame["plan_id"]) == [row["plan_id"] for row in rows]
    assert list(frame["plan"]) == [row["plan"] for row in rows]
    assert list(frame["relu_count"]) == [int(row["relu_count"]) for row in rows]
    assert list(frame["test_accuracy"]) == [float(row["test_accuracy"]) for row in rows]
    assert frame["failure"].isna().all()


def test_a_plan_id_of_digits_stays_a_text_and_a_failed_network_has_no_accuracy(finished: deepreduce.Result) -> None:
    pandas = pytest.importorskip("pandas")
    first = finished.candidates[0]
    odd = replace(first.candidate, plan_id="0012345678", label="null", measurement=None, failure="it burnt")
    frame = replace(finished, candidates=(replace(first, candidate=odd),)).to_pandas().set_index("plan_id")
    row = frame.loc["0012345678"]
    assert row["label"] == "null" and row["status"] == "failed" and row["failure"] == "it burnt"
    assert pandas.isna(row["test_accuracy"])


def test_without_pandas_the_extra_is_named(finished: deepreduce.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install 'deepreduce\[notebook\]'"):
        finished.to_pandas()
