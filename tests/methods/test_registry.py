"""A method in a package of its own is found by its entry point, and runs from `optimize` to a frontier."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepreduce
from deepreduce.config.load import load_config
from deepreduce.errors import ConfigError, UserError
from deepreduce.methods.registry import facts_of, method_named, method_names
from tests.helpers.runs import TINY

METHOD = '''
from pydantic import Field
from deepreduce.methods.base import TrainingRequest
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.proposal import Collector
from deepreduce.transforms import cull_plan


class OneStageOptions(MethodOptions):
    """Which stage is culled."""

    tries: int = Field(default=2, ge=1)
    """Stages to try."""


class OneStage:
    """Train the network without each of the first stages, and propose the best of these networks."""

    name = "one-stage"
    summary = "cull the one stage that costs least accuracy"
    Options = OneStageOptions

    def search(self, network, options, context):
        collected = Collector(network, context.estimator)
        for stage in network.stages[: options.tries]:
            collected.add_plan(cull_plan(network, [stage]), f"without {stage}")
        requests = [TrainingRequest(proposal=p, epochs=1.0) for p in collected.found]
        answers = yield requests
        best = max(requests, key=lambda r: answers[r].val_accuracy or 0.0)
        for request in requests:
            if request is not best:
                collected.drop(request.proposal, "another stage costs less accuracy")
        return collected.proposals()


class Broken:
    name = "another name"


class Numbered(OneStage):
    name = "numbered"
    epochs = 200
'''
ENTRY_POINTS = """[deepreduce.methods]
one-stage = dummy_methods:OneStage
broken = dummy_methods:Broken
numbered = dummy_methods:Numbered
missing = dummy_methods:Missing
levers = dummy_methods:OneStage
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package as importlib.metadata sees it: a module, and its distribution's entry points."""
    site = tmp_path / "site"
    (site / "dummy_methods-1.0.dist-info").mkdir(parents=True)
    (site / "dummy_methods.py").write_text(METHOD)
    (site / "dummy_methods-1.0.dist-info" / "METADATA").write_text("Name: dummy-methods\nVersion: 1.0\n")
    (site / "dummy_methods-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("dummy_methods", None)


@pytest.mark.usefixtures("package")
def test_a_method_of_another_package_runs_to_a_frontier(tmp_path: Path) -> None:
    values = {**TINY, "recipe": "paper", "training": {**TINY["training"], "epochs": 2}}
    result = deepreduce.optimize(out=tmp_path / "run", **{**values, "method": {"name": "one-stage", "tries": 2}})
    assert {network.label for network in result.candidates} == {"without S1", "without S2"}
    assert len(list((tmp_path / "run" / "probes").iterdir())) == 2
    # the better one was trained for less than the full recipe, so it is trained again
    (proposed,) = (path.name for path in (tmp_path / "run" / "candidates").iterdir())
    best = max(json.loads(p.read_text())["val_accuracy"] for p in (tmp_path / "run" / "probes").rglob("metrics.json"))
    accuracies = {n.plan_id: n.measurement.val_accuracy for n in result.candidates}
    assert accuracies[proposed] >= best
    assert len(result.frontier) in (1, 2, 3)
    assert "name: one-stage" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.usefixtures("package")
def test_its_options_are_checked_like_any_key() -> None:
    with pytest.raises(ConfigError, match=r"method.tries is 0: input should be greater than or equal to 1"):
        load_config(settings=["method=one-stage", "method.tries=0"])
    with pytest.raises(ConfigError, match=r"unknown config key 'method.trise'; did you mean 'method.tries'"):
        load_config(settings=["method=one-stage", "method.trise=1"])


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"method 'broken' \(.*Broken.*\) is no method: it lacks summary, Options, search"),
        ("numbered", r"method 'numbered' has epochs = 200; give a short text, or leave it out"),
        ("missing", r"method 'missing' \(dummy_methods:Missing\) can't be used: AttributeError"),
        ("one-stag", "unknown method 'one-stag'; did you mean 'one-stage'"),
    ],
)
def test_what_is_no_method_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method_named(name)


@pytest.mark.usefixtures("package")
def test_no_package_takes_the_name_of_a_built_in_method() -> None:
    assert method_named("levers").summary != method_named("one-stage").summary
    assert set(method_names()[:4]) >= {"deepreduce", "levers"}


@pytest.mark.usefixtures("package")
def test_a_method_need_not_say_its_paper() -> None:
    assert facts_of(method_named("one-stage")) == {}
    assert facts_of(method_named("deepreduce")).keys() == {"paper", "unit", "epochs"}
