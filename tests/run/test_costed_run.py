"""A run for low latency, from config to plots, and one whose networks 'deepreduce private run' has measured."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import deepreduce
from deepreduce.api import redraw
from deepreduce.cli.main import run_command
from deepreduce.cli.outcome import MISTAKE
from deepreduce.cost.layers import KINDS
from deepreduce.cost.link import LINKS
from deepreduce.cost.model import CostModel, Phase
from deepreduce.cost.preset import preset_named, save_calibration
from deepreduce.errors import CheckpointError, UserError
from deepreduce.private.result import cost_of_run
from deepreduce.run.page import page_contents
from deepreduce.run.read import read_run
from deepreduce.store.config_file import text_digest
from deepreduce.store.names import private_run
from deepreduce.transforms.collapse.costs import estimate_costs
from deepreduce.utils.records import write_record
from tests.helpers.records import change_record, changed
from tests.helpers.runs import TINY

COST = {"objective": "latency", "protocol": "delphi", "presets": ["cheetah-wan"], "networks": 5}
METHOD = {"name": "deepreduce", "alphas": [1.0, 0.5], "rhos": [1.0], "cull_order": ["S1"]}


def optimized(folder: Path, **cost: Any) -> deepreduce.Result:
    values = {**TINY, "method": METHOD, "cost": {**COST, **cost}}
    fewer = ["data.train_limit=100", "training.epochs=1"]
    return deepreduce.optimize(out=folder, settings=fewer, **values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> deepreduce.Result:
    return optimized(tmp_path_factory.mktemp("run") / "quick")


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_network_has_its_costs_under_every_preset_in_the_table(finished: deepreduce.Result) -> None:
    teacher = deepreduce.load_result(finished.folder).teacher
    original = deepreduce.trace(teacher.model, (1, 8, 8))
    assert original.relu_count == teacher.relu_count
    rows = {row["plan_id"]: row for row in table(finished.folder / "candidates.csv")}
    assert 1 < len(rows) <= 1 + 5
    presets = [preset_named(name) for name in ("delphi-lan", "cheetah-wan")]
    for network in [finished.teacher, *finished.candidates]:
        costs = estimate_costs(deepreduce.trace(network.model, (1, 8, 8)), presets)
        for name, estimate in costs.items():
            assert float(rows[network.plan_id][f"latency_{name}"]) == pytest.approx(estimate.latency, rel=1e-5)
            assert float(rows[network.plan_id][f"online_bytes_{name}"]) == pytest.approx(estimate.online_bytes, abs=1)


def test_probes_that_are_candidates_keep_their_costs(tmp_path: Path) -> None:
    values = {**TINY, "method": {"alphas": [1.0], "rhos": [1.0]}, "cost": {**COST, "networks": 2}}
    result = deepreduce.optimize(out=tmp_path / "run", settings=["data.train_limit=100"], **values)
    probes = [n.plan_id for n in result.candidates if n.folder.parent.name == "probes"]
    assert probes
    kept = {c.plan_id: set(c.cost_estimates) for c in read_run(result.folder)}
    assert all(kept[name] == {"delphi-lan", "cheetah-wan"} for name in (*probes, *kept))
    again = deepreduce.load_result(result.folder)
    assert {n.plan_id for n in again.frontier} == {n.plan_id for n in result.frontier}


def test_the_frontier_is_that_of_latency(finished: deepreduce.Result) -> None:
    rows = [r for r in table(finished.folder / "candidates.csv") if r["status"] == "ok"]
    points = [(float(r["latency_delphi-lan"]), float(r["val_accuracy"]), r["plan_id"]) for r in rows]
    front = {
        name
        for cost, accuracy, name in points
        if not any((c <= cost and a >= accuracy) and (c, a) != (cost, accuracy) for c, a, _ in points)
    }
    assert {n.plan_id for n in finished.frontier} == front
    listed = {row["plan_id"] for row in table(finished.folder / "frontier.csv")}
    assert listed == front | {"teacher"}
    assert finished.table().splitlines()[0].split()[:3] == ["latency", "less", "ReLUs"]


def test_the_best_within_a_latency(finished: deepreduce.Result) -> None:
    cheapest = min(finished.frontier, key=lambda n: n.cost_estimates["delphi-lan"].latency)
    budget = cheapest.cost_estimates["delphi-lan"].latency
    assert finished.best(max_cost=budget).plan_id == cheapest.plan_id
    with pytest.raises(UserError, match="no candidate has at most"):
        finished.best(max_cost=budget / 2)


def test_a_run_reads_back_with_its_objective_and_costs(finished: deepreduce.Result) -> None:
    again = deepreduce.load_result(finished.folder)
    assert again.objective == finished.objective and again.table() == finished.table()
    assert [n.cost_estimates for n in again.candidates] == [
        {p: finished_by_id(finished)[n.plan_id].cost_estimates[p] for p in n.cost_estimates} for n in again.candidates
    ]
    told = json.loads(json.dumps(again.to_json()))
    assert told["objective"] == {"name": "latency", "preset": "delphi-lan"}
    assert {"latency", "online_bytes", "rounds", "shares"} <= set(told["candidates"][0]["prices"]["cheetah-wan"])


def finished_by_id(result: deepreduce.Result) -> dict[str, deepreduce.ReducedNetwork]:
    return {n.plan_id: n for n in result.candidates}


def test_there_is_a_plot_of_where_it_goes_under_each_preset(finished: deepreduce.Result) -> None:
    assert {p.name for p in finished.folder.glob("costs-*.png")} == {"costs-delphi-lan.png", "costs-cheetah-wan.png"}
    assert "costs-delphi-lan.png" in finished.summary()


def test_a_dry_run_lists_the_networks_of_the_run_by_their_cost(finished: deepreduce.Result) -> None:
    config = deepreduce.load_config(finished.folder / "config.yaml")
    planned = deepreduce.dry_run(config)
    assert {p.plan_id for p in planned.schedule.candidates} == {n.plan_id for n in finished.candidates}
    lines = planned.to_text().splitlines()
    assert lines[2].split() == ["network", "ReLUs", "fewer", "delphi-lan", "cheetah-wan", "less", "plan_id"]
    told = planned.to_json()["candidates"]
    assert all(c["costs"]["delphi-lan"]["latency"] > 0 and c["costs"]["cheetah-wan"]["bytes"] > 0 for c in told)


def test_a_run_tries_no_network_over_the_highest_cost(finished: deepreduce.Result) -> None:
    config = deepreduce.load_config(finished.folder / "config.yaml")
    costs = sorted(c.cost_estimates["delphi-lan"].latency for c in finished.candidates)
    limited = deepreduce.dry_run(
        deepreduce.load_config(values=config.model_dump(), settings=[f"max_cost={costs[1]}"])
    )
    assert limited.schedule.candidates
    assert all(c.cost_estimates["delphi-lan"].latency <= costs[1] for c in limited.schedule.candidates)


def test_a_dry_run_says_what_its_costs_are_of_and_names_the_dealer() -> None:
    values = {**TINY, "method": METHOD, "cost": {**COST, "presets": ["semi2k-wan"]}}
    lines = deepreduce.dry_run(deepreduce.load_config(values=values)).to_text().splitlines()
    assert "delphi-lan: one image, delphi over lan (estimated)." in lines
    assert "semi2k-wan: one image, semi2k over wan (trusted dealer, a cost reference; estimated)." in lines


def test_other_presets_may_be_asked_for_when_a_run_goes_on_but_no_other_objective(
    finished: deepreduce.Result, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    again = optimized(folder, presets=["semi2k-lan"])
    assert set(again.teacher.cost_estimates) == {"delphi-lan", "semi2k-lan"}
    assert [n.plan_id for n in again.candidates] == [n.plan_id for n in finished.candidates]
    with pytest.raises(UserError, match=r"cost\.protocol"):
        optimized(folder, protocol="cheetah")


def test_a_run_goes_on_with_the_model_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the user has calibrated anew: other estimates would choose other networks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def calibrate(seconds: float) -> None:
        phase = Phase(seconds={"comparisons": seconds})
        model = CostModel(name="mine-cheetah", source="test", online=phase)
        save_calibration("mine-cheetah", {"model": model.to_json(), "verdicts": []})

    calibrate(1e-6)
    first = optimized(tmp_path / "run", protocol="mine-cheetah", presets=[], networks=2)
    calibrate(5.0)
    again = optimized(tmp_path / "run", protocol="mine-cheetah", presets=[], networks=2)
    assert again.teacher.cost_estimates == first.teacher.cost_estimates
    fresh = estimate_costs(deepreduce.trace(first.teacher.model, (1, 8, 8)), [preset_named("mine-cheetah-lan")])
    assert fresh["mine-cheetah-lan"].latency == pytest.approx(
        5e6 * first.teacher.cost_estimates["mine-cheetah-lan"].latency
    )


# -- other axes, and what was measured ------------------------------------------------------------------------

RUN = {
    "seconds": {"median": 1.5},
    "bytes": 6e8 + 800,
    "serial_bytes": 3e8 + 400,
    "messages": 22,
    "layers": [
        {"kind": "convolution", "seconds": {"median": 0.9}, "serial_bytes": 400, "bytes": 800, "messages": 2},
        {"kind": "relu", "seconds": {"median": 0.25}, "serial_bytes": 3e8, "bytes": 6e8, "messages": 20},
        {"kind": "avg_pool", "seconds": {"median": 0.1}, "serial_bytes": 0, "bytes": 0, "messages": 0},
    ],
}
"""The part of a result of 'deepreduce private run' that costs are made of."""


@pytest.fixture
def measured(finished: deepreduce.Result, tmp_path: Path) -> deepreduce.Result:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    for network in [finished.teacher, finished.candidates[0]]:
        write_record((folder / network.candidate.folder / private_run("cheetah")), RUN)
    return deepreduce.load_result(folder)


def test_a_measured_network_has_its_costs_over_every_link(measured: deepreduce.Result) -> None:
    assert set(measured.teacher.cost_estimates) == {
        "delphi-lan", "cheetah-wan", *(f"measured-cheetah-{link}" for link in LINKS)
    }  # fmt: skip
    loopback, lan = (measured.teacher.cost_estimates[f"measured-cheetah-{link}"] for link in ("loopback", "lan"))
    assert loopback.latency == pytest.approx(1.5)
    # 3 Gbps and 0.15 ms one way
    assert lan.latency == pytest.approx(1.5 + 8 * (3e8 + 400) / 3e9 + 22 * 0.15e-3)
    assert lan.online_bytes == pytest.approx(6e8 + 800) and lan.rounds == 11
    shares = {share.kind: share.compute_seconds for share in loopback.shares}
    assert shares == {"linear": pytest.approx(0.9), "ReLU": pytest.approx(0.25), "other": pytest.approx(0.35)}


def test_queries_of_several_images_are_a_cost_of_their_own(measured: deepreduce.Result) -> None:
    place = measured.folder / measured.teacher.candidate.folder
    write_record(place / private_run("cheetah", 4), {**RUN, "batch": 4})
    found = deepreduce.load_result(measured.folder).teacher.cost_estimates
    assert found["measured-cheetah-loopback"].latency == pytest.approx(1.5)
    assert found["measured-cheetah-x4-loopback"].latency == pytest.approx(1.5 / 4)
    write_record(place / private_run("cheetah", 2), {**RUN, "batch": 4})
    with pytest.raises(CheckpointError, match=r"it holds queries of 4 images, and its name says 2; remove the file"):
        deepreduce.load_result(measured.folder)


def test_the_frontier_is_drawn_by_another_cost_and_by_measurements(measured: deepreduce.Result) -> None:
    before = (measured.folder / "frontier.svg").read_bytes()
    assert redraw(measured.folder)[0].exists() and (measured.folder / "frontier.svg").read_bytes() == before
    for options in ({"objective": "relus"}, {"preset": "cheetah-wan"}, {"objective": "bytes"}):
        redraw(measured.folder, **options)
        assert (measured.folder / "frontier.svg").read_bytes() != before
    written = redraw(measured.folder, preset="measured-cheetah-wan")
    assert measured.folder / "costs-measured-cheetah-wan.png" in written


def test_the_page_offers_every_cost_that_is_known(measured: deepreduce.Result) -> None:
    data = page_contents(measured.folder, title="measured", objective=measured.objective).to_json()
    assert data["axis"] == "latency delphi-lan"
    keys = {axis["key"] for axis in data["axes"]}
    assert keys == {"relus"} | {
        f"{name} {preset}" for name in ("latency", "bytes") for preset in measured.teacher.cost_estimates
    }
    by_key = {axis["key"]: axis for axis in data["axes"]}
    assert set(by_key["latency delphi-lan"]["front"]) == {n.plan_id for n in measured.frontier}
    assert "measured" in by_key["latency measured-cheetah-loopback"]["title"]
    # two networks of the same measured cost: the front is the more accurate one
    assert len(by_key["latency measured-cheetah-lan"]["front"]) == 1


def test_a_preset_that_is_not_known_is_refused(
    measured: deepreduce.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["plot", str(measured.folder), "--preset", "cheetah-lan"]) == MISTAKE
    assert "unknown preset of this run 'cheetah-lan'; did you mean 'cheetah-wan'" in capsys.readouterr().err
    assert run_command(["plot", str(measured.folder), "--objective", "relus", "--preset", "cheetah-wan"]) == MISTAKE
    assert "relus is a cost under no protocol" in capsys.readouterr().err


def test_a_run_without_costs_says_how_to_get_some(finished: deepreduce.Result, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "costs.json").unlink()
    text = (folder / "config.yaml").read_text()
    without = text.replace("objective: latency", "objective: relus").replace("protocol: delphi", "protocol: null")
    (folder / "config.yaml").write_text(without)
    change_record(folder / "environment.json", changed(config=text_digest(without)))
    assert all(not c.cost_estimates for c in read_run(folder))
    with pytest.raises(UserError, match=r"no known costs but their ReLUs; .*--preset cheetah-lan"):
        redraw(folder, objective="latency")


def test_a_corrupt_measurement_is_named(measured: deepreduce.Result) -> None:
    path = measured.folder / "teacher" / private_run("cheetah")
    path.write_text(path.read_text().replace("0.9", "0.8"))
    with pytest.raises(CheckpointError, match=r"private-cheetah\.json was changed .*; remove the file, or"):
        read_run(measured.folder)
    totals = {name: RUN[name] for name in ("seconds", "serial_bytes", "bytes", "messages")}
    for content in ({"layers": [{}]}, {**RUN, "bytes": 10**400}, {**RUN, "messages": -1}, {**totals, "layers": 3}):
        write_record(path, content)
        with pytest.raises(CheckpointError, match=r"cheetah\.json: this is no result .*measure again") as caught:
            read_run(measured.folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_of_a_measurement_has_its_place(kind: str) -> None:
    layer = {"kind": kind, "seconds": {"median": 0.5}, "serial_bytes": 8, "bytes": 16, "messages": 2}
    totals = {"seconds": {"median": 0.75}, "serial_bytes": 8, "bytes": 16, "messages": 2}
    cost = cost_of_run({**totals, "layers": [layer]}, LINKS["loopback"])
    assert cost.latency == pytest.approx(0.75) and (cost.bytes, cost.rounds) == (16, 1)


def test_a_measurement_costs_what_a_query_did_though_its_layers_add_up_to_something_else() -> None:
    """A refill of oblivious transfers comes in another layer each time, and is in no layer's median."""
    layer = {"kind": "relu", "seconds": {"median": 0.5}, "serial_bytes": 50, "bytes": 100, "messages": 10}
    run = {"seconds": {"median": 0.9}, "serial_bytes": 130, "bytes": 260, "messages": 2_020, "layers": [layer, layer]}
    cost = cost_of_run(run, LINKS["wan"])
    assert cost.latency == pytest.approx(0.9 + 8 * 130 / 400e6 + 2_020 * 0.02)
    assert cost.bytes == 260 and cost.rounds == 1_010
    shares = {share.kind: share for share in cost.shares}
    # the layers' medians come to more seconds than a query's, and to fewer messages and bytes
    assert shares["ReLU"].compute_seconds == pytest.approx(0.9) and shares["other"].compute_seconds == 0
    assert shares["ReLU"].rounds == 10 and shares["other"].rounds == 1_000
    assert all(amount >= 0 for amounts in cost.to_json().values() for amount in amounts.values())
