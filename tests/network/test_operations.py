"""Operations in the tables: ReLUs, other non-linearities, and linear ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepreduce.cost.layers import KINDS
from deepreduce.network import trace_network
from deepreduce.network.operations import OPERATIONS, Role, classify, operations_of


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: torch.clamp(x, 0), "relu"),
        (lambda x: x.clamp(min=0, max=6), "relu6"),
        (lambda x: F.hardtanh(x, 0.0, 1.0), "relu6"),
        (lambda x: F.threshold(x, 0, 0), "relu"),
        (lambda x: nn.functional.relu6(x, inplace=True), "relu6"),
    ],
)
def test_what_computes_a_relu_is_a_site(function: object, kind: str) -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)  # type: ignore[operator, no-any-return]

    (site,) = trace_network(Module(), (3, 4, 4)).sites
    assert (site.kind, site.relu_count) == (kind, 3 * 4 * 4)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.clamp(max=0), "clamp"),
        (lambda x: x.clamp(min=torch.zeros(())), "clamp"),
        (lambda x: x.clamp(-1, 1), "clamp"),
        (lambda x: torch.maximum(x, 2 * x), "max"),
        (lambda x: F.softsign(x), "abs"),
        (lambda x: torch.log1p(x), "log1p"),
        (lambda x: torch.erfinv(x), "erfinv"),
        (lambda x: x.std(dim=1), "std"),
        (lambda x: 1 / x, "reciprocal"),
    ],
)
def test_what_is_neither_relu_nor_linear_is_reported(function: object, name: str) -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)  # type: ignore[operator, no-any-return]

    network = trace_network(Module(), (3, 4, 4))
    assert network.sites == ()
    assert name in network.unsupported


def test_linear_operations_are_not_reported() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(x, (1, 1, 1, 1)).flip(3).roll(1, 2).transpose(2, 3).contiguous()
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0) - x.mean() + x[:, :1].expand(-1, 3, -1, -1)
            a, b, c = x.chunk(3, dim=1)  # older versions of torch.fx don't follow cat of a call's result
            return torch.cat([a, b, c], dim=2).flatten(1) * 0.5

    assert dict(trace_network(Module(), (3, 4, 4)).unsupported) == {}


class Scaled(nn.Module):
    """What `function` makes of an image x and of what the network holds: a weight of each channel, a statistic."""

    def __init__(self, function: Callable[[Tensor, Scaled], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.rand(3, 1, 1))
        self.register_buffer("deviation", torch.rand(3, 1, 1) + 1)
        self.squeeze = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self)


@pytest.mark.parametrize(
    ("function", "reported"),
    [
        (lambda x, net: x * x, {"product": 1}),
        (lambda x, net: x.mul(x.mean()), {"product": 1}),  # a single number that depends on the image
        (lambda x, net: x * net.squeeze(x.mean((2, 3), keepdim=True)), {"product": 1}),  # a gate
        (lambda x, net: torch.addcmul(x, x, x + 1), {"product": 1}),
        (lambda x, net: x.clone().mul_(x), {"product": 1}),
        (lambda x, net: torch.zeros_like(net.weight).add_(x.mean()) * x, {"product": 1}),
        (lambda x, net: x / x.mean(), {"division": 1}),
        (lambda x, net: x * torch.sigmoid(x), {"sigmoid": 1, "product": 1}),
    ],
)
def test_products_of_two_activations_are_reported(function: Any, reported: dict[str, int]) -> None:
    assert dict(trace_network(Scaled(function), (3, 4, 4)).unsupported) == reported


@pytest.mark.parametrize(
    "function",
    [
        lambda x, net: 0.5 * x / 3,
        lambda x, net: net.weight * x,
        lambda x, net: x.mul_(net.weight).div_(net.deviation),
        lambda x, net: x * net.weight.view(1, 3, 1, 1).expand(1, 3, 4, 4),
        lambda x, net: x * (net.weight * net.deviation),
        lambda x, net: x * torch.ones_like(x),
        lambda x, net: torch.addcmul(x, net.weight, net.weight),
        lambda x, net: x / torch.tensor(2.0),
    ],
)
def test_scaling_by_what_the_network_holds_is_linear(function: Any) -> None:
    assert dict(trace_network(Scaled(function), (3, 4, 4)).unsupported) == {}


# -- the table ------------------------------------------------------------------------------------------------


def test_the_table_names_operations_of_aten_and_kinds_of_layers() -> None:
    assert [name for name in OPERATIONS if not hasattr(torch.ops.aten, name)] == []
    assert {operation.layer for operation in OPERATIONS.values()} <= set(KINDS)


def test_every_batch_norm_of_aten_that_evaluates_is_in_the_table_once() -> None:
    norms = {name for name in dir(torch.ops.aten) if "batch_norm" in name and "backward" not in name}
    known = operations_of(Role.BATCH_NORM)
    assert known <= norms
    # the others gather or update statistics, or are decomposed into these
    assert {name for name in norms - known if "no_training" in name or "no_update" in name} == set()


UNARY = [
    (torch.neg, ()), (torch.flip, ([1],)), (torch.permute, ([0, 2, 1, 3],)), (torch.roll, (1, 2)), (torch.tril, ()),
    (torch.sum, ([2],)), (torch.mean, ([2, 3],)), (torch.unsqueeze, (0,)), (F.avg_pool2d, (2,)), (torch.clone, ()),
    (F.pixel_shuffle, (2,)), (F.adaptive_avg_pool2d, (1,)), (torch.select, (1, 0)), (torch.narrow, (1, 0, 2)),
    (torch.diagonal, (0, 2, 3)), (F.upsample_bilinear, (8,)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "options"), UNARY, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.filterwarnings("ignore:.*upsample_bilinear.*")
def test_what_is_not_reported_is_linear_in_its_tensor(function: Any, options: tuple[Any, ...]) -> None:
    log = Recorded()
    a, b = torch.randn(2, 1, 4, 4, 4).unbind()
    with log:
        whole = function(a + b, *options)
    assert all(classify(func, args) is None for func, args in log.calls)
    assert torch.allclose(whole, function(a, *options) + function(b, *options), atol=1e-5)


class Recorded(TorchDispatchMode):
    """Every operation that executes, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((func, args))
        return func(*args, **(kwargs or {}))
