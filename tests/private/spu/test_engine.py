"""A network in two processes on the real engine: it agrees, is measured, and no process holds the other's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.private import measure
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import lower
from deepreduce.private.measuring import run_query
from deepreduce.private.parties.processes import Loopback, running_parties
from deepreduce.private.protocol import CLIENT, PROTOCOLS, SERVER
from tests.helpers.memory import Patterns, Secrets, reads_memory
from tests.helpers.plain_engine import calibrated
from tests.helpers.private_networks import images, needs_engine, small_resnet
from tests.helpers.zoo import TOYS

pytestmark = needs_engine


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["cheetah", "aby3"])
def test_other_protocols_agree_too(protocol: str) -> None:
    network = small_resnet()
    found = measure(network, images(2, network), protocol=protocol, repeats=1, timeout_s=120)
    assert found.agreement.same_argmax == 2 and found.agreement.max_abs_error < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TOYS if name != "others"])
def test_every_toy_agrees_on_the_engine(name: str) -> None:
    network = TOYS[name].network()
    found = measure(network, images(1, network), protocol="semi2k", repeats=1, timeout_s=60)
    assert found.agreement.max_abs_error < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "protocol", "count"),
    [("resnet18", "semi2k", 10), ("mobilenet_v2", "semi2k", 3), ("vgg16_bn", "cheetah", 1)],
)
def test_a_network_of_the_zoo_predicts_what_pytorch_does(name: str, protocol: str, count: int) -> None:
    spec = resolve_spec(name, num_classes=10, in_channels=3, width=8)
    network = trace_network(calibrated(build_model(spec, seed=0), (3, 32, 32)), (3, 32, 32), spec=spec)
    found = measure(network, images(count, network), protocol=protocol, repeats=1, timeout_s=300)
    assert found.agreement.same_argmax == count


# -- who holds what -----------------------------------------------------------------------------------------


def test_what_is_searched_for_is_found_wherever_it_lies() -> None:
    rng = np.random.default_rng(0)
    content = rng.bytes(2**16)
    for length in (16, 17, 32, 96, 192):
        for at in (0, 1, 7, 12, 1003, 2**16 - length):
            pattern = content[at : at + length]
            assert Patterns({pattern, rng.bytes(length)}).found_in(content) == {pattern}


@reads_memory
@pytest.mark.parametrize(
    "protocol", ["semi2k", *(pytest.param(each, marks=pytest.mark.slow) for each in ("cheetah", "aby3"))]
)
def test_no_process_holds_the_input_of_another(protocol: str) -> None:
    network = TOYS["basic"].network()
    generator = torch.Generator().manual_seed(11)
    image = torch.randint(-1024, 1024, network.input_shape, generator=generator) / 512  # exact in fixed point
    with torch.no_grad():
        for parameter in network.module.parameters():
            parameter.copy_(torch.randint(-1024, 1024, parameter.shape, generator=generator) / 4096)
    lowered = lower(prepare(network))
    secrets = Secrets.of(image, lowered.weights)
    assert {name for name, array in lowered.weights.items() if array.size >= 16} <= set(secrets.weights)
    chosen = PROTOCOLS[protocol]
    with running_parties(
        lowered.program, chosen, weights=lowered.weights, masks=lowered.masks, transport=Loopback(), timeout_s=60
    ) as parties:
        run_query(parties, image, timeout_s=60)
        for party in parties:
            # the owners are found out, so that a look at the others means something
            expected = party.rank == CLIENT, set(secrets.weights) if party.rank == SERVER else set()
            assert secrets.known_to(party.pid) == expected, party.role
