"""Every kind of network that people bring is traced to what it is, in both modes, or refused in one line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from torch import Tensor, nn

from deepreduce.errors import ModelError
from deepreduce.network import trace_network
from deepreduce.network.module_kinds import unwrapped
from tests.helpers.brought import (
    BROUGHT,
    ONE,
    REFUSED,
    SHAPE,
    assert_same_network,
    assert_untouched,
    chain,
    chain_of_two,
    conv,
    state_of,
    traced,
)


@pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad"
)  # torch, of a checkpoint without a gradient
@pytest.mark.parametrize("name", BROUGHT)
def test_a_network_that_people_bring_is_counted_and_computes_trains_and_keeps_the_same(name: str) -> None:
    network, module = traced(name)
    assert network.relu_count == BROUGHT[name].relus
    assert network.output_shape == (4,)
    assert_same_network(network, module, trains=BROUGHT[name].trains)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_holds_is_refused_in_one_line_with_its_place_and_the_repair(name: str) -> None:
    build, message = REFUSED[name]
    module = build().train()
    before = state_of(module)
    with pytest.raises(ModelError) as caught:
        trace_network(module, SHAPE)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert_untouched(module, before)


@pytest.mark.parametrize("name", BROUGHT)
def test_a_trace_leaves_the_module_as_it_was(name: str) -> None:
    module = BROUGHT[name].build().train()
    before = state_of(module)
    network = trace_network(module, SHAPE)
    assert_untouched(module, before)
    modes = {path: m.training for path, m in unwrapped(module).named_modules()}
    assert all(m.training == modes.get(path, True) for path, m in network.module.named_modules())


def test_what_hooks_store_is_no_value_of_the_trace() -> None:
    stored: dict[str, Tensor] = {}
    several: list[Tensor] = []

    def store(m: nn.Module, given: Any, out: Tensor) -> None:
        stored["last"] = out
        several.append(out)
        m.last = out  # type: ignore[assignment]

    block = chain_of_two()
    block.register_forward_hook(store)
    network = trace_network(chain(conv(3), block), SHAPE)
    assert network.relu_count == ONE
    assert not stored and not several and not hasattr(block, "last")


def test_an_image_that_does_not_fit_is_told_as_such_where_sizes_are_asked() -> None:
    with pytest.raises(ModelError, match=r"can't take an image of 5x8x8"):
        trace_network(BROUGHT["decides by a size"].build(), (5, 8, 8))


def test_a_layer_without_a_shape_is_refused_with_the_repair() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(ModelError, match=r"weight of 3 \(LazyLinear\) has no shape yet: run one batch through"):
        trace_network(module, SHAPE)
