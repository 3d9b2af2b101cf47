"""What culling and thinning drop, block by block."""

from __future__ import annotations

import pytest

from deepreduce.errors import PlanError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import THIN_KEEP, cull, cull_plan, reshape_plan, thin, thin_plan
from tests.helpers.zoo import FULL, HALF, TOYS


def zoo_network(name: str) -> Network:
    spec = resolve_spec(name)
    return trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)


# ReLUs per stage after thinning: the stem, and one ReLU of each block
THINNED = {
    ("basic", "first"): {"S1": (1 + 2) * 4 * FULL, "S2": 2 * 8 * HALF},
    ("basic", "last"): {"S1": (1 + 2) * 4 * FULL, "S2": 2 * 8 * HALF},
    # the first two of three are half as wide as the last
    ("bottleneck", "first"): {"S1": (4 + 2 * 2) * FULL, "S2": 2 * 4 * HALF},
    ("bottleneck", "last"): {"S1": (4 + 2 * 4) * FULL, "S2": 2 * 8 * HALF},
    ("inverted", "first"): {"S1": (4 + 2 * 8) * FULL, "S2": (8 + 16) * HALF},
    ("inverted", "last"): {"S1": (4 + 2 * 8) * FULL, "S2": (8 + 16) * HALF},
    # the third block's first ReLU sees its input's 4 channels
    ("pre-activation", "first"): {"S1": (1 + 2) * 4 * FULL, "S2": (4 + 8) * HALF},
    ("pre-activation", "last"): {"S1": (1 + 2) * 4 * FULL, "S2": (8 + 8) * HALF},
    # of five the first, third, fifth; of two one
    ("chain", "first"): {"S1": 3 * 4 * FULL, "S2": 8 * HALF},
    ("chain", "last"): {"S1": 3 * 4 * FULL, "S2": 8 * HALF},
}


@pytest.mark.parametrize(("name", "keep"), THINNED)
def test_thinning_keeps_one_relu_of_each_block(name: str, keep: str) -> None:
    thinned = thin(TOYS[name].network(), keep=keep)
    assert thinned.stage_relu_counts == THINNED[name, keep]


@pytest.mark.parametrize(
    ("name", "keep", "kept"),
    [
        ("basic", "first", ["relu", "blocks.0.relu1", "blocks.1.relu1", "blocks.2.relu1", "blocks.3.relu1"]),
        ("basic", "last", ["relu", "blocks.0.relu2", "blocks.1.relu2", "blocks.2.relu2", "blocks.3.relu2"]),
        ("bottleneck", "first", ["relu"] + [f"blocks.{n}.relu" for n in range(4)]),
        ("bottleneck", "last", ["relu"] + [f"blocks.{n}.relu#3" for n in range(4)]),
        ("inverted", "first", ["relu"] + [f"blocks.{n}.layers.1" for n in range(4)]),
        ("inverted", "last", ["relu"] + [f"blocks.{n}.layers.3" for n in range(4)]),
        ("chain", "first", [f"layers.{n}" for n in (1, 5, 9, 11)]),
        ("chain", "last", [f"layers.{n}" for n in (1, 5, 9, 13)]),
    ],
)
def test_the_relu_that_thinning_keeps_is_the_one_asked_for(name: str, keep: str, kept: list[str]) -> None:
    assert [site.name for site in thin(TOYS[name].network(), keep=keep).sites] == kept


@pytest.mark.parametrize(
    ("name", "keep", "counts"),
    [
        ("resnet18", "first", [(1 + 2) * 64 * 32**2, 2 * 128 * 16**2, 2 * 256 * 8**2, 2 * 512 * 4**2]),
        ("resnet20", "last", [(1 + 3) * 16 * 32**2, 3 * 32 * 16**2, 3 * 64 * 8**2]),
        ("vgg16_bn", "first", [64 * 32**2, 128 * 16**2, 2 * 256 * 8**2, 2 * 512 * 4**2, 2 * 512 * 2**2]),
        # the first ReLU of a stage's first block sees the map before the stride; the last belongs to the head
        ("wrn22_8", "first", [(16 + 2 * 128) * 32**2, (128 * 32**2 + 2 * 256 * 16**2),
                              (256 * 16**2 + 2 * 512 * 8**2 + 512 * 8**2)]),
        ("wrn22_8", "last", [3 * 128 * 32**2, 3 * 256 * 16**2, (3 + 1) * 512 * 8**2]),
        # stem 32; the block without expansion has one ReLU of 32; expansions of 6 times the block's input channels.
        # keep last: a depthwise convolution's ReLU comes after the stride; the head's 1,280 channels stay
        ("mobilenet_v2", "last", [(32 + 32 + 96 + 144) * 32**2, (144 + 2 * 192) * 16**2,
                                  (192 + 3 * 384 + 384 + 2 * 576) * 8**2,
                                  (576 + 2 * 960 + 960 + 1280) * 4**2]),
    ],
)  # fmt: skip
def test_thinning_a_zoo_network_keeps_one_relu_of_each_block(name: str, keep: str, counts: list[int]) -> None:
    assert list(thin(zoo_network(name), keep=keep).stage_relu_counts.values()) == counts


def test_thinning_chosen_stages_leaves_the_others_alone() -> None:
    network = TOYS["basic"].network()
    thinned = thin(network, stages=["S2"])
    assert thinned.stage_relu_counts == {"S1": network.stage_relu_counts["S1"], "S2": 2 * 8 * HALF}


def test_keeping_the_first_and_keeping_the_last_share_only_what_has_no_neighbour() -> None:
    network = TOYS["basic"].network()
    first, last = (thin_plan(network, keep=keep).linearized for keep in THIN_KEEP)
    assert not set(first) & set(last)
    assert set(first) | set(last) == {site.name for site in network.sites} - {"relu"}


def test_a_thinned_network_thinned_again_alternates_what_is_left() -> None:
    twice = thin(thin(TOYS["basic"].network(), stages=["S2"]), stages=["S2"])
    assert [site.name for site in twice.sites_of("S2")] == ["blocks.2.relu1"]


def test_culling_several_stages_is_culling_each() -> None:
    network = zoo_network("resnet18")
    at_once = cull_plan(network, ["S1", "S4"])
    assert at_once == cull_plan(network, ["S4"]).merge(cull_plan(network, ["S1"]))
    assert cull(network, ["S1", "S4"]).stage_relu_counts == network.stage_relu_counts | {"S1": 0, "S4": 0}


def test_an_edit_that_drops_nothing_is_refused() -> None:
    network = TOYS["strided"].network()
    with pytest.raises(PlanError, match="thinning S1, S2, S3 of Strided drops no ReLU"):
        thin(network)
    with pytest.raises(PlanError, match="culling no stage of Strided drops no ReLU"):
        cull_plan(network, [])
    with pytest.raises(PlanError, match="drops no ReLU"):
        thin(TOYS["no ReLU"].network())
    with pytest.raises(PlanError, match="reshape nothing"):
        reshape_plan()


def test_a_wrong_stage_or_option_is_refused_with_the_known_ones() -> None:
    network = TOYS["basic"].network()
    with pytest.raises(PlanError, match=r"unknown stage 's1'; did you mean 'S1'\?"):
        cull_plan(network, ["s1"])
    with pytest.raises(PlanError, match="unknown stage 'S7'"):
        thin_plan(network, stages=["S7"])
    with pytest.raises(PlanError, match=r"give a list, as in \['S1'\]"):
        cull_plan(network, "S1")
    with pytest.raises(PlanError, match=r"unknown value of keep 'second'; .*known: first, last"):
        thin_plan(network, keep="second")


def test_plans_of_edits_merge_to_one_network() -> None:
    network = zoo_network("resnet18")
    plan = cull_plan(network, ["S1"]).merge(thin_plan(network, stages=["S2", "S3", "S4"]))
    assert plan.merge(plan) == plan
    assert plan.merge(ReductionPlan()) == plan
    assert len(plan.linearized) == 5 + 3 * 2
