"""rho and the pools that cover the whole map: their windows shrink with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.errors import PlanError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.store.checkpoint import SavedNetwork, describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import apply_plan, reshape, reshape_plan


class Pooled(nn.Module):
    """A convolution to maps of 8x8, a pool to one position, a classifier."""

    def __init__(self, pool: Callable[[Tensor], Any] = lambda x: F.avg_pool2d(x, 8)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3), pool

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(F.relu(self.conv(x))).flatten(1))


def average(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def largest(x: Tensor) -> Tensor:
    return x.amax((2, 3), keepdim=True)


POOLS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "F.avg_pool2d": (lambda x: F.avg_pool2d(x, 8), average),
    "F.avg_pool2d, stride 1": (lambda x: F.avg_pool2d(x, kernel_size=(8, 8), stride=1), average),
    "F.avg_pool2d, padded": (lambda x: F.avg_pool2d(x, 10, padding=1, count_include_pad=False), average),
    "F.avg_pool2d, 7 of 8": (lambda x: F.avg_pool2d(x, 7), average),
    "F.avg_pool2d, divisor": (lambda x: F.avg_pool2d(x, 8, divisor_override=32), lambda x: 2 * average(x)),
    "nn.AvgPool2d": (nn.AvgPool2d(8), average),
    "nn.AvgPool2d, stride 1": (nn.AvgPool2d(8, stride=1), average),
    "F.max_pool2d": (lambda x: F.max_pool2d(x, 8), largest),
    "torch.max_pool2d": (lambda x: torch.max_pool2d(x, [8, 8]), largest),
    "nn.MaxPool2d": (nn.MaxPool2d(8), largest),
    "mean": (average, average),
    "adaptive": (nn.AdaptiveAvgPool2d(1), average),
    "rows and columns": (lambda x: F.avg_pool2d(F.max_pool2d(x, (8, 1)), (1, 8)), lambda x: average(x.amax(2, True))),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("rho", [0.5, 0.25])
def test_a_pool_of_the_whole_map_covers_the_smaller_map(name: str, rho: float) -> None:
    pool, meaning = POOLS[name]
    module = Pooled(pool).eval()
    halved = reshape(trace_network(module, (3, 8, 8)), rho=rho)
    assert halved.relu_count == 4 * int(8 * rho) ** 2
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        maps = F.relu(F.conv2d(images, module.conv.weight, module.conv.bias, stride=round(1 / rho), padding=1))
        torch.testing.assert_close(halved.as_module()(images), module.fc(meaning(maps).flatten(1)))


def test_windows_are_those_that_costs_see() -> None:
    halved = reshape(trace_network(Pooled(nn.MaxPool2d(8)), (3, 8, 8)), rho=0.5)
    assert [layer.kernel for layer in layers_of(halved) if layer.kind == "max_pool"] == [(4, 4)]


class Shared(nn.Module):
    """One pool called at every size down to one position, as VGG does it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(3))
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.pool(F.relu(conv(x)))
        return self.fc(x.flatten(1))


def test_a_shared_pool_shrinks_only_where_it_covers_the_map() -> None:
    network = trace_network(Shared(), (3, 8, 8))
    halved = reshape(network, rho=0.5)
    assert [layer.kernel for layer in layers_of(halved) if layer.kind == "max_pool"] == [(2, 2), (2, 2), (1, 1)]
    assert halved.relu_count == network.relu_count // 4
    assert network.module.get_submodule("pool").kernel_size == 2  # the original is as it was
    with pytest.raises(PlanError, match=r"rho 0.25 does not fit Shared"):  # a pool would have to drop positions
        reshape(network, rho=0.25)


def test_rho_twice_is_rho_at_once() -> None:
    network = trace_network(Pooled().eval(), (3, 8, 8))
    twice, once = reshape(reshape(network, rho=0.5), rho=0.5), reshape(network, rho=0.25)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(twice.as_module()(images), once.as_module()(images))


def test_a_network_that_is_built_again_keeps_its_fitted_pools() -> None:
    spec = resolve_spec("vgg16_bn", num_classes=5, width=8)
    network = trace_network(build_model(spec), (3, 32, 32), spec=spec)
    halved = reshape(network, rho=0.5)
    assert halved.relu_count == network.relu_count // 4
    assert reshape(halved, alpha=0.5).sites == reshape(network, rho=0.5, alpha=0.5).sites


def test_a_divisor_that_cannot_shrink_is_refused() -> None:
    network = trace_network(Pooled(lambda x: F.avg_pool2d(x, 8, divisor_override=33)), (3, 8, 8))
    with pytest.raises(PlanError, match=r"avg_pool2d from 8x8 to 4x4, but not its divisor_override of 33; leave out"):
        reshape(network, rho=0.5)


def test_a_saved_network_has_its_fitted_pools_when_loaded(tmp_path: Path) -> None:
    network = trace_network(Pooled(), (3, 8, 8))
    plan = reshape_plan(rho=0.5)
    reduced: Network = apply_plan(network, plan)
    NetworkFolder(path=tmp_path).finish(
        weights=reduced.module.state_dict(),
        description=describe_network(network, reduced, plan, label="half"),
        metrics={},
        history=(),
    )
    loaded, images = SavedNetwork.read(tmp_path).load(Pooled()), torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.as_module()(images), reduced.as_module().eval()(images))
