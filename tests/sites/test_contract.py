"""What every site action has to keep, over random chains, residual, concatenating and shared-module networks.

A few examples each, to stay fast; EXAMPLES=300 in the environment draws more.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepreduce import load_reduced
from deepreduce.export.onnx import export_network
from deepreduce.network import Network, analyze_network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, KEEP, action_kinds, action_of
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import anneal, apply_plan, normalise_plan, warm_start
from tests.helpers.actions import EXAMPLES, random_plan
from tests.helpers.independent import executed_relus, relus_in_onnx_file
from tests.helpers.zoo import REDUCIBLE, STEPS, TOYS, RandomGraph

SHAPE = (3, 8, 8)
KINDS = [*EXAMPLES, "any"]

graphs = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([2, 4, 6])), min_size=1, max_size=7)
seeds = st.integers(0, 10**6)
drawing = settings(
    max_examples=int(os.environ.get("EXAMPLES", "3")), deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def built(steps: list[tuple[str, int]]) -> RandomGraph:
    torch.manual_seed(0)
    return RandomGraph(steps)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(module).eval()(images())


def reduced_by(kind: str, steps: list[tuple[str, int]], seed: int) -> tuple[Network, ReductionPlan, Network]:
    """The original, the plan in normal form, and the reduced network."""
    network = trace_network(built(steps), SHAPE)
    plan = normalise_plan(network, random_plan(network, kind, seed))
    return network, plan, apply_plan(network, plan)


def test_every_action_that_is_registered_keeps_the_contract() -> None:
    assert set(action_kinds()) == set(EXAMPLES)


@every_kind
@drawing
@given(graphs, seeds)
def test_what_executes_is_what_is_counted(kind: str, steps: list[tuple[str, int]], seed: int) -> None:
    network, plan, reduced = reduced_by(kind, steps, seed)
    counts = [site.relu_count for site in reduced.sites if site.relu_count]
    assert executed_relus(reduced.as_module(), SHAPE) == counts
    actions = dict(plan.sites)
    assert reduced.relu_count == sum(actions.get(s.name, KEEP).relu_count(s) for s in network.sites)
    assert analyze_network(reduced).relu_count == sum(counts) == sum(reduced.stage_relu_counts.values())
    assert reduced.stages == network.stages and reduced.macs == network.macs
    assert reduced.unsupported == network.unsupported


@every_kind
@drawing
@given(graphs, seeds)
def test_a_network_whose_tracing_begins_again_has_the_same_sites(
    kind: str, steps: list[tuple[str, int]], seed: int
) -> None:
    _, _, reduced = reduced_by(kind, steps, seed)
    again = trace_network(reduced.as_module(), SHAPE)
    assert [(s.shape, s.relu_count) for s in again.sites] == [(s.shape, s.relu_count) for s in reduced.sites]
    assert torch.equal(logits(again.as_module()), logits(reduced.as_module()))


@every_kind
@drawing
@given(graphs, seeds)
def test_a_plan_survives_json_and_pickle_and_equals_its_digest(
    kind: str, steps: list[tuple[str, int]], seed: int
) -> None:
    network, plan, reduced = reduced_by(kind, steps, seed)
    value = json.loads(json.dumps(plan.to_json()))
    tensors = {name: tensor.clone() for name, tensor in plan.mask_tensors().items()}
    whole = ReductionPlan.from_json(value, tensors=tensors)
    for same in (whole, ReductionPlan.from_json(value), pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert same == plan and hash(same) == hash(plan) and same.plan_id == plan.plan_id
        assert same.to_json() == plan.to_json() and repr(same) == repr(plan)
    assert plan.merge(plan) == plan == normalise_plan(network, plan)
    assert apply_plan(network, whole).sites == reduced.sites
    assert torch.equal(logits(apply_plan(network, whole).as_module()), logits(reduced.as_module()))
    assert len(repr(plan)) < 200 + 120 * len(plan.sites)


@every_kind
@drawing
@given(graphs, seeds)
def test_weights_are_inherited_and_the_original_is_left_alone(
    kind: str, steps: list[tuple[str, int]], seed: int
) -> None:
    network = trace_network(built(steps).train(), SHAPE)
    before, code, state = copy.deepcopy(network.module.state_dict()), network.module.code, torch.get_rng_state()
    reduced = apply_plan(network, normalise_plan(network, random_plan(network, kind, seed)))
    own = reduced.module.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in before.items())
    with torch.no_grad():
        for parameter in reduced.module.parameters():
            parameter.zero_()  # nothing is shared
    assert torch.equal(torch.get_rng_state(), state) and network.module.code == code
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())
    reduced.as_module().train()(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in reduced.module.parameters())


@every_kind
@drawing
@given(graphs, seeds)
def test_a_network_survives_pickle_and_deepcopy(kind: str, steps: list[tuple[str, int]], seed: int) -> None:
    _, _, reduced = reduced_by(kind, steps, seed)
    again = pickle.loads(pickle.dumps(reduced))
    assert again.sites == reduced.sites and again.relu_count == reduced.relu_count
    assert executed_relus(again.as_module(), SHAPE) == executed_relus(reduced.as_module(), SHAPE)
    for module in (again.as_module(), copy.deepcopy(reduced.as_module())):
        assert torch.equal(logits(module), logits(reduced.as_module()))


@every_kind
@drawing
@given(graphs, seeds)
def test_a_saved_network_loads_with_bit_equal_logits(kind: str, steps: list[tuple[str, int]], seed: int) -> None:
    network, plan, reduced = reduced_by(kind, steps, seed)
    with torch.no_grad():
        for tensor in reduced.module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    with tempfile.TemporaryDirectory() as folder:
        NetworkFolder(path=Path(folder)).finish(
            weights=reduced.module.state_dict(),
            description=describe_network(network, reduced, plan, label="mine"),
            metrics={},
            history=(),
            masks=plan.mask_tensors(),
        )
        loaded = load_reduced(folder, model=built(steps))
        described = json.loads((Path(folder) / "plan.json").read_text())
    assert torch.equal(logits(loaded), logits(reduced.as_module()))
    assert executed_relus(loaded, SHAPE) == executed_relus(reduced.as_module(), SHAPE)
    assert [(s["name"], s["relu_count"]) for s in described["sites"]] == [
        (s.name, s.relu_count) for s in reduced.sites
    ]


@every_kind
@drawing
@given(graphs, seeds)
def test_the_meta_device_counts_the_same(kind: str, steps: list[tuple[str, int]], seed: int) -> None:
    _, plan, reduced = reduced_by(kind, steps, seed)
    meta = apply_plan(trace_network(built(steps).to("meta"), SHAPE), plan)
    assert meta.sites == reduced.sites and layers_of(meta) == layers_of(reduced)
    assert all(tensor.is_meta for tensor in (*meta.module.parameters(), *meta.module.buffers()))


@every_kind
@drawing
@given(graphs, seeds)
def test_a_reduced_network_inherits_from_the_full_one_and_from_itself(
    kind: str, steps: list[tuple[str, int]], seed: int
) -> None:
    network, plan, reduced = reduced_by(kind, steps, seed)
    weights = {name: tensor + 0.1 for name, tensor in reduced.module.state_dict().items()}
    original = {name: weights[name] for name in network.module.state_dict()}
    children = [
        warm_start(network, plan, parent=parent, weights=given)
        for parent, given in ((plan, weights), (ReductionPlan(), original))
    ]
    assert all(child.sites == reduced.sites for child in children)
    assert torch.equal(*(logits(child.as_module()) for child in children))


@every_kind
@drawing
@given(graphs, seeds)
def test_annealing_begins_as_the_original_and_ends_as_the_reduced_network(
    kind: str, steps: list[tuple[str, int]], seed: int
) -> None:
    network, plan, reduced = reduced_by(kind, steps, seed)
    annealed = anneal(network, plan)
    if annealed is None:
        assert not plan.sites or "first_channels" in {action.kind for _, action in plan.sites}
        return
    assert len(annealed.layers) == len(plan.sites)
    assert annealed.module.state_dict().keys() == reduced.module.state_dict().keys()
    assert torch.equal(logits(annealed.module), logits(network.as_module()))
    annealed.advance(1.0)
    assert torch.equal(logits(annealed.module), logits(reduced.as_module()))


@every_kind
@pytest.mark.parametrize("name", REDUCIBLE)
def test_the_toys_execute_what_is_counted_whatever_overwrites_what(kind: str, name: str) -> None:
    network = TOYS[name].network()
    plan = normalise_plan(network, random_plan(network, kind, 3))
    reduced = apply_plan(network, plan)
    hidden = network.unsupported_elements.get("relu inside shifted_relu", 0)
    assert sum(executed_relus(reduced.as_module(), network.input_shape)) - hidden == reduced.relu_count
    assert [site.name for site in reduced.sites if site.relu_count] == [
        site.name for site in network.sites if dict(plan.sites).get(site.name, KEEP).relu_count(site)
    ]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_action_lies_between_the_identity_and_the_relu(kind: str) -> None:
    (site, *_) = TOYS["basic"].network().sites
    action = EXAMPLES[kind](site, random.Random(0))
    assert IDENTITY.within(action) and action.within(action) and action.within(KEEP)
    assert action.within(IDENTITY) == (action == IDENTITY) and KEEP.within(action) == (action == KEEP)
    assert 0 <= action.relu_count(site) <= site.elements == KEEP.relu_count(site)
    assert action_of(action.to_json(), action.tensor()) == action and action_of(action) is action
    assert hash(action) == hash(pickle.loads(pickle.dumps(action))) and action.text(site)


@pytest.mark.slow
@every_kind
@settings(drawing, max_examples=max(2, int(os.environ.get("EXAMPLES", "0"))))
@given(graphs, seeds, st.sampled_from(["torch-export", "onnx"]), st.booleans())
def test_an_exported_file_has_the_relus_that_are_counted(
    kind: str, steps: list[tuple[str, int]], seed: int, to: str, fold: bool
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra deepreduce[export]")
    _, _, reduced = reduced_by(kind, steps, seed)
    with tempfile.TemporaryDirectory() as folder:
        # it compares logits, predictions and the ReLUs counted from the file, and raises where one differs
        report = export_network(reduced, Path(folder) / "out", to=to, images=images(), fold=fold)
        assert report.relu_count == sum(executed_relus(reduced.as_module(), SHAPE))
        if to == "onnx":
            assert relus_in_onnx_file(Path(folder) / "out") == report.relu_count


@pytest.mark.slow
@pytest.mark.parametrize("number", range(50))
def test_analyzer_dispatcher_onnx_file_and_loaded_network_agree_on_random_masked_networks(
    number: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra deepreduce[export]")
    draw = random.Random(number)
    steps = [(draw.choice(STEPS), draw.choice([2, 4, 6])) for _ in range(draw.randint(2, 5))]
    kind = ("channel_mask", "pixel_mask", "any")[number % 3]
    network, plan, reduced = reduced_by(kind, steps, number)
    NetworkFolder(path=tmp_path).finish(
        weights=reduced.module.state_dict(),
        description=describe_network(network, reduced, plan, label="mine"),
        metrics={},
        history=(),
        masks=plan.mask_tensors(),
    )
    loaded = load_reduced(tmp_path, model=built(steps))
    export_network(reduced, tmp_path / "network.onnx", to="onnx", images=images())
    counts = {
        "analyzer": analyze_network(reduced).relu_count,
        "dispatcher": sum(executed_relus(reduced.as_module(), SHAPE)),
        "file": relus_in_onnx_file(tmp_path / "network.onnx"),
        "loaded": sum(executed_relus(loaded, SHAPE)),
        "loaded and traced": trace_network(loaded, SHAPE).relu_count,
        "plan": sum(dict(plan.sites).get(site.name, KEEP).relu_count(site) for site in network.sites),
    }
    assert len(set(counts.values())) == 1, counts
    assert torch.equal(logits(loaded), logits(reduced.as_module()))
