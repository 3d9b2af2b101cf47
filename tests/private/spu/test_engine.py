"""Networks on the real engine agree with PyTorch, and no process holds the input of another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.private import measure
from deepreduce.private.measuring import run_query
from deepreduce.private.parties.processes import (
    HOST,
    Loopback,
    PartyProcess,
    choose_ports,
    receive_answers,
    running_parties,
)
from deepreduce.private.protocol import CLIENT, PROTOCOLS, SERVER
from tests.helpers.memory import Patterns, Secrets, reads_memory
from tests.helpers.plain_engine import calibrated, lowered
from tests.helpers.private_layers import SUPPORTED
from tests.helpers.private_networks import images, needs_engine, small_resnet
from tests.helpers.zoo import TOYS

pytestmark = needs_engine


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["cheetah", "aby3"])
def test_other_protocols_agree_too(protocol: str) -> None:
    network = small_resnet()
    found = measure(network, images(2, network), protocol=protocol, repeats=1, batch=2, timeout_s=120)
    assert found.agreement.same_argmax == 2 and found.agreement.max_abs_error < 0.01


@pytest.fixture(scope="module")
def parties() -> Iterator[list[PartyProcess]]:
    """Two processes, to run one program after another."""
    with PartyProcess(SERVER) as server, PartyProcess(CLIENT) as client:
        yield [server, client]


@pytest.mark.slow
@pytest.mark.parametrize("name", SUPPORTED)
def test_every_toy_agrees_on_the_engine(name: str, parties: list[PartyProcess]) -> None:
    network = TOYS[name].network()
    found, image = lowered(network), images(1, network)[0]
    addresses = [f"{HOST}:{port}" for port in choose_ports(2, None)]
    for party in parties:
        party.prepare(found.program, PROTOCOLS["semi2k"], found.masks, timeout_s=60)
        party.connect(addresses, found.weights if party.rank == SERVER else None, silent_s=60)
    for _ in ("prepared", "connected"):
        receive_answers(parties, timeout_s=60)
    logits = run_query(parties, image[None], timeout_s=60).logits
    with torch.no_grad():
        expected = network.module.eval()(image[None])
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "size", "protocol", "count"),
    [("resnet18", 8, 16, "semi2k", 4), ("mobilenet_v2", 4, 16, "semi2k", 1), ("vgg16_bn", 4, 32, "cheetah", 1)],
)
def test_a_network_of_the_zoo_predicts_what_pytorch_does(
    name: str, width: int, size: int, protocol: str, count: int
) -> None:
    spec, shape = resolve_spec(name, num_classes=10, in_channels=3, width=width), (3, size, size)
    network = trace_network(calibrated(build_model(spec, seed=0), shape), shape, spec=spec)
    found = measure(network, images(count, network), protocol=protocol, repeats=1, timeout_s=300)
    assert found.agreement.same_argmax == count
    assert found.agreement.max_abs_error < 0.005 * found.agreement.max_abs_logit


# -- who holds what -----------------------------------------------------------------------------------------


def test_the_search_finds_a_pattern_at_any_address() -> None:
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
    found = lowered(network)
    secrets = Secrets.of(image, found.weights)
    assert {name for name, array in found.weights.items() if array.size >= 16} <= set(secrets.weights)
    chosen = PROTOCOLS[protocol]
    with running_parties(
        found.program, chosen, weights=found.weights, masks=found.masks, transport=Loopback(), timeout_s=60
    ) as parties:
        run_query(parties, image[None], timeout_s=60)
        for party in parties:
            # the search finds the owners' inputs, so that finding nothing elsewhere means something
            expected = party.rank == CLIENT, set(secrets.weights) if party.rank == SERVER else set()
            assert secrets.known_to(party.pid) == expected, party.role
