"""Collapsing changes no logit, and padding once makes whole regions collapse."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepreduce import load_reduced
from deepreduce.cost.layers import Layer
from deepreduce.errors import ModelError, PlanError
from deepreduce.export.onnx import export_network
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import apply_plan, collapse, cull, cull_plan, normalise_plan, pad_once
from tests.helpers.actions import EXAMPLES
from tests.helpers.independent import executed_macs, executed_relus
from tests.helpers.linear_nets import SIZES, Function, built, images, logits, odd_regions, randomised, regions
from tests.helpers.zoo import TOYS

drawing = settings(
    max_examples=int(os.environ.get("EXAMPLES", "25")), deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip

Drawn = list[tuple[str, dict[str, Any] | None]]


def fewest_layers(layer: Layer) -> float:
    """Every layer is free, so that as few as possible are best."""
    return 0.0


def drawn_network(drawn: Drawn, size: int) -> Network:
    try:
        network = built(drawn, size)
    except ModelError:  # nothing is left of a feature map
        assume(False)
        raise
    assume(not network.starved_layers)
    return network


def error(a: Network, b: Network) -> float:
    return float((logits(a) - logits(b)).abs().max())


def linear_calls(network: Network) -> list[str]:
    """What stands between the two ReLUs."""
    names = [node.name for node in network.module.graph.nodes]
    return names[names.index("relu1") + 1 : names.index("relu2")]


@drawing
@given(regions, st.sampled_from(SIZES), st.booleans())
def test_collapsing_changes_no_logit(drawn: Drawn, size: int, free: bool) -> None:
    network = drawn_network(drawn, size)
    collapsed = collapse(network, **({"cost": fewest_layers} if free else {})).network  # type: ignore[arg-type]
    assert error(network, collapsed) < 1e-4
    assert free or collapsed.macs <= network.macs
    assert executed_macs(collapsed.as_module(), network.input_shape) == collapsed.macs
    assert [(s.name, s.stage, s.shape) for s in collapsed.sites] == [
        (s.name, s.stage, s.shape) for s in network.sites
    ]


@drawing
@given(odd_regions, st.sampled_from(SIZES), st.booleans())
def test_collapsing_changes_no_logit_whatever_pads_runs_hooks_or_is_a_function(
    drawn: Drawn, size: int, once: bool
) -> None:
    network = drawn_network(drawn, size)
    if once:
        try:
            network = pad_once(network, cost=fewest_layers)
        except PlanError:
            pass
    assert error(network, collapse(network, cost=fewest_layers).network) < 1e-4


@drawing
@given(regions, st.sampled_from(SIZES))
def test_a_region_padded_once_becomes_one_convolution_and_no_logit_changes(drawn: Drawn, size: int) -> None:
    network = drawn_network(drawn, size)
    try:
        padded = pad_once(network, cost=fewest_layers)
    except PlanError:  # it collapses as it is, or is padding alone
        padded = network
    collapsed = collapse(padded, cost=fewest_layers).network
    assert error(padded, collapsed) < 1e-4
    calls = linear_calls(collapsed)
    is_padding = all(kind in ("pad", "dropout") for kind, _ in drawn)
    assert is_padding or len([name for name in calls if not name.startswith("pad")]) == 1, calls


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


# -- ResNet-18 ----------------------------------------------------------------------------------------------


def padded(plan: ReductionPlan) -> ReductionPlan:
    return plan.merge(ReductionPlan(pad_once=True))


def resnet18(*, device: str = "cpu", width: int = 64) -> Network:
    spec = resolve_spec("resnet18", width=width)
    module = build_model(spec, device=device)
    return trace_network(module if device == "meta" else randomised(module), (3, 32, 32), spec=spec)


@pytest.mark.parametrize("kind", ["channel_mask", "pixel_mask", "first_channels"])
def test_a_masked_site_is_not_linear_and_bounds_regions_as_a_relu_does(kind: str) -> None:
    network = TOYS["basic"].network()
    sites = {s.name: EXAMPLES[kind](s, random.Random(0)) for s in network.sites}
    masked = apply_plan(network, ReductionPlan(sites=tuple(sites.items())))
    collapsed = collapse(masked).network
    assert [(s.name, s.relu_count) for s in collapsed.sites] == [(s.name, s.relu_count) for s in masked.sites]
    assert len(collapsed.linear_layers) == len(collapse(network).network.linear_layers)
    torch.testing.assert_close(logits(collapsed), logits(masked), rtol=1e-4, atol=1e-5)


def test_the_stem_and_s1_of_resnet18_become_one_11x11_convolution_from_the_image() -> None:
    network = apply_plan(resnet18(), padded(cull_plan(resnet18(device="meta"), ["S1"])))
    collapsed = collapse(network)
    (whole, *folded) = collapsed.regions
    assert whole.outcome == "collapsed" and whole.layers_after == 1
    layer = collapsed.network.linear_layers[0]
    convolution = collapsed.network.module.get_submodule(layer.name)
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.shape == (64, 3, 11, 11) and convolution.padding == (5, 5)
    assert layer.macs == 3 * 64 * 11 * 11 * 32 * 32 == 23_789_568
    assert error(network, collapsed.network) < 1e-4
    assert all(report.outcome == "collapsed" for report in folded)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in collapsed.network.module.modules())


def test_without_padding_once_the_stem_and_s1_of_resnet18_are_refused_and_its_notes_say_why() -> None:
    network = cull(resnet18(device="meta"), ["S1"])
    collapsed = collapse(network)
    stem_and_s1 = (3 * 64 + 4 * 64 * 64) * 9 * 32 * 32
    whole = collapsed.regions[0]
    assert (whole.outcome, whole.macs_before, whole.macs_after) == ("refused", stem_and_s1, stem_and_s1)
    assert "stage1.0.conv1 pads stem.bn with zeros; train it padded once" in whole.reason
    assert any("11x11 convolution from 3 channels would differ" in note for note in collapsed.network.notes)
    assert collapsed.network.macs == network.macs


def test_a_region_that_one_convolution_would_make_more_expensive_is_left_as_it_is() -> None:
    network = cull(resnet18(device="meta"), ["S2"])
    s2 = max(collapse(network).regions, key=lambda report: report.layers_before)
    assert s2.outcome == "not cheaper" and "one 15x15 convolution from 64 channels would take" in s2.reason
    assert collapse(network).network.macs == network.macs


def test_what_s1_makes_is_chosen_by_the_cost_that_is_given() -> None:
    network = pad_once(cull(resnet18(device="meta"), ["S1"]))
    small = collapse(network, cost=lambda layer: layer.macs if max(layer.kernel) <= 3 else 1e12).network
    assert len(small.linear_layers) == len(network.linear_layers)


# -- what is exact and what is not --------------------------------------------------------------------------


class Sequence(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), *layers, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


def sequence(*layers: nn.Module) -> Network:
    return trace_network(randomised(Sequence(*layers)), (3, 8, 8))


def only(network: Network, cost: Any = fewest_layers) -> Any:
    (report,) = collapse(network, cost=cost).regions
    return report


def test_a_1x1_without_a_bias_merges_into_the_padded_convolution_behind_it() -> None:
    network = sequence(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 3, padding=1))
    assert only(network).outcome == "collapsed"
    assert error(network, collapse(network, cost=fewest_layers).network) < 1e-5


def test_a_bias_that_a_later_layer_pads_with_zeros_is_refused() -> None:
    network = sequence(nn.Conv2d(3, 4, 1, bias=True), nn.Conv2d(4, 2, 3, padding=1))
    assert only(network).outcome == "refused" and "layers.2 pads layers.1 with zeros" in only(network).reason


def test_a_batch_norm_before_a_padded_convolution_is_refused_and_one_behind_it_folded() -> None:
    before = sequence(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3, padding=1))
    assert only(before).outcome == "refused"
    behind = sequence(nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2))
    folded = collapse(behind).network
    assert [layer.name for layer in folded.linear_layers] == ["layers.1"]
    assert error(behind, folded) < 1e-5


def test_a_region_that_ends_in_one_position_is_exact_whatever_is_padded_inside() -> None:
    network = sequence(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)
    )
    collapsed = collapse(network, cost=fewest_layers)
    assert collapsed.regions[0].outcome == "collapsed"
    assert collapsed.network.module.get_submodule(collapsed.network.linear_layers[0].name).kernel_size == (8, 8)
    assert error(network, collapsed.network) < 1e-5


def test_depthwise_layers_stay_depthwise() -> None:
    network = sequence(nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, groups=3), nn.AvgPool2d(2))
    collapsed = collapse(network, cost=fewest_layers).network
    assert collapsed.module.get_submodule(collapsed.linear_layers[0].name).groups == 3
    assert error(network, collapsed) < 1e-5


def test_an_average_that_leaves_the_padding_out_is_no_convolution() -> None:
    network = sequence(nn.Conv2d(3, 4, 1), nn.AvgPool2d(3, padding=1, count_include_pad=False), nn.Conv2d(4, 2, 1))
    assert not collapse(network, cost=fewest_layers).regions


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("kernel", [2, (1, 2), 3])
def test_a_convolution_that_pads_with_anything_but_zeros_is_in_no_region(mode: str, kernel: Any) -> None:
    network = sequence(nn.Conv2d(3, 4, kernel, padding="same", padding_mode=mode), nn.BatchNorm2d(4))
    collapsed = collapse(network, cost=fewest_layers)
    assert not collapsed.regions
    assert error(network, collapsed.network) < 1e-5


def test_a_padding_mode_does_not_matter_where_nothing_is_padded() -> None:
    layers = [nn.Conv2d(3, 4, 1, padding="same", padding_mode="reflect")]
    layers.append(nn.Conv2d(4, 4, 2, padding=0, padding_mode="circular"))
    assert only(sequence(*layers)).outcome == "collapsed"


@pytest.mark.parametrize("pre", [False, True])
def test_a_layer_with_a_hook_is_in_no_region_and_its_hook_still_runs(pre: bool) -> None:
    seen: list[str] = []
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Identity(), nn.Conv2d(4, 4, 1)]
    for layer in layers[1:3]:
        if pre:
            layer.register_forward_pre_hook(lambda _, given: seen.append("ran") or (given[0] + 1,))
        else:
            layer.register_forward_hook(lambda _, given, made: seen.append("ran") or 2 * made)
    network = sequence(*layers)
    collapsed = collapse(network, cost=fewest_layers).network
    assert {"layers.2", "layers.3"} <= {str(node.target) for node in collapsed.module.graph.nodes}
    seen.clear()
    after = logits(collapsed)
    assert seen == ["ran", "ran"]
    torch.testing.assert_close(after, logits(network))


def test_functions_collapse_like_the_modules_that_call_them() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Identity(), nn.Conv2d(4, 4, 3)]
    network = sequence(*(Function(layer) for layer in layers))
    collapsed = collapse(network, cost=fewest_layers).network
    assert len(collapsed.linear_layers) == 1 and len(linear_nodes(collapsed)) == 1
    assert error(network, collapsed) < 1e-5


def linear_nodes(network: Network) -> list[str]:
    """What stands between the two ReLUs of a `sequence`, weights left out."""
    nodes = [node.name for node in network.module.graph.nodes if node.op != "get_attr"]
    places = [index for index, name in enumerate(nodes) if name in {site.node for site in network.sites}]
    return nodes[places[0] + 1 : places[1]]


def test_a_function_that_pads_what_a_layer_has_made_is_not_merged_with_it_and_not_padded_once() -> None:
    network = sequence(nn.BatchNorm2d(3), Function(nn.Conv2d(3, 4, 3, padding=1)), nn.BatchNorm2d(4))
    (report,) = collapse(network, cost=fewest_layers).regions
    assert (report.entry, report.outcome) == ("layers_1", "collapsed")  # the first batch-norm stays
    assert error(network, collapse(network, cost=fewest_layers).network) < 1e-5
    with pytest.raises(PlanError, match="no linear region that padding once would make cheaper"):
        pad_once(network, cost=fewest_layers)


def test_a_layer_that_is_called_elsewhere_too_keeps_its_padding_and_the_reason_is_told() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu1, self.relu2 = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu1(self.conv(self.conv(x)))
            return self.relu2(self.conv(x)).mean((2, 3))

    network = trace_network(Shared().eval(), (3, 8, 8))
    report = only(network)
    assert report.outcome == "refused" and "called elsewhere too" in report.reason
    with pytest.raises(PlanError, match="no linear region that padding once would make cheaper"):
        pad_once(network, cost=fewest_layers)


def test_a_tensor_that_is_overwritten_before_it_is_read_again_is_not_collapsed_over() -> None:
    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv1, self.conv2, self.relu = (
                nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.stem(x))
            y = self.conv1(x)
            x.mul_(2.0)
            return self.relu(y + self.conv2(x)).mean((2, 3))

    network = trace_network(Overwritten().eval(), (3, 8, 8))
    assert error(network, collapse(network, cost=fewest_layers).network) < 1e-6


@pytest.mark.parametrize("name", [name for name in TOYS if name not in ("own device",)])
def test_a_toy_collapses_without_a_change_of_its_logits(name: str) -> None:
    network = TOYS[name].network()
    names = [site.name for site in network.sites]
    linear = (
        apply_plan(network, ReductionPlan(sites=tuple((n, "identity") for n in names[::2]))) if names else network
    )
    for cost in (fewest_layers, lambda layer: layer.macs):
        collapsed = collapse(linear, cost=cost).network
        assert error(linear, collapsed) < 1e-4
        assert collapsed.relu_count == linear.relu_count


# -- as part of a plan --------------------------------------------------------------------------------------


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
