"""Operations in the tables: ReLUs, other non-linearities, and linear ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.network import trace_network


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
