"""Stages that the user gives as patterns of site names."""

from __future__ import annotations

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
from deepreduce.store.checkpoint import SavedNetwork, describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import cull, cull_plan, reshape
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
    assert {site.stage for site in network.sites} == {"S1", "S2", "S3"}
