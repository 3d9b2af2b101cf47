"""The messages that a protocol counts as sequential are those that a slow link really delays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepreduce.network import Network, trace_network
from deepreduce.private.measuring import layer_costs
from deepreduce.private.protocol import PROTOCOLS
from tests.helpers.delays import answers_over_delays
from tests.helpers.plain_engine import lowered
from tests.helpers.private_networks import images, needs_engine
from tests.helpers.private_runs import answer, run_of

_DELAY = 0.15


def network() -> Network:
    """Return a network with each kind of layer; its first ReLU is so large that Cheetah computes it in parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(24), nn.Conv2d(24, 8, 1, stride=2), nn.ReLU6(),
            nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, 10),
        )  # fmt: skip
        return trace_network(module.eval(), (3, 16, 16), name="each kind")


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("protocol", ["semi2k", "cheetah", "aby3"])
def test_sequential_messages_are_those_that_a_slow_link_delays(protocol: str) -> None:
    chosen, found = PROTOCOLS[protocol], lowered(network())
    near, far = answers_over_delays(
        found, images(1, network())[0], protocol=chosen, one_way_s=(0.0, _DELAY)
    )  # fmt: skip
    quick, slow = (layer_costs(found.program, chosen, [answer]) for answer in (near, far))
    messages = sum(layer.messages for layer in quick)
    delayed = [(b.seconds.median - a.seconds.median) / _DELAY for a, b in zip(quick, slow, strict=True)]
    lines = [f"{a.name} {a.kind}: {a.messages}, {d:.1f}" for a, d in zip(quick, delayed, strict=True)]
    print("\n".join(lines))
    # under aby3 some of the counted messages go to two parties at once
    least = 0.75 if protocol == "aby3" else 0.9
    assert least * messages < sum(delayed) < 1.15 * messages, lines
    for layer, count in zip(quick, delayed, strict=True):
        most = max(1.2 * layer.messages, layer.messages + 3)
        assert count < most and (protocol == "aby3" or count > 0.6 * layer.messages - 2), lines


def test_under_cheetah_a_link_delays_a_layer_as_often_however_large_it_is() -> None:
    found = run_of([answer(2.0, None), answer(2.0, 1)])
    assert [layer.messages for layer in found.layers] == [4, 22, 22, 1]
    assert {query.messages for query in found.queries} == {49}
    semi2k = PROTOCOLS["semi2k"]
    assert semi2k.sequential_messages([8, 7], "relu") == 8  # as the engine counts them
    assert PROTOCOLS["cheetah"].sequential_messages([0, 0], "relu") == 0
    assert PROTOCOLS["cheetah"].sequential_messages([80, 80], "max_pool") == 80  # an upper bound
