"""Edits of networks that people bring are exact, or refused in one line that names the part."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from deepreduce.errors import PlanError
from deepreduce.network import Network
from deepreduce.transforms import apply_plan, collapse, cull, reshape_plan
from deepreduce.transforms.collapse.choose import macs
from tests.helpers.brought import BROUGHT, SHAPE, logits_of, traced

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


def images() -> torch.Tensor:
    return torch.randn(3, *SHAPE)


@pytest.mark.parametrize("name", BROUGHT)
def test_collapsing_keeps_the_logits(name: str) -> None:
    network, module = traced(name)
    batch = images()
    with torch.no_grad():
        collapsed = collapse(network, cost=lambda layer: 1 + macs(layer) * 1e-9).network
        torch.testing.assert_close(collapsed.module(batch), logits_of(module(batch)))


@pytest.mark.parametrize("name", BROUGHT)
def test_culling_takes_the_relus_of_a_stage_and_leaves_a_network_that_runs_and_trains(name: str) -> None:
    network, _ = traced(name)
    culled = cull(network, [network.stages[0]])
    assert culled.relu_count == network.relu_count - network.stage_relu_counts[network.stages[0]]
    culled.module.train()(images()).sum().backward()


@pytest.mark.parametrize("name", BROUGHT)
def test_half_the_channels_make_a_network_that_runs_or_are_refused_by_name(name: str) -> None:
    network, _ = traced(name)
    try:
        narrow = apply_plan(network, reshape_plan(alpha=0.5))
    except PlanError as error:
        assert "\n" not in str(error) and "alpha" in str(error)
        return
    assert narrow.relu_count < network.relu_count
    narrow.module.train()(images()).sum().backward()
    assert apply_plan(Network(**vars(network)), reshape_plan(alpha=0.5)).relu_count == narrow.relu_count


@pytest.mark.parametrize("name", BROUGHT)
def test_a_network_is_copied_and_pickled_whole(name: str) -> None:
    network, module = traced(name)
    if any("local" in type(m).__qualname__ for m in network.module.modules()):
        return
    file = io.BytesIO()
    try:
        torch.save(network, file)
    except Exception as error:  # an obstacle that the executor reports
        assert "\n" not in str(error).strip().split("\n")[0]
        return
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    batch = images()
    with torch.no_grad():
        assert torch.equal(loaded.module.eval()(batch), logits_of(copy.copy(module).eval()(batch)))
