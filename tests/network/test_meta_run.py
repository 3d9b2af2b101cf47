"""Running a graph without data: errors of inputs, and nothing that changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.errors import ModelError
from deepreduce.network import trace_network
from tests.helpers import zoo
from tests.helpers.zoo import TOYS


def test_an_input_that_does_not_fit_is_an_error_with_its_size() -> None:
    with pytest.raises(ModelError, match=r"can't take an image of 5x8x8 .*give another input size"):
        trace_network(TOYS["basic"].build(), (5, 8, 8))


def test_a_network_of_two_inputs_is_an_error_with_their_names() -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            return F.relu(image * mask)

    with pytest.raises(ModelError, match=r"takes 2 inputs \(image, mask\)"):
        trace_network(Two(), (3, 8, 8))


def test_a_network_that_insists_on_its_device_keeps_its_running_statistics() -> None:
    module = zoo.OwnDevice().train()
    trace_network(module, (3, 8, 8))
    assert torch.equal(module.bn.running_mean, torch.zeros(4))
    assert module.bn.num_batches_tracked == 0


def test_tracing_runs_no_arithmetic_on_the_network_itself() -> None:
    module = TOYS["basic"].build().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = torch.get_rng_state()
    trace_network(module, (3, 8, 8))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
