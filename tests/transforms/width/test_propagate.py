"""Which channels belong together: exact on structure, pinned with a reason, and the same as another library's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.meta_run import on_meta
from deepreduce.transforms.width.propagate import channels_of
from tests.helpers.zoo import CLASSES, TOYS, conv


def sizes(network: Network) -> dict[str, int]:
    return {s.name: len(s.channels) for s in channels_of(network).sets}


def of(module: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> Network:
    return trace_network(module, shape)


class Head(nn.Module):
    """`body`, then pool and classify."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, CLASSES)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean(dim=(2, 3)))


def test_a_chain_has_a_set_for_each_layer_and_none_for_the_classifier() -> None:
    assert sizes(TOYS["chain"].network()) == {"layers.0": 4} | {f"layers.{n}": 4 for n in (2, 4, 6, 8)} | {
        f"layers.{n}": 8 for n in (10, 12)
    }


def test_a_residual_addition_ties_the_layers_that_meet() -> None:
    # each block's sum of two paths is one set
    assert sizes(TOYS["basic"].network()) == {
        "stem": 4,
        **{f"blocks.{n}.{layer}": 4 for n in (0, 1) for layer in ("conv1", "conv2")},
        **{f"blocks.{n}.{layer}": 8 for n in (2, 3) for layer in ("conv1", "conv2")},
    }


class Concatenated(Head):
    def __init__(self) -> None:
        super().__init__(9)
        self.a, self.b, self.bn, self.last = conv(3, 4), conv(3, 6), nn.BatchNorm2d(10), conv(10, 9)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.last(F.relu(self.bn(torch.cat([self.a(x), self.b(x)], dim=1)))))


def test_a_concatenation_keeps_its_parts_apart() -> None:
    network = of(Concatenated())
    assert sizes(network) == {"a": 4, "b": 6, "last": 9}
    a, b = (next(s.channels for s in channels_of(network).sets if s.name == name) for name in "ab")
    for name, dim in (("bn.weight", 0), ("bn.running_mean", 0), ("last.weight", 1)):
        assert tuple(channels_of(network).tensors[name, dim]) == (*a, *b)


class Chunked(Head):
    def __init__(self) -> None:
        super().__init__(8)
        self.first, self.second = conv(3, 8), conv(4, 4)

    def body(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.first(x)).chunk(2, dim=1)
        return torch.cat([b, F.relu(self.second(a))], dim=1)


def test_the_halves_of_a_chunk_are_scaled_on_their_own() -> None:
    sets = [len(s.channels) for s in channels_of(of(Chunked())).sets]
    assert sorted(sets) == [4, 4, 4]


class Grouped(Head):
    def __init__(self) -> None:
        super().__init__(8)
        self.first, self.grouped = conv(3, 12), nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.depthwise(self.grouped(F.relu(self.first(x)))))


def test_a_grouped_convolution_ties_the_same_position_of_every_group() -> None:
    network = of(Grouped())
    # 3 positions in each of 4 groups go in, 2 come out; the depthwise one adds no set
    assert sizes(network) == {"first": 3, "grouped": 2}


class Pinned(Head):
    def __init__(self) -> None:
        super().__init__(5)
        self.first, self.last, self.q = conv(3, 3), conv(3, 5), nn.Linear(64, 64)

    def body(self, x: Tensor) -> Tensor:
        y = F.relu(self.last(self.first(x) + x))
        rows = y.flatten(2)
        return (self.q(rows) @ rows.transpose(1, 2)).unsqueeze(3)


def test_what_must_stay_is_told_with_the_reason() -> None:
    pinned = {p.name: (p.count, p.reason) for p in channels_of(of(Pinned())).pinned}
    assert pinned["first"] == (3, "they meet the image or a constant")
    assert pinned["last"] == (5, "bmm can't be followed")
    assert "fc" not in pinned  # a classifier's outputs stay as a matter of course


def test_a_gate_for_all_channels_binds_none() -> None:
    class Attention(Head):
        def __init__(self) -> None:
            super().__init__(4)
            self.conv, self.gate = conv(3, 4), conv(1, 1)

        def body(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            return x * self.gate(x.mean(dim=1, keepdim=True)).sigmoid()

    assert sizes(of(Attention())) == {"conv": 4, "gate": 1}


FOLLOWED_BY_BOTH = ("resnet18", "googlenet", "squeezenet1_0", "mobilenet_v2")
LARGER = ("alexnet", "vgg11", "densenet121", "inception_v3", "mnasnet0_5", "mobilenet_v3_small", "efficientnet_b0")


@pytest.mark.parametrize("name", [*FOLLOWED_BY_BOTH, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGER)])
def test_sets_are_the_groups_of_torch_prunings_dependency_graph(name: str) -> None:
    import torch_pruning

    size = 128 if name == "inception_v3" else 64
    spec = resolve_spec(f"torchvision:{name}", num_classes=10)
    network = trace_network(build_model(spec, device="meta"), (3, size, size), spec=spec)
    module = on_meta(network.module).requires_grad_(True).eval()
    graph = torch_pruning.DependencyGraph().build_dependency(
        module, torch.empty(1, 3, size, size, device="meta"), forward_fn=lambda m, x: m(x)
    )
    # each of its groups by the layers whose outputs go together; the classifier's is a group of its own
    theirs = set()
    for group in graph.get_all_groups():
        made = [d.target.name.split(" ")[0] for d, _ in group if graph.is_out_channel_pruning_fn(d.handler)]
        layers = frozenset(n for n in made if isinstance(_layer(module, n), (nn.Conv2d, nn.Linear)))
        theirs.add((layers, len(group[0].idxs)))
    members: dict[int, set[str]] = {}
    for (tensor, dim), channels in channels_of(network).tensors.items():
        if dim == 0 and (tensor, 1) in channels_of(network).tensors:
            for channel in channels.tolist():
                members.setdefault(channel, set()).add(tensor.removesuffix(".weight"))
    ours = {(frozenset(members[s.channels[0]]), len(s.channels)) for s in channels_of(network).sets}
    assert ours <= theirs
    assert all(network.output_shape == (count,) for _, count in theirs - ours)


def _layer(module: nn.Module, name: str) -> nn.Module | None:
    return dict(module.named_modules()).get(name)
