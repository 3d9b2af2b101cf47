"""The second way to follow a network for its analysis, and networks of several heads."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce import analyze
from deepreduce.config.inputs import original_network
from deepreduce.config.schema import ModelConfig
from deepreduce.data import DataFacts
from deepreduce.errors import ModelError, NetworkTraceError, PlanError
from deepreduce.network import analyze_network, trace_for_analysis, trace_network
from deepreduce.transforms import cull
from tests.helpers import zoo
from tests.helpers.independent import executed_macs, executed_relus


class Shaped(nn.Module):
    """Depends on the number of images, not on their values: no graph keeps that, torch.export follows one image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = zoo.conv(3, 4), nn.BatchNorm2d(4), nn.Linear(4, zoo.CLASSES)
        self.block = nn.Sequential(zoo.conv(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn(self.conv(x))) if x.shape[0] < 9 else self.conv(x)
        for _ in range(x.size(3) // 4):
            x = self.block(x)
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_that_depends_on_the_number_of_images_is_analyzed_through_torch_export(device: str) -> None:
    module = Shaped().to(device).train()
    network = trace_for_analysis(module, (3, 8, 8))
    assert module.training and module.bn.training
    assert [site.name for site in network.sites] == ["relu6", "block.1", "block.1#2"]
    assert [site.kind for site in network.sites] == ["relu6", "relu", "relu"]
    assert [site.relu_count for site in network.sites] == executed_relus(module, (3, 8, 8), device=device)
    assert network.macs == executed_macs(module, (3, 8, 8), device=device)
    assert network.output_shape == (zoo.CLASSES,)
    text = analyze_network(network).to_text()
    assert "Analyzed, but can't be reduced, because Shaped can't be traced at" in text
    assert "test_trace_export.py" in text and "if x.shape[0] < 9" in text


def test_reducing_it_is_refused_with_the_line() -> None:
    network = trace_for_analysis(Shaped(), (3, 8, 8))
    with pytest.raises(PlanError, match=r"can be analyzed but not reduced: .* at .*test_trace_export.py:\d+"):
        cull(network, ["S1"])
    with pytest.raises(NetworkTraceError, match=r"test_trace_export.py:"):
        original_network(ModelConfig(name="mine"), FACTS, seed=0, given=Shaped())


def test_a_network_that_depends_on_values_is_an_error_with_its_line_and_prints_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(NetworkTraceError, match=r"zoo.py:\d+ in features \(if x.mean\(\) > 0:\)"):
        analyze(zoo.Untraceable(), input_size=8)
    assert capfd.readouterr() == ("", "")


def test_what_torch_fx_follows_is_not_exported() -> None:
    assert trace_for_analysis(zoo.Chain(), (3, 8, 8)).untraceable is None


class Switching(nn.Module):
    """Does one thing in training and another in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = zoo.conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.relu(F.relu(self.conv(x)))
        return F.relu(self.conv(x))


def test_a_branch_on_the_mode_is_the_one_of_evaluation() -> None:
    assert len(trace_network(Switching().train(), (3, 8, 8)).sites) == 1


# -- several heads ------------------------------------------------------------------------------------------

FACTS = DataFacts(image_shape=(3, 8, 8), num_classes=zoo.CLASSES, train_images=1, val_images=1, test_images=1)
Pair = namedtuple("Pair", ["logits", "features"])


class Heads(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.conv, self.fc = form, zoo.conv(3, 4), nn.Linear(4, zoo.CLASSES)

    def forward(self, x: Tensor) -> object:
        x = F.relu(self.conv(x))
        logits = self.fc(x.mean(dim=(2, 3)))
        if self.form == "dict":
            return {"scores": logits, "features": x}
        return Pair(logits, x) if self.form == "named tuple" else (logits, [x])


@pytest.mark.parametrize(
    ("form", "names"),
    [("dict", ["scores", "features"]), ("named tuple", ["logits", "features"]), ("tuple", ["0", "1.0"])],
)
def test_a_network_of_several_heads_is_analyzed_and_culled_but_not_optimized(form: str, names: list[str]) -> None:
    torch.manual_seed(0)
    network = trace_network(Heads(form), (3, 8, 8))
    assert network.relu_count == 4 * zoo.FULL and network.output_shape is None
    assert dict(network.outputs) == dict(zip(names, [(zoo.CLASSES,), (4, 8, 8)], strict=True))
    assert cull(network, ["S1"]).outputs == network.outputs
    assert f"has 2 outputs ({names[0]} (3,), {names[1]} (4, 8, 8))" in analyze_network(network).to_text()
    with pytest.raises(ModelError, match=r"has 2 outputs \(.*\); wrap it in a module that returns the one"):
        original_network(ModelConfig(name="mine"), FACTS, seed=0, given=Heads(form))
