"""Every kind of network that people bring is traced to what it is, in both modes, or refused in one line."""

from __future__ import annotations

import pytest

from tests.helpers.brought import BROUGHT, assert_same_network, traced


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch, of a checkpoint without a gradient
@pytest.mark.parametrize("name", BROUGHT)
def test_a_network_that_people_bring_is_counted_and_computes_trains_and_keeps_the_same(name: str) -> None:
    network, module = traced(name)
    assert network.relu_count == BROUGHT[name].relus
    assert network.output_shape == (4,)
    assert_same_network(network, module, trains=BROUGHT[name].trains)
