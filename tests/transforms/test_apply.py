"""Laws of applying a plan: pure, exact, additive, and computing what it says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from deepreduce.errors import PlanError
from deepreduce.models import ZOO, build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, ChannelMask, PixelMask, SiteAction
from deepreduce.transforms import apply_plan, cull, cull_plan, normalise_plan, reshape, reshape_plan, thin
from tests.helpers.independent import executed_macs, executed_relus
from tests.helpers.zoo import REDUCIBLE, TOYS, InPlaceShared, Overwriting, RandomNet

WIDTHS = {"wrn22_8": 2}  # its stages are 8 times as wide

FAMILIES = ("resnet18", "resnet20", "wrn22_8", "vgg16_bn", "mobilenet_v2")  # the others are deeper ResNets


def zoo_network(name: str, *, device: str = "cpu") -> Network:
    blocks = [min(2, n) for n in ZOO[name].blocks]
    spec = resolve_spec(name, num_classes=5, width=WIDTHS.get(name, 8), blocks=blocks)
    return trace_network(build_model(spec, device=device), (3, 32, 32), spec=spec)


def images_of(network: Network, *, count: int = 2) -> Tensor:
    return torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(1))


def logits_of(network: Network) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(network.as_module()).eval()(images_of(network))


def all_identity(network: Network) -> ReductionPlan:
    return ReductionPlan(sites=tuple((site.name, "identity") for site in network.sites))


# -- laws over the toys and the zoo -------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_the_empty_plan_gives_bit_equal_logits(name: str) -> None:
    network = TOYS[name].network()
    same = apply_plan(network, ReductionPlan())
    assert torch.equal(logits_of(same), logits_of(network))
    assert same.sites == network.sites
    assert same.as_module() is not network.as_module()


@pytest.mark.parametrize("name", REDUCIBLE)
def test_linearizing_any_sites_removes_exactly_their_relus(name: str) -> None:
    network = TOYS[name].network()
    for site in network.sites:
        reduced = apply_plan(network, ReductionPlan(sites=((site.name, "identity"),)))
        assert reduced.relu_count == network.relu_count - site.relu_count
        assert [s.name for s in reduced.sites] == [s.name for s in network.sites if s.name != site.name]
        assert reduced.stages == network.stages
        assert reduced.macs == network.macs


@pytest.mark.parametrize("name", REDUCIBLE)
def test_a_reduced_toy_executes_the_relus_it_counts(name: str) -> None:
    network = TOYS[name].network()
    for site in network.sites:
        reduced = apply_plan(network, ReductionPlan(sites=((site.name, "identity"),)))
        hidden = network.unsupported_elements.get("relu inside shifted_relu", 0)
        executed = executed_relus(reduced.as_module(), network.input_shape)
        assert sum(executed) - hidden == reduced.relu_count


class _Rectifying(fx.Interpreter):
    """Runs a traced original with chosen ReLU calls as the identity, in place or not as they were."""

    def __init__(self, network: Network, linear: set[str]) -> None:
        super().__init__(network.module)
        self._nodes = {site.node for site in network.sites if site.name in linear}

    def run_node(self, n: fx.Node) -> object:
        if n.name not in self._nodes:
            return super().run_node(n)
        (x,) = (self.env[source] for source in n.all_input_nodes)
        inplace = n.target in (F.relu_, "relu_") or n.kwargs.get("inplace") is True
        if n.op == "call_module":
            inplace = bool(getattr(self.fetch_attr(str(n.target)), "inplace", False))
        return x if inplace else x.clone()


@pytest.mark.parametrize("name", REDUCIBLE)
def test_a_reduced_toy_computes_the_original_with_identities(name: str) -> None:
    network = TOYS[name].network()
    network.module.eval()
    sites = [site.name for site in network.sites]
    for linear in ({sites[0]}, {sites[-1]}, set(sites[::2]), set(sites)):
        plan = ReductionPlan(sites=tuple((name, "identity") for name in linear))
        with torch.no_grad():
            expected = _Rectifying(network, linear).run(images_of(network))
        assert torch.equal(logits_of(apply_plan(network, plan)), expected)


def test_a_linearized_in_place_relu_leaves_the_tensor_that_others_read_unactivated() -> None:
    torch.manual_seed(0)
    module = InPlaceShared().eval()
    reduced = apply_plan(trace_network(module, (3, 8, 8)), ReductionPlan(sites=(("relu", "identity"),)))
    with torch.no_grad():
        images = torch.randn(2, 3, 8, 8)
        x = module.conv1(images)
        features = torch.cat([x[:, :2], x[:, :2]], dim=1) + module.conv2(x) + module.conv3(x) + x
        expected = module.fc(features.mean(dim=(2, 3)))
        assert torch.allclose(reduced.as_module().eval()(images), expected, atol=1e-6)


def test_what_overwrites_a_linearized_relus_output_leaves_its_input_alone() -> None:
    torch.manual_seed(0)
    module = Overwriting().eval()
    network = trace_network(module, (3, 8, 8))
    reduced = apply_plan(network, ReductionPlan(sites=(("relu", "identity"), ("relu#2", "identity"))))
    with torch.no_grad():
        images = torch.randn(2, 3, 8, 8)
        x = module.conv1(images)
        features = module.conv2(x + 1.0) + 2.0 * x + F.relu(x) + x
        expected = module.fc(features.mean(dim=(2, 3)))
        assert torch.allclose(reduced.as_module().eval()(images), expected, atol=1e-6)


def test_a_network_without_in_place_calls_gets_no_copies() -> None:
    reduced = apply_plan(TOYS["basic"].network(), all_identity(TOYS["basic"].network()))
    assert not any(node.target is torch.clone for node in reduced.module.graph.nodes)


@pytest.mark.parametrize("name", FAMILIES)
def test_culling_a_stage_of_the_zoo_removes_exactly_its_relus(name: str) -> None:
    network = zoo_network(name, device="meta")
    for stage, count in network.stage_relu_counts.items():
        culled = cull(network, [stage])
        assert culled.relu_count == network.relu_count - count
        assert culled.stage_relu_counts == network.stage_relu_counts | {stage: 0}
        assert sum(executed_relus(culled.as_module(), (3, 32, 32), device="meta")) == culled.relu_count


EDITS = {
    "cull": lambda network: cull(network, [network.stages[0]]),
    "thin": lambda network: thin(network),
    "alpha": lambda network: reshape(network, alpha=0.5),
    "depth": lambda network: reshape(network, depth=[1] * len(network.blocks)),
    "all": lambda network: thin(reshape(cull(network, ["S1"]), alpha=0.5)),
}


EDITED = [*(("resnet20", edit) for edit in ("cull", "thin", "alpha")),
          *((name, edit) for name in FAMILIES for edit in ("depth", "all"))]  # fmt: skip


@pytest.mark.parametrize(("name", "edit"), EDITED)
def test_an_edit_leaves_the_network_and_the_random_state_untouched(name: str, edit: str) -> None:
    network = zoo_network(name)
    before = copy.deepcopy(network.module.state_dict())
    code, state, modes = network.module.code, torch.get_rng_state(), [m.training for m in network.module.modules()]
    logits = logits_of(network)
    reduced = EDITS[edit](network)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.module.code == code
    assert [m.training for m in network.module.modules()] == modes
    after = network.module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    # nothing is shared: training the student moves no weight of the original
    with torch.no_grad():
        for parameter in reduced.module.parameters():
            parameter.zero_()
    assert torch.equal(logits_of(network), logits)


@pytest.mark.parametrize(("name", "edit"), EDITED)
def test_a_reduced_zoo_network_trains_and_executes_the_relus_it_counts(name: str, edit: str) -> None:
    reduced = EDITS[edit](zoo_network(name))
    module = reduced.as_module().train()
    logits = module(images_of(reduced))
    logits.square().sum().backward()
    assert logits.shape == (2, 5)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())
    assert sum(executed_relus(module, reduced.input_shape)) == reduced.relu_count
    assert executed_macs(module, reduced.input_shape) == reduced.macs


@pytest.mark.parametrize("name", REDUCIBLE)
def test_a_fully_linear_toy_still_trains(name: str) -> None:
    network = TOYS[name].network()
    module = apply_plan(network, all_identity(network)).as_module().train()
    module(images_of(network)).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


# -- reshaping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "wrn22_8", "mobilenet_v2"])
def test_rho_shrinks_every_feature_map(name: str) -> None:
    network = zoo_network(name, device="meta")
    halved = reshape(network, rho=0.5)
    for full, small in zip(network.sites, halved.sites, strict=True):
        channels, height, width = full.shape
        assert small.shape == (channels, height // 2, width // 2)
    assert halved.relu_count * 4 == network.relu_count
    assert sum(executed_relus(halved.as_module(), (3, 32, 32), device="meta")) == halved.relu_count
    quartered = reshape(halved, rho=0.5)
    assert quartered.relu_count == reshape(network, rho=0.25).relu_count == network.relu_count // 16


def test_rho_works_on_any_network_whose_image_meets_a_convolution() -> None:
    network = TOYS["chain"].network()
    assert reshape(network, rho=0.5).stage_relu_counts == {"S1": 5 * 4 * 4 * 4, "S2": 2 * 8 * 2 * 2}


def test_rho_that_leaves_no_room_is_refused_with_its_value() -> None:
    with pytest.raises(PlanError, match=r"rho 0.25 does not fit vgg16_bn"):
        reshape(zoo_network("vgg16_bn", device="meta"), rho=0.25)
    with pytest.raises(PlanError, match=r"rho is 0.4; .*1/2, 1/3"):
        reshape(TOYS["chain"].network(), rho=0.4)


class FunctionalStem(nn.Module):
    """The image meets a convolution that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.conv = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.relu(F.conv2d(x, self.weight)))).mean(dim=(2, 3))


class Padded(nn.Module):
    """Its first convolution is padded "same", which PyTorch allows without stride only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize("build", [FunctionalStem, Padded])
def test_rho_pools_the_image_where_no_convolution_can_stride(build: type[nn.Module]) -> None:
    network = trace_network(build(), (3, 16, 16))
    halved, quartered = reshape(network, rho=0.5), reshape(reshape(network, rho=0.5), rho=0.5)
    pooled = trace_network(nn.Sequential(nn.AvgPool2d(2), network.as_module()), (3, 16, 16))
    assert [s.relu_count for s in halved.sites] == [s.relu_count for s in pooled.sites]
    assert torch.equal(logits_of(halved), logits_of(pooled))
    assert quartered.relu_count == reshape(network, rho=0.25).relu_count < halved.relu_count
    assert sum(executed_relus(quartered.as_module(), (3, 16, 16))) == quartered.relu_count


def test_rho_of_a_network_that_names_its_resolution_is_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU())
    with pytest.raises(PlanError, match=r"rho 0.5 does not fit Sequential: .* can't take an image of 3x8x8"):
        reshape(trace_network(module, (3, 8, 8)), rho=0.5)


@pytest.mark.parametrize("name", ["resnet20", "wrn22_8", "vgg16_bn", "mobilenet_v2"])
def test_alpha_scales_relus_and_inherits_the_leading_weights(name: str) -> None:
    network = zoo_network(name)
    for buffer in network.module.buffers():  # so that inherited statistics are told from fresh ones
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    narrow = reshape(network, alpha=0.5)
    assert narrow.relu_count * 2 == network.relu_count
    original = network.module.state_dict()
    for key, value in narrow.module.state_dict().items():
        leading = original[key][tuple(slice(0, n) for n in value.shape)] if value.dim() else original[key]
        assert torch.equal(value, leading), key


def test_an_alpha_that_is_another_way_to_say_the_same_width_is_the_same_plan() -> None:
    network = zoo_network("resnet20", device="meta")
    assert normalise_plan(network, ReductionPlan(alpha=0.51)) == normalise_plan(network, ReductionPlan(alpha=0.5))
    assert normalise_plan(network, ReductionPlan(rho=0.3333333333)) == ReductionPlan(rho=1 / 3)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "mobilenet_v2"])
def test_depth_keeps_the_leading_blocks_with_their_weights(name: str) -> None:
    network = zoo_network(name)
    assert network.blocks is not None
    depth = [max(1, blocks - 1) for blocks in network.blocks]
    shallow = reshape(network, depth=depth)
    assert shallow.blocks == tuple(depth)
    kept = {site.name for site in shallow.sites}
    assert kept < {site.name for site in network.sites}
    assert shallow.relu_count == sum(site.relu_count for site in network.sites if site.name in kept)
    original = network.module.state_dict()
    for key, value in shallow.module.state_dict().items():
        assert torch.equal(value, original[key]), key


def test_sites_of_blocks_that_depth_drops_are_no_part_of_the_plan() -> None:
    network = zoo_network("resnet18", device="meta")
    culled = cull_plan(network, ["S2"])
    normal = normalise_plan(network, culled.merge(ReductionPlan(depth=(2, 1, 1, 1))))
    assert normal.linearized == ("stage2.0.relu1", "stage2.0.relu2")
    spoken_twice = ReductionPlan(sites=normal.sites, depth=(2, 1, 1, 1))
    assert normalise_plan(network, spoken_twice) == normal
    assert normalise_plan(network, ReductionPlan(depth=(2, 2, 2, 2))).is_empty


@pytest.mark.parametrize("plan", [
    reshape_plan(alpha=0.5), reshape_plan(rho=0.5), reshape_plan(depth=[1, 1, 1]),
    ReductionPlan(sites=(("stage2.0.relu1", "identity"),)),
])  # fmt: skip
def test_edits_add_up_in_any_order(plan: ReductionPlan) -> None:
    network = zoo_network("resnet20")
    culled = cull_plan(network, ["S1"])
    at_once = apply_plan(network, culled.merge(plan))
    for first, second in ((culled, plan), (plan, culled)):
        if first is plan and plan.depth is not None:
            second = cull_plan(apply_plan(network, first), ["S1"])
        one_by_one = apply_plan(apply_plan(network, first), second)
        assert one_by_one.sites == at_once.sites
        assert one_by_one.macs == at_once.macs
        assert torch.equal(logits_of(one_by_one), logits_of(at_once))


def test_an_earlier_rho_stays_when_channels_and_blocks_are_scaled() -> None:
    network = zoo_network("resnet20", device="meta")
    at_once = reshape(network, alpha=0.5, rho=0.5, depth=[1, 1, 1])
    shallow = [1, 1, 1]
    for steps in (
        [{"rho": 0.5}, {"alpha": 0.5}, {"depth": shallow}],
        [{"depth": shallow, "alpha": 0.5}, {"rho": 0.5}],
    ):
        reduced = network
        for step in steps:
            reduced = reshape(reduced, **step)  # type: ignore[arg-type]
        assert (reduced.sites, reduced.macs) == (at_once.sites, at_once.macs)


def test_shapes_that_are_not_inherited_are_drawn_from_the_seed() -> None:
    network = zoo_network("resnet20")
    torch.manual_seed(5)
    first = reshape(network, alpha=0.5, seed=3)
    torch.manual_seed(6)
    second = reshape(network, alpha=0.5, seed=3)
    assert torch.equal(logits_of(first), logits_of(second))


def test_a_plan_on_the_meta_device_counts_without_weights() -> None:
    network = zoo_network("resnet18", device="meta")
    reduced = thin(reshape(cull(network, ["S1"]), alpha=0.5, rho=0.5, depth=[2, 1, 1, 1]))
    assert all(parameter.is_meta for parameter in reduced.module.parameters())
    # one ReLU in one block of each stage, of 8, 16 and 32 channels on 8, 4 and 2 pixels squared
    assert list(reduced.stage_relu_counts.values()) == [0, 8 * 8**2, 16 * 4**2, 32 * 2**2]


# -- refusals -----------------------------------------------------------------------------------------------


def test_a_plan_that_changes_nothing_is_refused() -> None:
    network = zoo_network("resnet18", device="meta")
    with pytest.raises(PlanError, match="resnet18 is already what"):
        apply_plan(network, ReductionPlan(depth=(2, 2, 2, 2)))
    with pytest.raises(PlanError, match="drops no ReLU"):
        cull(cull(network, ["S1"]), ["S1"])
    with pytest.raises(PlanError, match="reshape nothing"):
        reshape(network)


def test_a_plan_for_sites_that_are_not_there_is_refused_with_the_nearest() -> None:
    network = zoo_network("resnet18", device="meta")
    with pytest.raises(PlanError, match=r"resnet18: unknown ReLU site 'stem.rellu'; did you mean 'stem.relu'"):
        apply_plan(network, ReductionPlan(sites=(("stem.rellu", "identity"),)))
    twice = ReductionPlan(sites=(("stem.relu", "identity"),))
    with pytest.raises(PlanError, match=r"unknown ReLU site 'stem\.relu'"):
        apply_plan(apply_plan(network, twice), twice)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (ReductionPlan(depth=(3, 2, 2, 2)), "more blocks than resnet18"),
        (ReductionPlan(depth=(1, 1)), "has 2 stages, resnet18 has 4"),
        (ReductionPlan(alpha=0.01), "of 8 stem channels gives 0"),
        (ReductionPlan(alpha=0.99), "of 8 stem channels gives 8"),
    ],
)
def test_a_size_that_the_network_can_not_have_is_refused(plan: ReductionPlan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        apply_plan(zoo_network("resnet18", device="meta"), plan)


def test_the_depth_of_a_module_that_deepreduce_did_not_build_is_refused() -> None:
    with pytest.raises(PlanError, match=r"depth works for the zoo's networks .* all other edits for any"):
        apply_plan(TOYS["basic"].network(), ReductionPlan(depth=(1,)))


# -- random networks ----------------------------------------------------------------------------------------

layers = st.tuples(
    st.sampled_from(["module", "function", "in-place", "capped", "residual", "accumulated", "linear"]),
    st.integers(1, 5),
    st.integers(1, 2),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(layers, min_size=1, max_size=5), st.data())
def test_a_random_network_counts_and_computes_what_its_plan_says(
    drawn: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    torch.manual_seed(0)
    module, shape = RandomNet(drawn).eval(), (3, 9, 7)
    network = trace_network(module, shape)
    assert [site.relu_count for site in network.sites] == executed_relus(module, shape)
    assert network.macs == executed_macs(module, shape)
    assert torch.equal(logits_of(apply_plan(network, ReductionPlan())), logits_of(network))
    linear = {site.name for site in network.sites if data.draw(st.booleans())}
    plan = ReductionPlan(sites=tuple((name, "identity") for name in linear))
    assert normalise_plan(network, plan) == plan
    reduced = apply_plan(network, plan)
    gone = sum(site.relu_count for site in network.sites if site.name in linear)
    assert reduced.relu_count == network.relu_count - gone == sum(executed_relus(reduced.as_module(), shape))
    with torch.no_grad():
        assert torch.equal(logits_of(reduced), _Rectifying(network, linear).run(images_of(network)))


# -- masks --------------------------------------------------------------------------------------------------


def first_channels(network: Network, count: int) -> dict[str, SiteAction]:
    """Channel masks that keep the first `count` channels of every site."""
    return {site.name: ChannelMask.of(torch.arange(site.shape[0]) < count) for site in network.sites}


def plan_of(actions: Mapping[str, SiteAction], **scales: Any) -> ReductionPlan:
    return ReductionPlan(sites=tuple(actions.items()), **scales)


RESHAPES: list[dict[str, Any]] = [{"alpha": 0.5}, {"rho": 0.5}, {"depth": (1, 1, 1)}, {"alpha": 0.5, "rho": 0.5}]


@pytest.mark.parametrize("scales", RESHAPES, ids=str)
@pytest.mark.parametrize("is_zoo", [True, False])
def test_masks_are_for_the_channels_and_pixels_that_a_reshape_of_the_same_plan_leaves(
    scales: dict[str, Any], is_zoo: bool
) -> None:
    network = zoo_network("resnet20") if is_zoo else TOYS["basic"].network()
    if not is_zoo and "depth" in scales:
        pytest.skip("depth is for the zoo's networks")
    reshaped = apply_plan(network, ReductionPlan(**scales))
    masks = first_channels(reshaped, 1)
    site = reshaped.sites[-1]
    masks[site.name] = PixelMask.of(torch.arange(site.elements).view(site.shape) % 3 == 0)
    at_once = apply_plan(network, plan_of(masks, **scales))
    after = apply_plan(reshaped, plan_of(masks))
    assert at_once.sites == after.sites and torch.equal(logits_of(at_once), logits_of(after))
    assert at_once.relu_count == sum(executed_relus(at_once.as_module(), network.input_shape)) < reshaped.relu_count
    plan = plan_of(masks, **scales)
    assert normalise_plan(network, plan) == normalise_plan(network, normalise_plan(network, plan))
    if "depth" not in scales:
        with pytest.raises(PlanError, match=r"is of shape .* where alpha, rho and depth are done"):
            whole = PixelMask.of(torch.rand(network.sites[0].shape) > 0.5)
            apply_plan(network, plan_of({network.sites[0].name: whole}, **scales))


def test_masks_of_blocks_that_depth_drops_are_no_part_of_the_plan() -> None:
    network = zoo_network("resnet18", device="meta")
    masks = first_channels(network, 2)
    normal = normalise_plan(network, plan_of(masks, depth=(1, 1, 1, 1)))
    left = {site.name for site in reshape(network, depth=(1, 1, 1, 1)).sites}
    assert dict(normal.sites) == {name: mask for name, mask in masks.items() if name in left}


def test_masks_can_only_shrink() -> None:
    network = zoo_network("resnet20")
    three, two = first_channels(network, 3), first_channels(network, 2)
    once = apply_plan(network, plan_of(three))
    twice = apply_plan(once, plan_of(two))
    at_once = apply_plan(network, plan_of(two))
    assert twice.relu_count == at_once.relu_count == once.relu_count * 2 / 3
    assert [s.relu_count for s in twice.sites] == [s.relu_count for s in at_once.sites]
    assert torch.equal(logits_of(twice), logits_of(at_once))
    assert cull(twice, ["S1"]).stage_relu_counts["S1"] == 0
    assert normalise_plan(once, plan_of(three)) == ReductionPlan()
    with pytest.raises(PlanError, match=r"is already what"):
        apply_plan(once, plan_of(three))
    for grown in (three, first_channels(network, 4), first_channels(network, 100)):
        with pytest.raises(PlanError, match=r"is ChannelMask\(kept=2.* already, and .* would bring ReLUs back"):
            apply_plan(twice, plan_of(grown))


@pytest.mark.parametrize(
    ("scales", "able"), [({"alpha": 0.5}, False), ({"rho": 0.5}, True), ({"depth": (1, 1, 1)}, True)]
)
def test_a_reshape_carries_channel_masks_or_is_refused(scales: dict[str, Any], able: bool) -> None:
    network = zoo_network("resnet20")
    masked = apply_plan(network, plan_of(first_channels(network, 2)))
    if not able:
        with pytest.raises(
            PlanError, match=r"alpha would change the shape of site .* give alpha and the masks in one"
        ):
            apply_plan(masked, ReductionPlan(**scales))
        return
    reshaped = apply_plan(masked, ReductionPlan(**scales))
    expected = apply_plan(apply_plan(network, ReductionPlan(**scales)), plan_of(
        {name: mask for name, mask in first_channels(network, 2).items() if name in {s.name for s in reshaped.sites}}
    ))  # fmt: skip
    assert [(s.name, s.relu_count) for s in reshaped.sites] == [(s.name, s.relu_count) for s in expected.sites]
    assert torch.equal(logits_of(reshaped), logits_of(expected))


def test_a_smaller_resolution_of_pixel_masks_is_refused_and_other_sites_may_be_culled() -> None:
    network = TOYS["basic"].network()
    (site, other, *_) = network.sites
    masked = apply_plan(network, plan_of({site.name: PixelMask.of(torch.rand(site.shape) > 0.5)}))
    with pytest.raises(PlanError, match=r"rho would change the shape of site 'relu', to which PixelMask\(kept="):
        reshape(masked, rho=0.5)
    assert apply_plan(masked, plan_of({other.name: IDENTITY})).relu_count == masked.relu_count - other.relu_count


def test_a_masked_network_has_its_linear_regions_padded_once() -> None:
    network = zoo_network("resnet20")
    masks = {n: m for n, m in first_channels(network, 2).items() if not n.startswith(("stem", "stage1"))}
    plan = plan_of(masks).merge(cull_plan(network, ["S1"])).merge(ReductionPlan(pad_once=True))
    padded = apply_plan(network, plan)
    assert padded.is_padded_once and padded.relu_count == sum(executed_relus(padded.as_module(), (3, 32, 32)))
    assert padded.relu_count == sum(2 * s.elements // s.shape[0] for s in padded.sites)


def test_a_name_that_is_no_site_is_refused_with_its_mask_too() -> None:
    network = TOYS["basic"].network()
    with pytest.raises(PlanError, match="unknown ReLU site 'rellu'; did you mean 'relu'"):
        apply_plan(network, plan_of({"rellu": ChannelMask.of([True, False])}))
