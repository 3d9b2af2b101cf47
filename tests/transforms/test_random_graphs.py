"""Properties of every edit over random networks: chains, residuals, concatenations, chunks, shared modules.

A few examples each, to stay fast; EXAMPLES=300 in the environment draws more.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepreduce import load_reduced
from deepreduce.errors import PlanError
from deepreduce.export.onnx import export_network
from deepreduce.network import Network, trace_network
from deepreduce.network.meta_run import module_tensors
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import apply_plan, normalise_plan, reshape
from deepreduce.transforms.width.propagate import channels_of
from tests.helpers.independent import executed_macs, executed_relus
from tests.helpers.zoo import STEPS, RandomGraph

SHAPE = (3, 8, 8)

steps = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([2, 4, 6])), min_size=1, max_size=7)
shuffled = st.lists(
    st.tuples(st.sampled_from([*STEPS, "shuffle"]), st.sampled_from([2, 4, 6])), min_size=1, max_size=7
)
drawing = settings(
    max_examples=int(os.environ.get("EXAMPLES", "8")), deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


def built(drawn: list[tuple[str, int]], *, flat: bool = False) -> RandomGraph:
    torch.manual_seed(0)
    return RandomGraph(drawn, flat=flat)


def images() -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))


def logits(network: Network) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(network.as_module()).eval()(images())


@st.composite
def plans(draw: Any, network: Network, *, rhos: tuple[float, ...] = (1.0, 0.5)) -> ReductionPlan:
    names = [site.name for site in network.sites]
    linear = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    return ReductionPlan(
        sites=tuple((name, "identity") for name in linear),
        alpha=draw(st.sampled_from([1.0, 0.75, 0.5, 0.3, 0.1])),
        rho=draw(st.sampled_from(rhos)),
    )


def applied(network: Network, plan: ReductionPlan) -> Network:
    """The reduced network; a plan that the network refuses with a reason is another example's matter."""
    try:
        return apply_plan(network, plan)
    except PlanError:
        assume(False)
        raise


@drawing
@given(shuffled, st.booleans())
def test_the_empty_plan_is_bit_equal(drawn: list[tuple[str, int]], flat: bool) -> None:
    module = built(drawn, flat=flat).eval()
    network = trace_network(module, SHAPE)
    with torch.no_grad():
        assert torch.equal(logits(apply_plan(network, ReductionPlan())), module(images()))


@drawing
@given(st.data(), shuffled, st.booleans())
def test_after_any_plan_the_relus_and_macs_that_execute_are_those_counted(
    data: st.DataObject, drawn: list[tuple[str, int]], flat: bool
) -> None:
    network = trace_network(built(drawn, flat=flat), SHAPE)
    reduced = applied(network, data.draw(plans(network)))
    module = reduced.as_module()
    assert [site.relu_count for site in reduced.sites] == executed_relus(module, SHAPE)
    assert executed_macs(module, SHAPE) == reduced.macs
    module.train()(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in module.parameters())


@drawing
@given(st.data(), shuffled)
def test_applying_any_plan_is_pure(data: st.DataObject, drawn: list[tuple[str, int]]) -> None:
    network = trace_network(built(drawn).train(), SHAPE)
    before, code, state = copy.deepcopy(network.module.state_dict()), network.module.code, torch.get_rng_state()
    whole = logits(network)
    reduced = applied(network, data.draw(plans(network)))
    assert torch.equal(torch.get_rng_state(), state) and network.module.code == code
    with torch.no_grad():
        for parameter in reduced.module.parameters():
            parameter.zero_()  # nothing is shared
    assert all(torch.equal(before[key], value) for key, value in network.module.state_dict().items())
    assert torch.equal(logits(network), whole)


@drawing
@given(st.data(), shuffled)
def test_any_plan_in_normal_form_survives_json_and_means_the_same_network(
    data: st.DataObject, drawn: list[tuple[str, int]]
) -> None:
    network = trace_network(built(drawn), SHAPE)
    plan = data.draw(plans(network))
    reduced = applied(network, plan)
    normal = normalise_plan(network, plan)
    again = ReductionPlan.from_json(json.loads(json.dumps(normal.to_json())))
    assert again == normal == normalise_plan(network, normal)
    same = apply_plan(network, again)
    assert same.sites == reduced.sites and torch.equal(logits(same), logits(reduced))


@drawing
@given(st.data(), shuffled, st.booleans())
def test_what_is_saved_and_loaded_is_equal(data: st.DataObject, drawn: list[tuple[str, int]], flat: bool) -> None:
    network = trace_network(built(drawn, flat=flat), SHAPE)
    with torch.no_grad():  # as after a training: which channels are important is no longer known from the start
        for tensor in network.module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    plan = data.draw(plans(network))
    reduced = applied(network, plan)
    with tempfile.TemporaryDirectory() as folder:
        NetworkFolder(path=Path(folder)).finish(
            weights=reduced.module.state_dict(),
            description=describe_network(network, reduced, plan, label="mine"),
            metrics={},
            history=(),
        )
        loaded = load_reduced(folder, model=built(drawn, flat=flat))
    with torch.no_grad():
        assert torch.equal(loaded(images()), logits(reduced))


@drawing
@given(steps, st.booleans(), st.sampled_from([0.75, 0.5, 0.3]))
def test_channels_that_are_zero_are_the_ones_that_go_and_no_logit_changes(
    drawn: list[tuple[str, int]], flat: bool, alpha: float
) -> None:
    network = trace_network(built(drawn, flat=flat).eval(), SHAPE)
    zero = [
        c
        for s in channels_of(network).sets
        for c in s.channels[: len(s.channels) - max(1, round(len(s.channels) * alpha))]
    ]
    assume(zero)
    tensors = dict(module_tensors(network.module))
    with torch.no_grad():
        for (name, dim), channels in channels_of(network).tensors.items():
            index = torch.as_tensor(np.flatnonzero(np.isin(channels, zero)))
            if "running_var" not in name:
                tensors[name].index_fill_(dim, index, 0.0)
    narrow = applied(network, ReductionPlan(alpha=alpha))
    # halves of a chunk may round to unequal numbers, which is told; the image's channels are no matter
    assume(not any("fails with fewer" in note for note in narrow.notes))
    torch.testing.assert_close(logits(narrow), logits(network), rtol=1e-4, atol=1e-5)


@drawing
@given(shuffled, st.booleans(), st.sampled_from([0.75, 0.5, 0.3]))
def test_shapes_follow_from_the_network_and_alpha_alone(
    drawn: list[tuple[str, int]], flat: bool, alpha: float
) -> None:
    real, meta = (
        trace_network(built(drawn, flat=flat), SHAPE),
        trace_network(built(drawn, flat=flat).to("meta"), SHAPE),
    )
    try:
        narrow = reshape(real, alpha=alpha)
    except PlanError as error:
        assert "changes no channel" in str(error) or "is already what" in str(error)
        return
    shapes = [
        {key: value.shape for key, value in n.module.state_dict().items()}
        for n in (narrow, reshape(meta, alpha=alpha))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
@settings(drawing, max_examples=max(12, int(os.environ.get("EXAMPLES", "0"))))
@given(st.data(), steps, st.booleans(), st.sampled_from(["torch-export", "onnx"]))
def test_what_is_exported_agrees(data: st.DataObject, drawn: list[tuple[str, int]], flat: bool, to: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra deepreduce[export]")
    network = trace_network(built(drawn, flat=flat).eval(), SHAPE)
    plan = data.draw(plans(network))
    reduced = network if plan.is_empty else applied(network, plan)
    with tempfile.TemporaryDirectory() as folder:
        # it compares logits, predictions and the ReLUs counted from the file, and raises where one differs
        report = export_network(reduced, Path(folder) / "out", to=to, images=images())
    assert report.relu_count == sum(executed_relus(reduced.as_module(), SHAPE))
