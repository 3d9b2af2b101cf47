"""Networks put together at random from what people bring: counted, and the same in both modes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import trace_network
from tests.helpers.brought import (
    MAP,
    SHAPE,
    WIDTH,
    CalledNorm,
    DropBranch,
    FrozenNorm,
    NormAct,
    OwnNorm,
    PlainConv,
    PlainNorm,
    Step,
    assert_same_network,
    conv,
    head,
)

ONE = WIDTH * MAP


class Block(nn.Module):
    """Calls a function of itself and its input, with an optional argument and layers inside."""

    def __init__(self, inside: nn.Module, function: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.inside, self.function = inside, function
        self.score = nn.Parameter(torch.linspace(-1, 1, WIDTH).view(-1, 1, 1))

    def forward(self, x: Tensor, mode: str | None = None, **rest: object) -> Tensor:
        return self.function(self, x) if mode is None and not rest else x


def added(block: Block, x: Tensor) -> Tensor:
    y = block.inside(x) * 1.5
    alias = y
    y += x
    return alias * block.score


def gated(block: Block, x: Tensor) -> Tensor:
    return block.inside(x) * Step.apply(block.score, 0.0)


def detached(block: Block, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = block.inside(x)
    return x + y * block.score


def sized(block: Block, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    if h * w == MAP and x.dim() == 4:
        x = block.inside(x)
    return x.reshape(b, c, -1).view(x.size(0), c, h, w) * block.score


def dropped(block: Block, x: Tensor) -> Tensor:
    return F.dropout(block.inside(x), 0.4, block.training) * block.score


LAYERS: tuple[tuple[Callable[[], nn.Module], int], ...] = (
    (conv, 0),
    (lambda: nn.Sequential(conv(), nn.ReLU(inplace=True)), ONE),
    (lambda: NormAct(WIDTH), ONE),
    (lambda: CalledNorm(WIDTH), ONE),
    (lambda: FrozenNorm(WIDTH), 0),
    (lambda: nn.Sequential(OwnNorm(WIDTH), nn.ReLU()), ONE),
    (lambda: nn.Sequential(PlainConv(WIDTH, WIDTH, 1), PlainNorm(WIDTH)), 0),
    (DropBranch, 0),
)


@st.composite
def parts(draw: st.DrawFn, depth: int = 2) -> tuple[nn.Module, int]:
    """A part of a network for maps (WIDTH, 8, 8), and its ReLUs."""
    if depth == 0 or draw(st.booleans()):
        build, relus = draw(st.sampled_from(LAYERS))
        return build(), relus
    inside, relus = draw(parts(depth=depth - 1))
    block: nn.Module = Block(inside, draw(st.sampled_from((added, gated, detached, sized, dropped))))
    around = draw(st.sampled_from(("nothing", "DataParallel", "hook before", "hook after", "relu after")))
    if around == "DataParallel":
        block = nn.DataParallel(block)
    elif around == "hook before":
        block.register_forward_pre_hook(lambda _, args: (args[0] * 0.5, *args[1:]))
    elif around == "hook after":
        block.register_forward_hook(lambda _, args, out: out + args[0])
    elif around == "relu after":
        block.register_forward_hook(lambda _, args, out: F.relu(out))
        relus += ONE
    return block, relus


@settings(max_examples=15)
@given(drawn=st.lists(parts(), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_a_random_network_of_what_people_bring_is_counted_and_the_same_in_both_modes(
    drawn: list[tuple[nn.Module, int]], seed: int
) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(conv(3), *(part for part, _ in drawn), *head()).eval()
    network = trace_network(module, SHAPE)
    assert network.relu_count == sum(relus for _, relus in drawn)
    assert_same_network(network, module)
