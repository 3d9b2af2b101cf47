"""How long a run takes, in multiply-accumulates and in seconds of this machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from deepreduce.network import ComputeCost, trace_network
from deepreduce.network.compute_cost import OPERATION_MACS
from deepreduce.training.recipe import Precision
from deepreduce.training.timing import FORWARD_SHARE, Work, seconds_per_mac
from tests.helpers.images import CPU
from tests.helpers.training import FP32, tiny
from tests.helpers.zoo import conv


def work(**changes: Any) -> Work:
    load = ComputeCost(macs=7, operations=changes.pop("operations", 0))
    values = {"batch_size": 16, "epochs": 3, "train_images": 100, "evaluated_images": 50}
    return Work(compute_cost=load, **(values | changes))


def test_work_is_three_passes_per_image_of_training_and_one_of_judging() -> None:
    assert work().total == 3 * 100 * 3 * 7 + 50 * 7
    assert work(epochs=0.25).total == 0.25 * 100 * 3 * 7 + 50 * 7
    assert work(epochs=0).total == 50 * 7


def test_operations_take_their_time_in_every_batch_however_few_images_it_has() -> None:
    images = {"evaluated_images": 0, "epochs": 1}
    alone = work(operations=5, batch_size=1, **images).total - work(batch_size=1, **images).total
    assert alone == 100 * 3 * 5 * OPERATION_MACS
    assert work(operations=5, batch_size=50, **images).total - work(**images).total == pytest.approx(alone / 50)


def test_an_answer_costs_what_a_forward_pass_is_of_a_training_step() -> None:
    step = work(epochs=1, evaluated_images=0).total / 100
    assert pytest.approx(step * FORWARD_SHARE) == 7


def test_timing_a_network_changes_neither_it_nor_the_random_state() -> None:
    network = trace_network(tiny(), (3, 8, 8))
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    state, training = torch.get_rng_state(), network.module.training
    rate = seconds_per_mac(network, batch_size=4, precision=FP32, device=CPU)
    assert 0 < rate < 1e-3
    assert torch.equal(torch.get_rng_state(), state)
    assert network.module.training == training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())


def test_a_batch_of_one_is_timed_with_two_images_which_batch_norm_needs() -> None:
    network = trace_network(tiny(), (3, 1, 1))
    assert seconds_per_mac(network, batch_size=1, precision=FP32, device=CPU) > 0


@pytest.mark.parametrize("bf16", [False, True])
def test_narrow_strided_convolutions_are_trained_in_a_layout_that_torch_bears(bf16: bool) -> None:
    def shortcut(channels: int) -> nn.Module:
        layers = (conv(3, channels), nn.ReLU(), nn.Conv2d(channels, 2 * channels, 1, stride=2))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, 3))

    last = Precision(bf16=bf16, channels_last=True)
    assert last.sound_for(shortcut(16), CPU) == last
    assert last.sound_for(shortcut(8), torch.device("cuda")) == last
    assert last.sound_for(shortcut(8), CPU) == Precision(bf16=bf16, channels_last=False)
    network = trace_network(shortcut(8), (3, 112, 112))
    assert seconds_per_mac(network, batch_size=32, precision=last, device=CPU) > 0  # it crashed
