"""The published ReLU counts come out of analysis and plans exactly, per stage too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import yaml

from deepreduce.methods.deepreduce import DeepReduceOptions, propose
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, analyze_network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, cull_plan, normalise_plan, reshape_plan, thin_plan
from tests.helpers import REPOSITORY

GOLDEN: dict[str, Any] = yaml.safe_load((REPOSITORY / "tests" / "golden" / "released_networks.yaml").read_text())
RELEASED = {row["name"]: row for row in GOLDEN["reduced"]}
STAGES = ("S1", "S2", "S3", "S4")


@cache
def original(model: str, input_size: int) -> Network:
    spec = resolve_spec(model, num_classes=100)
    return trace_network(build_model(spec, device="meta"), (3, input_size, input_size), spec=spec)


def network_of(row: Mapping[str, Any]) -> Network:
    return original("resnet18", GOLDEN["full"][row["dataset"]]["input"])


def plan_of(row: Mapping[str, Any]) -> ReductionPlan:
    network = network_of(row)
    plan = cull_plan(network, row["culled"])
    if row["thinned"]:
        plan = plan.merge(thin_plan(network, stages=[s for s in STAGES if s not in row["culled"]]))
    if (row["alpha"], row["rho"]) != (1, 1):
        plan = plan.merge(reshape_plan(alpha=row["alpha"], rho=row["rho"]))
    return plan.merge(ReductionPlan(depth=tuple(row["blocks"])))


def expected_stages(row: Mapping[str, Any]) -> dict[str, int]:
    """By hand: stage k has 64 * 2^k channels on maps 2^k times smaller, and one or two ReLUs per block."""
    size, width = GOLDEN["full"][row["dataset"]]["input"] * row["rho"], 64 * row["alpha"]
    counts = {}
    for k, (stage, blocks) in enumerate(zip(STAGES, row["blocks"], strict=True)):
        layers = blocks * (1 if row["thinned"] else 2)
        counts[stage] = 0 if stage in row["culled"] else int(layers * (width * 2**k) * (size / 2**k) ** 2)
    return counts


def test_all_seventeen_released_networks_are_here() -> None:
    assert len(RELEASED) == 17
    assert [len([n for n in RELEASED if n.startswith(prefix)]) for prefix in ("C100_", "TINY_")] == [8, 9]


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_network_has_its_published_relus(name: str) -> None:
    row = RELEASED[name]
    report = analyze_network(apply_plan(network_of(row), plan_of(row)))
    assert report.relu_count == row["relus"]
    assert dict(report.stages) == expected_stages(row)
    assert sum(expected_stages(row).values()) == row["relus"]


@pytest.mark.parametrize("dataset", GOLDEN["full"])
def test_the_full_resnet18_has_its_published_relus_per_stage(dataset: str) -> None:
    published = dict(GOLDEN["full"][dataset])
    size, total = published.pop("input"), published.pop("total")
    report = analyze_network(original("resnet18", size))
    assert dict(report.stages) == published
    assert report.relu_count == total
    stem = 64 * size**2
    by_hand = {stage: 4 * 64 * 2**k * (size // 2**k) ** 2 + (stem if k == 0 else 0) for k, stage in enumerate(STAGES)}
    assert published == by_hand


BY_HAND = {
    # stem, then two ReLUs per block
    ("resnet34", 32): [(1 + 2 * 3) * 64 * 32**2, 2 * 4 * 128 * 16**2, 2 * 6 * 256 * 8**2, 2 * 3 * 512 * 4**2],
    ("resnet32", 32): [(1 + 2 * 5) * 16 * 32**2, 2 * 5 * 32 * 16**2, 2 * 5 * 64 * 8**2],
    ("resnet18", 224): [
        (1 + 2 * 2) * 64 * 224**2, 2 * 2 * 128 * 112**2, 2 * 2 * 256 * 56**2, 2 * 2 * 512 * 28**2
    ],
    # one ReLU per convolution
    ("vgg16_bn", 32): [2 * 64 * 32**2, 2 * 128 * 16**2, 3 * 256 * 8**2, 3 * 512 * 4**2, 3 * 512 * 2**2],
    ("vgg16_bn", 64): [2 * 64 * 64**2, 2 * 128 * 32**2, 3 * 256 * 16**2, 3 * 512 * 8**2, 3 * 512 * 4**2],
}  # fmt: skip


@pytest.mark.parametrize("row", GOLDEN["totals"], ids=lambda row: f"{row['model']}-{row['input']}")
def test_a_full_network_has_its_published_relus(row: Mapping[str, Any]) -> None:
    report = analyze_network(original(row["model"], row["input"]))
    assert report.relu_count == row["relus"]
    assert list(report.stages.values()) == BY_HAND[row["model"], row["input"]]
    assert list(report.stages) == [f"S{number}" for number in range(1, len(report.stages) + 1)]


@pytest.mark.parametrize(
    ("dataset", "cull_order", "depths"),
    [("cifar100", ("S1", "S4", "S2"), ((2, 1, 1, 1),)), ("tinyimagenet", ("S1", "S2", "S4"), ())],
)
def test_the_papers_settings_propose_every_released_network(
    dataset: str, cull_order: tuple[str, ...], depths: tuple[tuple[int, ...], ...]
) -> None:
    network = original("resnet18", GOLDEN["full"][dataset]["input"])
    method = DeepReduceOptions(alphas=(1.0, 0.5), rhos=(1.0, 0.5), depths=depths)
    proposals = propose(network, cull_order, method)
    listed = {proposal.plan: proposal.relu_count for proposal in proposals.networks}
    released = [row for row in GOLDEN["reduced"] if row["dataset"] == dataset]
    assert {normalise_plan(network, plan_of(row)): row["relus"] for row in released}.items() <= listed.items()
    assert proposals.left_out == ()
    # per culling: itself, thinned, three reshapes, and what is less deep besides
    assert len(listed) == 3 * (2 + 3 + len(depths))
