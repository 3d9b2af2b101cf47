"""What a module is, by what it does: leaves, identities, wrappers."""

from __future__ import annotations

from typing import Any

import pytest
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from deepreduce.network.module_kinds import (
    has_own_hooks,
    is_layer_of_torch,
    returns_its_input,
    torch_class_of,
    unwrapped,
    wrapped_module,
)
from tests.helpers.brought import (
    CalledNorm,
    DropBranch,
    FrozenNorm,
    Overwriting,
    PlainConv,
    PlainNorm,
    StochasticDepth,
)


class OwnPadding(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        return super()._conv_forward(*args) * 2


def patched() -> nn.Module:
    layer = nn.Conv2d(3, 3, 1)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


def test_a_subclass_that_overrides_nothing_computes_as_its_base() -> None:
    assert torch_class_of(PlainConv(3, 3, 1)) is nn.Conv2d
    assert torch_class_of(PlainNorm(3)) is nn.BatchNorm2d
    assert torch_class_of(nn.ReLU()) is nn.ReLU


@pytest.mark.parametrize(
    "build",
    [
        lambda: CalledNorm(3), lambda: FrozenNorm(3), lambda: OwnPadding(3, 3, 1), patched,
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), StochasticDepth,
    ],
)  # fmt: skip
def test_what_overrides_anything_computes_as_no_class_of_torch(build: Any) -> None:
    assert torch_class_of(build()) is None


def test_containers_and_wrappers_are_no_layers() -> None:
    assert is_layer_of_torch(nn.Conv2d(3, 3, 1)) and is_layer_of_torch(nn.TransformerEncoderLayer(8, 2))
    assert is_layer_of_torch(parametrizations.weight_norm(nn.Conv2d(3, 3, 1)))
    for module in (nn.Sequential(), nn.DataParallel(nn.ReLU()), StochasticDepth(), patched()):
        assert not is_layer_of_torch(module)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x * 2


def test_a_stochastic_layer_is_one_by_what_it_does() -> None:
    for layer in (DropBranch(), torchvision.ops.StochasticDepth(0.5, "row"), torchvision.ops.DropBlock2d(0.1, 3)):
        assert returns_its_input(layer.train()) and layer.training
    for layer in (StochasticDepth(), Scaled(), Overwriting(), nn.ReLU(), nn.ReLU(inplace=True), nn.BatchNorm2d(8)):
        assert not returns_its_input(layer)


def test_wrappers_are_taken_off_unless_they_have_hooks() -> None:
    network = nn.Sequential(nn.ReLU())
    assert unwrapped(nn.DataParallel(AveragedModel(network))) is not network  # AveragedModel copies
    assert isinstance(unwrapped(nn.DataParallel(AveragedModel(network))), nn.Sequential)
    assert unwrapped(network) is network and wrapped_module(network) is None
    around = nn.DataParallel(network)
    around.register_forward_hook(lambda *_: None)
    assert unwrapped(around) is around and has_own_hooks(around)


def test_hooks_of_torch_are_not_the_users() -> None:
    assert not has_own_hooks(nn.utils.spectral_norm(nn.Conv2d(3, 3, 1)))
