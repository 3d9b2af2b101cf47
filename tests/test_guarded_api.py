"""Every public function that makes something of a user's module checks first that its graph is that module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepreduce
from deepreduce import api
from deepreduce.cli.main import run_command
from deepreduce.errors import NetworkGuardError
from deepreduce.network import Network, guard, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder

SHAPE = (1, 8, 8)


def small() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def data() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 3
    images = torch.randn(200, *SHAPE, generator=generator)
    return images[:150], labels[:150], images[150:], labels[150:]


@pytest.fixture
def mistraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tracer put a tanh behind the network, as a bug of it might."""

    def trace(module: nn.Module, *args: Any, **options: Any) -> Network:
        network = trace_network(module, *args, **options)
        graph = network.module.graph
        (output,) = (node for node in graph.nodes if node.op == "output")
        with graph.inserting_before(output):
            output.args = (graph.call_function(torch.tanh, output.args),)
        network.module.recompile()
        return network

    monkeypatch.setattr(guard, "trace_network", trace)
    monkeypatch.setattr(api, "trace_for_analysis", trace)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a trained network whose original was a Python module."""
    network = trace_network(small(), SHAPE)
    NetworkFolder.open(tmp_path / "teacher").finish(
        weights=network.module.state_dict(),
        description=describe_network(network, network, ReductionPlan(), label="full network"),
        metrics={},
        history=(),
    )
    return tmp_path / "teacher"


CALLS: dict[str, Callable[[Path], Any]] = {
    "trace": lambda folder: deepreduce.trace(small(), SHAPE),
    "optimize": lambda folder: deepreduce.optimize(small(), data(), out=folder.parent / "run"),
    "dry_run": lambda folder: deepreduce.dry_run(deepreduce.OptimizeConfig(), model=small(), data=data()),
    "load_reduced": lambda folder: deepreduce.load_reduced(folder, model=small()),
    "evaluate": lambda folder: deepreduce.evaluate(folder, data=data(), model=small()),
    "export_reduced": lambda folder: deepreduce.export_reduced(
        folder, to="torch-export", out=folder.parent / "file.pt2", data=data(), model=small()
    ),
    "private_run": lambda folder: deepreduce.private_run(folder, data=data(), model=small()),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("mistraced")
def test_a_graph_that_is_not_the_module_is_refused_before_anything_is_written(name: str, folder: Path) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(NetworkGuardError, match=r"Sequential.*evaluation mode"):
        CALLS[name](folder)
    assert sorted(folder.parent.rglob("*")) == before


def test_the_saved_network_loads_when_its_graph_is_the_module(folder: Path) -> None:
    images = data()[0]
    with torch.no_grad():
        assert torch.equal(deepreduce.load_reduced(folder, model=small())(images), small().eval()(images))


@pytest.mark.usefixtures("mistraced")
def test_the_analysis_says_that_its_graph_is_not_the_module() -> None:
    report = deepreduce.analyze(small(), input_size=8, in_channels=1)
    assert report.checked is not None and report.checked.failure is not None
    for text in (report.to_text(), report.to_csv(), report._repr_html_(), json.dumps(report.to_json())):
        assert "evaluation mode" in text


def test_the_analysis_says_that_its_graph_is_the_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))\n"
    )
    words = ["analyze", "--model", f"{tmp_path / 'own.py'}:net", "--input-size", "8"]
    assert run_command(words) == 0
    assert "the same logits in evaluation and training mode" in capsys.readouterr().out
    assert run_command([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["guard"]["failure"] is None


def test_a_named_network_is_analyzed_without_weights_and_its_relus_are_compared() -> None:
    report = deepreduce.analyze("resnet20")
    assert report.checked is not None and report.checked.failure is None and not report.checked.compared
    assert report.checked.relu_count == report.relu_count and "are those of the sites" in report.to_text()
