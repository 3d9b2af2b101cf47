"""Stages that the user gives as patterns of site names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce import OptimizeConfig, load_reduced
from deepreduce.config.inputs import original_network
from deepreduce.config.load import dump_config, load_config
from deepreduce.data import DataFacts
from deepreduce.errors import ConfigError, ModelError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import SavedNetwork, describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import apply_plan, cull, cull_plan, reshape
from tests.helpers.zoo import FULL, HALF, TOYS, Basic, Blocks

STAGES = {"front": ["relu", "blocks.[01].*"], "back": ["blocks.[23].*"]}


def staged(stages: dict[str, list[str]]) -> Network:
    torch.manual_seed(0)
    return trace_network(Blocks(Basic), (3, 8, 8), stages=stages)


def test_patterns_make_the_stages_in_network_order() -> None:
    network = staged({"back": ["blocks.[23].*"], "front": ["relu", "blocks.[01].*"]})
    assert network.stages == ("front", "back")
    assert network.stage_relu_counts == {"front": (1 + 4) * 4 * FULL, "back": 4 * 8 * HALF}
    assert cull(network, ["front"]).stage_relu_counts == {"front": 0, "back": 4 * 8 * HALF}
    assert reshape(cull(network, ["back"]), alpha=0.5).stage_patterns == network.stage_patterns


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"S1": ["rleu"], "S2": ["*"]}, r"'rleu' of S1 matches no ReLU site; did you mean 'relu'\?"),
        ({"S1": ["relu", "block.*"]}, "'block.*' of S1 matches no ReLU site"),
        (
            {"S1": ["relu", "blocks.0.*"], "S2": ["blocks.*"]},
            r"'blocks.0.relu1' is claimed by S1 \('blocks.0.\*'\) and S2 \('blocks.\*'\) \(1 more are claimed twice",
        ),
        (
            {"S1": ["blocks.*"]},
            r"no stage claims relu; add 'relu', or a pattern that matches, to one of them",
        ),
    ],
)
def test_patterns_that_do_not_fit_are_refused_with_the_repair(stages: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        staged(stages)


def test_all_mistakes_of_the_stages_are_told_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        staged({"S1": ["none"], "S2": ["blocks.*"], "S3": ["blocks.0.*"]})
    assert all(part in str(caught.value) for part in ("matches no", "is claimed by", "no stage claims"))


def test_a_config_gives_stages_and_keeps_them() -> None:
    text = 'model.stages={S1: [stem.*, "stage1.*"], S2: "stage[234].*"}'
    config = load_config(values={"model": "resnet18"}, settings=[text])
    assert config.model.stages == {"S1": ("stem.*", "stage1.*"), "S2": ("stage[234].*",)}
    facts = DataFacts(image_shape=(3, 8, 8), num_classes=10, train_images=1, val_images=1, test_images=1)
    network = original_network(config.model, facts, seed=0)
    assert network.stages == ("S1", "S2")
    assert "stem.*" in dump_config(config)


@pytest.mark.parametrize("stages", ["{S1: []}", "{'a b': [x]}", "[relu]"])
def test_a_config_refuses_what_are_no_stages(stages: str) -> None:
    with pytest.raises(ConfigError, match=r"model.stages"):
        load_config(settings=[f"model.stages={stages}"])


def test_a_saved_network_has_its_stages_when_loaded(tmp_path: Path) -> None:
    network = staged(STAGES)
    plan = cull_plan(network, ["front"])
    reduced = cull(network, ["front"])
    description = describe_network(network, reduced, plan, label="mine")
    NetworkFolder(path=tmp_path).finish(
        weights=reduced.module.state_dict(), description=description, metrics={}, history=()
    )
    loaded = SavedNetwork.read(tmp_path).load(Blocks(Basic))
    assert loaded.stage_relu_counts == reduced.stage_relu_counts
    assert not load_reduced(tmp_path, model=Blocks(Basic)).training


def test_stages_are_inferred_where_none_are_given() -> None:
    assert TOYS["basic"].network().stage_patterns is None
    assert OptimizeConfig().model.stages is None


def test_blocks_are_the_modules_in_which_branches_meet() -> None:
    for name, relus_per_block in (("basic", 2), ("bottleneck", 3), ("inverted", 2), ("pre-activation", 2)):
        blocks = [site.block for site in TOYS[name].network().sites]
        assert blocks[0] is None  # the stem
        assert blocks[1:] == [f"blocks.{index}" for index in range(4) for _ in range(relus_per_block)]
    assert {site.block for site in TOYS["chain"].network().sites} == {None}


class Gated(nn.Module):
    """A chain that multiplies by a weight: no branches meet in it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(x * self.scale)
        return x


def test_a_product_with_a_weight_is_no_join_of_branches() -> None:
    network = trace_network(nn.Sequential(Gated(), nn.Flatten()), (3, 4, 4))
    assert [site.block for site in network.sites] == [None, None, None]


def test_a_squeezed_map_beside_larger_ones_starts_no_stage() -> None:
    spec = resolve_spec("torchvision:mobilenet_v3_small")
    network = trace_network(build_model(spec, device="meta"), (3, 224, 224), spec=spec)
    gates = [site for site in network.sites if site.shape[1:] == (1, 1)]
    assert gates
    assert {site.stage for site in network.sites} == {"S1", "S2", "S3", "S4"}  # maps of 56, 28, 14 and 7
    assert [site.stage for site in gates] == ["S1", *["S3"] * 5, *["S4"] * 3]


# -- stages that are inferred ------------------------------------------------------------------------------


def traced(name: str) -> Network:
    spec = resolve_spec(f"torchvision:{name}")
    return trace_network(build_model(spec, device="meta"), (3, 224, 224), spec=spec)


def maps(network: Network, stage: str) -> list[int]:
    """Return the heights of the maps of a stage's ReLUs, each once, in order; 1 for vectors."""
    return list(dict.fromkeys(site.shape[1] if len(site.shape) == 3 else 1 for site in network.sites_of(stage)))


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", [[112, 56], [28], [14], [7]]),
        ("resnet50", [[112, 56], [56, 28], [28, 14], [14, 7]]),  # a strided block's first ReLU is on the larger map
        ("mobilenet_v2", [[112], [112, 56], [56, 28], [28, 14], [14, 7]]),
        ("densenet121", [[112, 56], [28], [14], [7]]),
        ("googlenet", [[112, 56, 28], [14], [7]]),
        ("shufflenet_v2_x0_5", [[112, 28, 56], [14, 28], [7, 14]]),
        ("vgg11", [[224], [112], [56], [28], [14], [1]]),  # a chain has no stem
        ("regnet_x_400mf", [[112, 56], [56, 28], [28, 14], [14, 7]]),
    ],
)
def test_inferred_stages_are_those_of_the_zoo(name: str, stages: list[list[int]]) -> None:
    network = traced(name)
    assert [maps(network, stage) for stage in network.stages] == stages


def test_the_stages_of_torchvisions_resnet_are_its_layers_and_the_zoos() -> None:
    theirs = traced("resnet18")
    assert {site.name: site.stage for site in theirs.sites if site.name != "relu"} == {
        site.name: f"S{site.name[5]}" for site in theirs.sites if site.name != "relu"
    }
    assert theirs.site("relu").stage == "S1"
    spec = resolve_spec("resnet18")
    ours = trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)
    assert [site.stage for site in theirs.sites] == [site.stage for site in ours.sites]
    assert (theirs.stage_rule, ours.stage_rule, staged(STAGES).stage_rule) == ("inferred", "declared", "given")


def test_a_plan_of_earlier_stages_means_the_same_sites() -> None:
    network = traced("resnet18")
    plan = ReductionPlan.from_json({"sites": {"relu": "identity"}})  # "cull S1", when S1 was the stem alone
    reduced = apply_plan(network, plan)
    assert {site.name for site in network.sites} - {site.name for site in reduced.sites} == {"relu"}
    assert plan.plan_id == ReductionPlan(sites=(("relu", "identity"),)).plan_id


class Exchange(nn.Module):
    """HRNet's module: residual blocks on maps of several sizes, then every size gets the sum of all."""

    def __init__(self, branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(Basic(4, 4, 1), Basic(4, 4, 1)) for _ in range(branches))
        self.act = nn.ReLU()

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        return [self.act(sum(self.fit(x, i - j) for j, x in enumerate(xs))) for i in range(len(xs))]

    def fit(self, x: Tensor, steps: int) -> Tensor:
        return F.avg_pool2d(x, 2**steps) if steps > 0 else F.interpolate(x, scale_factor=2.0**-steps)


class Parallel(nn.Module):
    """A small HRNet: two convolutions with strides, then one, two, three and four branches in parallel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.layer1 = nn.Sequential(Basic(4, 4, 1), Basic(4, 4, 1))
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()) for _ in range(3))
        self.stages = nn.ModuleList(Exchange(n) for n in (2, 3, 4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        xs = [self.layer1(F.relu(self.conv2(F.relu(self.conv1(x)))))]
        for down, exchange in zip(self.down, self.stages, strict=True):
            xs = exchange([*xs, down(xs[-1])])
        return self.fc(sum(x.mean((2, 3)) for x in xs))


def test_a_network_of_parallel_branches_has_a_stage_for_each_new_resolution() -> None:
    network = trace_network(Parallel(), (3, 64, 64))
    assert network.stages == ("S1", "S2", "S3", "S4")
    assert [maps(network, stage)[0] for stage in network.stages] == [32, 8, 4, 2]
    for number, stage in enumerate(network.stages[1:]):
        sites = [site.name for site in network.sites_of(stage)]
        assert {name.partition(".")[0] for name in sites} == {"down", "stages"}
        assert all(name.startswith((f"down.{number}", f"stages.{number}")) for name in sites)


class Written(nn.Module):
    """Residual blocks written in the forward pass of one module: no module says where a block ends."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, 1 + (i in (3, 5)), 1) for i in range(7))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.convs[0](x))
        for index, conv in enumerate(list(self.convs)[1:], start=1):
            y = F.relu(conv(x))
            x = y if index in (3, 5) else y + x
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: nn.Sequential(nn.Identity(), net)])
def test_a_network_without_modules_for_its_blocks_has_stages_by_resolution(wrap: Callable[..., nn.Module]) -> None:
    network = trace_network(wrap(Written()), (3, 16, 16))
    assert [maps(network, stage) for stage in network.stages] == [[16], [8], [4]]


def test_a_chain_with_a_gate_at_its_end_is_no_stem() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))

    layers: list[nn.Module] = []
    for index in range(3):
        layers += [nn.Conv2d(3 if index == 0 else 4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    network = trace_network(nn.Sequential(*layers[:-1], Gate(), nn.Flatten()), (3, 16, 16))
    assert [maps(network, stage) for stage in network.stages] == [[16], [8], [4, 1]]


def test_unpadded_convolutions_and_decoders_begin_no_stage() -> None:
    shaved = nn.Sequential(*[layer for i in range(3) for layer in (nn.Conv2d(3, 3, 3), nn.ReLU())], nn.Flatten())
    assert trace_network(shaved, (3, 24, 24)).stages == ("S1",)
    decoder = [nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), *decoder, nn.Flatten()]
    network = trace_network(nn.Sequential(*layers), (3, 16, 16))
    assert [maps(network, stage) for stage in network.stages] == [[8], [4, 8]]
