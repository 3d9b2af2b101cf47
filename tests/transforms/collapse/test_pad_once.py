"""Padding once at a region's entry: what it keeps, and where it is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepreduce import load_reduced
from deepreduce.errors import PlanError
from deepreduce.export.onnx import export_network
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import apply_plan, collapse, cull, cull_plan, normalise_plan, pad_once
from tests.helpers.independent import executed_relus
from tests.helpers.linear_nets import (
    SIZES,
    Drawn,
    drawing,
    drawn_network,
    error,
    fewest_layers,
    images,
    logits,
    padded,
    regions,
    resnet18,
)


@drawing
@given(regions, st.sampled_from(SIZES))
def test_padding_once_keeps_weights_sites_and_shapes_and_is_pure(drawn: Drawn, size: int) -> None:
    network = drawn_network(drawn, size)
    before, code = logits(network), network.module.code
    try:
        padded = pad_once(network, cost=fewest_layers)
    except PlanError:
        return
    assert network.module.code == code and torch.equal(logits(network), before)
    assert [site.name for site in padded.sites] == [site.name for site in network.sites]
    assert padded.stage_relu_counts == network.stage_relu_counts
    assert executed_relus(padded.as_module(), network.input_shape) == [site.relu_count for site in network.sites]
    state = padded.module.state_dict()
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in network.module.state_dict().items()
    }
    copy.deepcopy(padded.module).train()(images(network)).square().sum().backward()


@drawing
@given(regions)
def test_away_from_the_borders_padding_once_changes_nothing(drawn: Drawn) -> None:
    assume(all(kind not in ("strided", "pool") and (options or {}).get("stride", 1) == 1 for kind, options in drawn))
    network = drawn_network(drawn, 64)
    try:
        padded = pad_once(network, cost=fewest_layers)
    except PlanError:
        return
    maps = [_features(n) for n in (network, padded)]
    middle = [m[..., 28:34, 28:34] for m in maps]
    torch.testing.assert_close(*middle, rtol=1e-4, atol=1e-4)


def _features(network: Network) -> Tensor:
    seen: list[Tensor] = []
    module = copy.deepcopy(network.as_module())
    module.get_submodule("relu2").register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    with torch.no_grad():
        module(images(network))
    return seen[0]


def test_a_plan_pads_once_what_its_other_edits_leave_linear() -> None:
    network = resnet18(width=8)
    plan = padded(cull_plan(network, ["S1"]))
    assert error(apply_plan(network, plan), pad_once(cull(network, ["S1"]))) == 0
    assert apply_plan(network, plan).is_padded_once
    assert normalise_plan(network, plan) == plan


def test_padding_once_that_pads_nothing_is_left_out_of_the_plan_and_alone_refused() -> None:
    network = resnet18(device="meta")
    assert not normalise_plan(network, padded(cull_plan(network, ["S4"]))).pad_once
    with pytest.raises(PlanError, match="is already what"):
        apply_plan(network, ReductionPlan(pad_once=True))
    once = apply_plan(network, padded(cull_plan(network, ["S1"])))
    with pytest.raises(PlanError, match="is already what"):
        apply_plan(once, ReductionPlan(pad_once=True))


def test_a_network_padded_once_can_lose_more_relus_but_not_change_its_size() -> None:
    network = apply_plan(resnet18(width=8), padded(cull_plan(resnet18(width=8), ["S1"])))
    further = apply_plan(network, padded(cull_plan(network, ["S2"])))
    at_once = apply_plan(resnet18(width=8), padded(cull_plan(resnet18(width=8), ["S1", "S2"])))
    assert further.sites == at_once.sites
    assert error(further, collapse(further).network) < 1e-4
    for plan in (ReductionPlan(alpha=0.5), ReductionPlan(rho=0.5), ReductionPlan(depth=(1, 1, 1, 1))):
        with pytest.raises(PlanError, match="padded once, which fixes its size"):
            apply_plan(network, plan)


@pytest.mark.parametrize("rho", [1.0, 0.5])
def test_padding_once_goes_with_every_change_of_size(rho: float) -> None:
    network = resnet18(width=16)
    plan = cull_plan(network, ["S1"]).merge(ReductionPlan(alpha=0.5, rho=rho, depth=(1, 1, 1, 1), pad_once=True))
    reduced = apply_plan(network, plan)
    assert reduced.is_padded_once
    collapsed = collapse(reduced).network
    assert error(reduced, collapsed) < 1e-4
    if rho == 1:  # three layers of 3x3
        assert collapsed.linear_layers[0].macs == 3 * 8 * 7 * 7 * 32 * 32


def test_a_network_padded_once_is_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    network = resnet18(width=8)
    plan = padded(cull_plan(network, ["S1"]))
    student = apply_plan(network, plan)
    NetworkFolder(path=tmp_path).finish(
        weights=student.module.state_dict(),
        description=describe_network(network, student, plan, label="mine"),
        metrics={},
        history=(),
    )
    with torch.no_grad():
        assert torch.equal(load_reduced(tmp_path)(images(network)), logits(student))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torch-export", "onnx"])
@pytest.mark.parametrize("collapsed", [False, True])
def test_a_network_padded_once_is_exported_like_any_other(tmp_path: Path, to: str, collapsed: bool) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra deepreduce[export]")
    student = apply_plan(resnet18(width=8), padded(cull_plan(resnet18(width=8), ["S1"])))
    network = collapse(student).network if collapsed else student
    # it compares logits, predictions and the ReLUs counted from the file, and raises where one differs
    report = export_network(network, tmp_path / "out", to=to, images=images(network))
    assert report.relu_count == student.relu_count


def test_a_layer_that_is_called_twice_keeps_its_padding_though_that_is_behind_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 2, padding="same")
            self.relu, self.head = nn.ReLU(), nn.Conv2d(8, 2, 8)

        def forward(self, x: Tensor) -> Tensor:
            # the first call is cheaper together with the stem, and would have to be padded once
            return self.head(self.shared(self.relu(self.shared(self.stem(x))))).flatten(1)

    with pytest.raises(PlanError, match="no linear region that padding once would make cheaper"):
        pad_once(trace_network(Twice().eval(), (1, 8, 8)))
