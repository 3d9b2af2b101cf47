"""A network in two processes on the real engine: it agrees, is measured, and no process holds the other's input."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from deepreduce.cost.link import LINKS
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.private import PrivateRun, measure
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Array, lower
from deepreduce.private.measuring import ask
from deepreduce.private.parties.processes import Loopback, running_parties
from deepreduce.private.protocol import CLIENT, PROTOCOLS, SERVER
from tests.helpers.plain_engine import calibrated
from tests.helpers.private_networks import images, needs_engine, small_resnet
from tests.helpers.zoo import TOYS

pytestmark = needs_engine


@pytest.fixture(scope="module")
def run() -> PrivateRun:
    network = small_resnet()
    return measure(network, images(4, network), protocol="semi2k", repeats=5, timeout_s=60)


def test_logits_and_predictions_agree_with_pytorch(run: PrivateRun) -> None:
    assert (run.agreement.images, run.agreement.same_argmax) == (4, 4)
    assert run.agreement.max_abs_error < 0.01 * run.agreement.max_abs_logit
    network = small_resnet()
    with torch.no_grad():
        expected = network.module(images(4, network))
    np.testing.assert_allclose(np.array(run.logits), expected.numpy(), atol=0.01)


def test_every_site_and_layer_is_measured_under_its_own_name(run: PrivateRun) -> None:
    network = prepare(small_resnet())
    kinds = {layer.name: layer.kind for layer in run.layers}
    assert len(kinds) == len(run.layers)
    assert {site.name: "relu" for site in network.sites}.items() <= kinds.items()
    assert {layer.name for layer in network.linear_layers} <= set(kinds)
    assert run.seconds.count == 5 and all(layer.seconds.count == 5 for layer in run.layers)
    assert all(layer.seconds.low <= layer.seconds.median <= layer.seconds.high for layer in run.layers)


def test_bytes_and_messages_follow_from_what_a_layer_computes(run: PrivateRun) -> None:
    costs = {layer.name: layer for layer in run.layers}
    sites = small_resnet().sites
    per_relu = {costs[site.name].bytes / site.relu_count for site in sites}
    assert per_relu == {144}  # the same for each ReLU, however many there are
    assert {costs[site.name].messages for site in sites} == {8}
    assert all(layer.bytes >= layer.serial_bytes for layer in run.layers)
    assert all(layer.bytes == 0 for layer in run.layers if layer.kind == "add")


def test_kinds_and_totals_are_sums_over_layers(run: PrivateRun) -> None:
    assert sum(kind.layers for kind in run.kinds) == len(run.layers)
    assert sum(kind.bytes for kind in run.kinds) == run.bytes
    assert sum(kind.messages for kind in run.kinds) == run.messages
    assert 0.3 * run.seconds.median < sum(kind.seconds for kind in run.kinds) < 1.5 * run.seconds.median


def test_a_link_adds_bytes_over_bandwidth_and_delays_of_messages(run: PrivateRun) -> None:
    serial = sum(layer.serial_bytes for layer in run.layers)
    wan = run.seconds.median + 8 * serial / 400e6 + run.messages * 0.02
    assert run.seconds_over(LINKS["wan"]) == pytest.approx(wan)
    assert run.seconds_over(LINKS["loopback"]) == run.seconds.median
    assert "computed from that, not measured" in run.to_text(LINKS["wan"])
    assert "computed" not in run.to_text(LINKS["loopback"])


def test_tables_hold_what_was_measured_and_name_the_dealer(run: PrivateRun) -> None:
    rows = list(csv.DictReader(io.StringIO(run.to_csv())))
    assert [row["name"] for row in rows] == [layer.name for layer in run.layers]
    assert sum(int(row["bytes"]) for row in rows) == run.to_json()["bytes"] == run.bytes
    for text in (run.to_text(LINKS["loopback"]), str(run.to_json())):
        assert "trusted dealer: a cost reference" in text


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


_CHUNK = 2**26
_HASH_BITS = 20


class Patterns:
    """Many pieces of memory, of 16 bytes and more, that are searched for at once.

    Wherever a piece lies, each 8 bytes of memory that begin at a multiple of 8 are either in it whole or not: so
    those memory words are looked at that may be in a piece, by a table of their hashes.
    """

    def __init__(self, patterns: set[bytes]) -> None:
        assert all(len(pattern) >= 16 for pattern in patterns)
        self.longest = max(map(len, patterns))
        self._anchors: dict[int, list[tuple[bytes, int]]] = {}
        for pattern in patterns:
            for shift in range(8):  # how the piece may lie
                places = range(shift, len(pattern) - 7, 8)
                place = max(places, key=lambda at: len(set(pattern[at : at + 8])))  # the least common word
                self._anchors.setdefault(int.from_bytes(pattern[place : place + 8], "little"), []).append(
                    (pattern, place)
                )
        self._words = np.array(sorted(self._anchors), np.uint64)
        self._table = np.zeros(2**_HASH_BITS, np.bool_)
        self._table[self._hashes(self._words)] = True

    @staticmethod
    def _hashes(words: Array) -> Array:
        return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _HASH_BITS)

    def found_in(self, content: bytes) -> set[bytes]:
        words = np.frombuffer(content, np.uint64, count=len(content) // 8)
        places = np.flatnonzero(self._table[self._hashes(words)])
        places = places[np.isin(words[places], self._words)]
        return {
            pattern
            for place in places
            for pattern, at in self._anchors[int(words[place])]
            if content[max(8 * place - at, 0) : 8 * place - at + len(pattern)] == pattern
        }


def found_in_memory(pid: int, patterns: Patterns) -> set[bytes]:
    """Those of the patterns that a process holds anywhere in memory that it can write."""
    overlap, found = patterns.longest - 1, set[bytes]()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for place, end in touched(pid):
            tail = b""
            while place < end:
                memory.seek(place)
                try:
                    chunk = memory.read(min(_CHUNK, end - place))
                except OSError:  # a guard page
                    break
                if not chunk:
                    break
                place += len(chunk)
                content = tail + chunk
                found |= patterns.found_in(content)
                tail = content[-overlap:]
    return found


def touched(pid: int) -> Iterator[tuple[int, int]]:
    """Spans of the writable memory that the process has touched: of much that it reserved there is nothing yet."""
    page = os.sysconf("SC_PAGE_SIZE")
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pages:
        for line in maps:
            span, rights = line.split()[:2]
            if "w" not in rights or "[v" in line:
                continue
            begin, end = (int(part, 16) for part in span.split("-"))
            pages.seek(begin // page * 8)
            entries = np.frombuffer(pages.read((end - begin) // page * 8), dtype=np.uint64)
            there = np.flatnonzero(np.diff((entries >> np.uint64(62) != 0).astype(np.int8), prepend=0, append=0))
            for first, last in there.reshape(-1, 2):
                yield begin + int(first) * page, begin + int(last) * page


def held_as(values: Array) -> set[bytes]:
    """How a process that knows values in a row would hold them: as floats, or in the engine's fixed point."""
    scaled = values.astype(np.float64) * 2**18
    forms = (values.astype(np.float32), values.astype(np.float64), np.round(scaled).astype(np.int64),
             np.trunc(scaled).astype(np.int64))  # fmt: skip
    return {form.tobytes() for form in forms}


def windows(array: Array, *, at: int = 5) -> list[Array]:
    """Runs of up to 24 values from all over the array; none where they could be somewhere by chance."""
    row = np.ascontiguousarray(array).reshape(-1)
    length = min(24, len(row))
    starts = sorted({int(start) for start in np.linspace(0, len(row) - length, at)})
    return [run for run in (row[start : start + length] for start in starts) if len(np.unique(run)) >= 8]


def traces(array: Array) -> set[bytes]:
    """What a process holds that knows an image (C, H, W) or a weight as the parties store it, in either's order."""
    order = {4: (3, 2, 0, 1), 3: (1, 2, 0), 2: (1, 0)}.get(array.ndim)
    orders = [array, array.transpose(order)] if order is not None else [array]
    return {held for each in orders for window in windows(each) for held in held_as(window)}


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What gives away the client's image, and each of the server's weights by name."""

    image: set[bytes]
    weights: dict[str, set[bytes]]

    @classmethod
    def of(cls, image: torch.Tensor, weights: Mapping[str, Array]) -> Secrets:
        found = {name: traces(array) for name, array in weights.items()}
        return cls(image=traces(image.numpy()), weights={name: held for name, held in found.items() if held})

    @cached_property
    def patterns(self) -> Patterns:
        return Patterns(self.image.union(*self.weights.values()))

    def known_to(self, pid: int) -> tuple[bool, set[str]]:
        """Whether a process knows the image, and the names of the weights that it knows."""
        found = found_in_memory(pid, self.patterns)
        return bool(found & self.image), {name for name, held in self.weights.items() if found & held}


reads_memory = pytest.mark.skipif(
    os.name != "posix" or not Path("/proc/self/mem").exists(), reason="reads /proc/PID/mem"
)


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
        lowered.program, chosen, weights=lowered.weights, masks=lowered.masks, place=Loopback(), timeout_s=60
    ) as parties:
        ask(parties, image, timeout_s=60)
        for party in parties:
            # the owners are found out, so that a look at the others means something
            expected = party.rank == CLIENT, set(secrets.weights) if party.rank == SERVER else set()
            assert secrets.known_to(party.pid) == expected, party.role
