"""Batch-norm statistics that are computed anew are those of the batches, by hand, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepreduce.data import ImageData
from deepreduce.training import Precision, recompute_statistics
from tests.helpers.images import CPU, striped
from tests.helpers.training import FP32, same_weights, tiny


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()


def recompute(module: nn.Module, data: ImageData, *, batches: int = 3, precision: Precision = FP32) -> None:
    recompute_statistics(module, data, batches=batches, batch_size=18, seed=4, precision=precision, device=CPU)


def batches_of(data: ImageData, count: int) -> list[Tensor]:
    stream = data.train.train_batches(batch_size=18, seed=4, epoch=0, device=CPU)
    return [images for images, _, _ in stream][:count]


@pytest.mark.parametrize("batches", [1, 3])
def test_statistics_are_the_plain_averages_over_the_batches(data: ImageData, batches: int) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    norm = module[0]
    norm.running_mean.fill_(100.0)
    recompute(module, data, batches=batches)
    shown = batches_of(data, batches)
    means = torch.stack([images.mean((0, 2, 3)) for images in shown])
    variances = torch.stack([images.var((0, 2, 3), unbiased=True) for images in shown])
    assert torch.allclose(norm.running_mean, means.mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, variances.mean(0), rtol=1e-4)
    assert int(norm.num_batches_tracked) == batches


def test_a_norm_behind_others_sees_what_they_give_while_they_are_trained(data: ImageData) -> None:
    """By hand: each normalises by its own batch, as in training."""
    module = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    recompute(module, data, batches=1)
    (images,) = batches_of(data, 1)
    first = (images - images.mean((0, 2, 3), keepdim=True)) / torch.sqrt(
        images.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    )
    assert torch.allclose(module[2].running_mean, first.relu().mean((0, 2, 3)), atol=1e-5)


def test_dropout_is_off_and_all_else_stays_as_it_was(data: ImageData) -> None:
    module = tiny(dropout=0.9)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    recompute(module, data)
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in module.parameters())


def test_the_same_seed_gives_the_same_statistics_whatever_they_were_before(data: ImageData) -> None:
    one, other = tiny(), tiny()
    other.bn.running_var.mul_(7.0)
    recompute(one, data)
    recompute(other, data)
    assert same_weights(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_momentum_are_left_as_they_were(data: ImageData, training: bool) -> None:
    module = tiny().train(training)
    module.bn.train(not training)  # as a norm that somebody froze
    module.bn.momentum = 0.3
    recompute(module, data)
    assert module.bn.momentum == 0.3
    assert (module.training, module.dropout.training, module.bn.training) == (training, training, not training)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no")


def test_mode_and_momentum_are_left_as_they_were_after_an_error_too(data: ImageData) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), Failing()).train()
    with pytest.raises(RuntimeError, match="no"):
        recompute(module, data)
    assert module.training and module[0].training and module[0].momentum == 0.1


def test_norms_that_keep_no_statistics_are_not_touched(data: ImageData) -> None:
    shown: list[Tensor] = []
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3))
    module.register_forward_hook(lambda m, inputs, output: shown.append(output))
    recompute(module, data)
    assert not shown  # not even asked
    mixed = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))
    recompute(mixed, data)
    assert mixed[0].running_mean is None and int(mixed[1].num_batches_tracked) == 3


def test_more_batches_than_there_are_is_all_of_them(data: ImageData) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3))
    recompute(module, data, batches=1000)
    assert int(module[0].num_batches_tracked) == len(batches_of(data, 1000)) == 4
