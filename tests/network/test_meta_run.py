"""Running a graph without data: errors of inputs, and nothing that changes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.errors import ModelError
from deepreduce.network import trace_network
from deepreduce.network.meta_run import execute
from tests.helpers import REPOSITORY, zoo
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


ATEN = torch.ops.aten
IMAGE = torch.empty(1, 4, 6, 5, device="meta")
LAST = IMAGE.to(memory_format=torch.channels_last)
MATRIX, NARROW, VECTOR = (torch.empty(*sizes, device="meta") for sizes in ((3, 4), (4, 2), (2,)))
CHANNELS = [torch.empty(4, device="meta")] * 4


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (ATEN.relu.default, (IMAGE,)),
        (ATEN.relu.default, (LAST,)),
        (ATEN.relu.default, (IMAGE[:, :, ::2].transpose(1, 3),)),
        (ATEN.relu.default, (IMAGE.to(torch.int64),)),
        (ATEN.hardtanh.default, (IMAGE, 0, 6)),
        (ATEN.add.Tensor, (IMAGE, IMAGE)),
        (ATEN.add.Tensor, (LAST, LAST)),
        (ATEN.add.Tensor, (IMAGE, LAST)),
        (ATEN.add.Tensor, (IMAGE, IMAGE[:, :, :1])),
        (ATEN.add.Tensor, (IMAGE, IMAGE.double())),
        (ATEN.add.Tensor, (IMAGE, 1)),
        (ATEN.mean.dim, (IMAGE, [-1, -2], True)),
        (ATEN.mean.dim, (IMAGE, [2, 3])),
        (ATEN.mean.dim, (LAST, [-1, -2], True)),
        (ATEN.mean.dim, (IMAGE, [])),
        (ATEN.mean.dim, (IMAGE, None)),
        (ATEN.addmm.default, (VECTOR, MATRIX, NARROW)),
        (ATEN.addmm.default, (VECTOR, MATRIX, NARROW.t().contiguous().t())),
        (ATEN.addmm.default, (VECTOR[:1], MATRIX, NARROW)),
        (ATEN.native_batch_norm.default, (IMAGE, *CHANNELS, False, 0.1, 1e-5)),
        (ATEN.native_batch_norm.default, (LAST, *CHANNELS, False, 0.1, 1e-5)),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else "",
)
def test_operations_give_the_tensors_that_torch_gives(operation: torch._ops.OpOverload, arguments: Any) -> None:
    one, other = (_first(result) for result in (execute(operation, arguments, {}), operation(*arguments)))
    assert (one.shape, one.stride(), one.dtype, one.device) == (
        other.shape, other.stride(), other.dtype, other.device,
    )  # fmt: skip


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (ATEN.addmm.default, (VECTOR, MATRIX, MATRIX)),
        (ATEN.addmm.default, (CHANNELS[0], MATRIX, NARROW)),
        (ATEN.mean.dim, (IMAGE, [4])),
        (ATEN.mean.dim, (IMAGE, [1, 1])),
        (ATEN.add.Tensor, (IMAGE, LAST[:, :3])),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else "",
)
def test_what_torch_refuses_is_refused(operation: torch._ops.OpOverload, arguments: Any) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        execute(operation, arguments, {})


def test_an_analysis_does_not_import_torchs_compiler() -> None:
    """It takes longer to import than a network takes to be analyzed."""
    code = """
import sys
from deepreduce import analyze
for name in ("resnet18", "vgg16_bn", "mobilenet_v2"):
    assert analyze(name).relu_count
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
