"""A run of masked networks, some by an action that only the tests know: from its config to its files."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import deepreduce
from deepreduce.api import report_run
from deepreduce.errors import CheckpointError, RunInterrupted
from deepreduce.methods import registry
from deepreduce.methods.base import Search, SearchContext
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.proposal import Collector
from deepreduce.network import Network
from deepreduce.observers import ObservedNetwork, RunObserver
from deepreduce.plan import ReductionPlan
from deepreduce.run.result import Result
from deepreduce.transforms import apply_plan
from tests.helpers.actions import EXAMPLES, FirstChannels
from tests.helpers.independent import executed_relus
from tests.helpers.page import Parsed
from tests.helpers.runs import TINY, without_seconds

SHAPE = (1, 8, 8)
KINDS = ("channel_mask", "pixel_mask", "first_channels")


class Masks:
    """Propose a network of every kind of mask, and one of each in a network of half the channels."""

    name = "masks"
    summary = "random masks"
    Options = MethodOptions

    def search(self, network: Network, options: MethodOptions, context: SearchContext) -> Search:
        collected = Collector(network, context.estimator)
        narrow = apply_plan(network, ReductionPlan(alpha=0.5))
        for alpha, whole in ((1.0, network), (0.5, narrow)):
            for kind in KINDS:
                draw = random.Random(f"{kind} {alpha}")
                sites = tuple((site.name, EXAMPLES[kind](site, draw)) for site in whole.sites[1:])
                collected.add_plan(ReductionPlan(sites=sites, alpha=alpha), f"{kind}, alpha {alpha}")
        yield []
        return collected.proposals()


@pytest.fixture(autouse=True)
def method(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry._BUILT_IN, "masks", f"{__name__}:Masks")
    yield


def run(folder: Path, **values: Any) -> Result:
    settings = {**TINY, "method": {"name": "masks"}, "fast": {**TINY["fast"], "price": 2.0, "ease": 0.5}}
    return deepreduce.optimize(out=folder, **{**settings, **values})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._BUILT_IN, "masks", f"{__name__}:Masks")
        return run(tmp_path_factory.mktemp("masked") / "run").folder


def test_every_kind_of_mask_comes_to_the_frontiers_tables_with_what_executes(finished: Path) -> None:
    result = deepreduce.load_result(finished)
    measured = [network for network in result.candidates if network.candidate.measurement is not None]
    assert len(result.candidates) == 2 * len(KINDS) and len(measured) >= len(KINDS)
    for network in measured:
        assert sum(executed_relus(network.model, SHAPE)) == network.relu_count == network.measurement.relu_count
        assert sum(network.measurement.stage_relu_counts.values()) == network.relu_count
    assert (finished / "frontier.csv").is_file() and (finished / "layers.png").is_file()


def test_the_table_names_masks_by_their_digests_and_the_result_has_them_whole(finished: Path) -> None:
    table = (finished / "candidates.csv").read_text().splitlines()
    rows = {row["plan_id"]: row for row in csv.DictReader(table)}
    result = deepreduce.load_result(finished)
    for network in result.candidates:
        value = json.loads(rows[network.plan_id]["plan"])
        assert network.plan.is_complete and network.plan.to_json() == value and network.plan == network.candidate.plan
        assert network.plan.plan_id == network.plan_id
        digests = {name for name, action in value["sites"].items() if "digest" in action}
        assert digests == (set() if "first_channels" in network.label else value["sites"].keys())
        assert (network.folder / "masks.safetensors").is_file() == bool(digests)
        assert network.plan.mask_tensors().keys() == digests
    assert json.dumps(result.to_json())


def test_the_page_says_what_stands_at_each_site(finished: Path) -> None:
    data = Parsed(report_run(finished).read_text(encoding="utf-8")).data()
    for network in data["networks"]:
        assert sum(site[2] for site in network["sites"]) == network["relu_count"]
        words = {site[3].split()[-1] for site in network["sites"][1:] if len(site) > 3}
        assert words == (set() if network["is_teacher"] else words) and words <= {"channels", "pixels"}


def test_a_masked_network_is_exported_and_a_half_done_run_goes_on(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(finished, again)
    networks = [n for n in deepreduce.load_result(again).candidates if n.candidate.measurement is not None]
    masked, other = [n for n in networks if (n.folder / "masks.safetensors").is_file()][:2]
    report = deepreduce.export_reduced(masked.folder, to="torch-export", out=tmp_path / "network.pt2")
    assert report.relu_count == masked.relu_count
    # one network is to be trained again, the masks of another are gone
    shutil.rmtree(masked.folder)
    (other.folder / "masks.safetensors").unlink()
    for name in ("candidates.csv", "frontier.csv"):
        (again / name).unlink()
    run(again)
    for name in ("candidates.csv", "frontier.csv"):
        expected, found = ((folder / name).read_text() for folder in (finished, again))
        assert without_seconds(found) == without_seconds(expected)
    assert deepreduce.load_result(again).candidates[0].plan.is_complete
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    for network in (masked, other):
        before = deepreduce.load_reduced(finished / network.candidate.folder)
        with torch.no_grad():
            assert torch.equal(deepreduce.load_reduced(network.folder)(images), before(images))


def complete_with_stops(folder: Path, run: Callable[..., Result], labels: set[str]) -> None:
    """Run until the end, stopped twice after a single step of each network."""
    stops: Counter[str] = Counter()
    starts = 0
    while starts < 20:
        starts += 1
        try:
            run(folder, observers=[StopsOften(labels, stops)])
            break
        except RunInterrupted:
            continue
    assert stops == dict.fromkeys(labels, 2) and starts == 1 + 2 * len(labels)


class StopsOften(RunObserver):
    """Ask the process to stop after the next step of a network, until each of `labels` was stopped twice."""

    def __init__(self, labels: set[str], stops: Counter[str]) -> None:
        self.labels, self.stops = labels, stops

    def network_started(self, network: ObservedNetwork, **_: Any) -> None:
        if network.label in self.labels and self.stops[network.label] < 2:
            self.stops[network.label] += 1
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_run_stopped_after_single_steps_of_masked_networks_ends_as_if_undisturbed(
    finished: Path, tmp_path: Path
) -> None:
    complete_with_stops(tmp_path / "run", run, {f"{kind}, alpha 1.0" for kind in KINDS})
    for name in ("candidates.csv", "frontier.csv"):
        expected, found = ((folder / name).read_text() for folder in (finished, tmp_path / "run"))
        assert without_seconds(found) == without_seconds(expected)


@pytest.mark.parametrize("how", ["missing", "foreign", "corrupt", "of another writer"])
def test_masks_that_are_not_the_plans_are_refused_in_one_line(finished: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(finished, tmp_path / "run")
    networks = deepreduce.load_result(tmp_path / "run").candidates
    one, other = [n for n in networks if (n.folder / "masks.safetensors").is_file()][:2]
    path = one.folder / "masks.safetensors"
    if how == "missing":
        path.unlink()
    elif how == "foreign":
        shutil.copy(other.folder / "masks.safetensors", path)
    elif how == "corrupt":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(b"no tensors at all")
    said = {
        "missing": "can't be read",
        "foreign": "does not hold the masks of plan.json: ",
        "corrupt": "is corrupt: its checksum does not match",
        "of another writer": "can't be read",
    }
    for use in (lambda: deepreduce.load_reduced(one.folder), lambda: one.plan):
        with pytest.raises(CheckpointError, match=rf"masks\.safetensors ({said[how]})") as told:
            use()
        assert "\n" not in str(told.value)


@pytest.mark.slow
def test_masks_travel_to_worker_processes(finished: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", side_by_side=2)
    expected, found = ((folder / "candidates.csv").read_text() for folder in (finished, tmp_path / "run"))
    assert without_seconds(found) == without_seconds(expected)


def test_a_dummy_action_is_thirty_lines(caplog: pytest.LogCaptureFixture) -> None:
    import inspect

    from tests.helpers.actions import Sliced

    with caplog.at_level(logging.WARNING):
        lines = [line for part in (FirstChannels, Sliced) for line in inspect.getsource(part).splitlines() if line]
    assert len(lines) <= 30 and not caplog.records
