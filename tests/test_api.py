"""The public functions: modules and data from Python, and mistakes named before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepreduce
from deepreduce.errors import (
    ConfigError,
    DataError,
    ModelError,
    PlanError,
    RunError,
    UserError,
)
from tests.helpers.runs import (
    TINY,
)


class _Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 8, 3, 2, 1),
        )
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = self.c(x).relu()
        return self.head(x.mean((2, 3)))


def measured(result: deepreduce.Result) -> list[deepreduce.ReducedNetwork]:
    """The candidates that were not dropped."""
    return [n for n in result.candidates if n.candidate.measurement is not None]


def _tensors() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randn(120, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
    return images[:90], labels[:90], images[90:], labels[90:]


_QUICK: dict[str, Any] = {
    "training": {"epochs": 1, "batch_size": 16},
    "method": {"alphas": [1.0]},
    "threads": 1,
    "side_by_side": 1,
}


class _NoRelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x.flatten(1)[:, :3])


def test_a_module_and_tensors_of_ones_own_are_reduced_without_being_changed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = _Net()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    result = deepreduce.optimize(module, _tensors(), out=tmp_path / "run", **_QUICK)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert result.teacher.relu_count == 2 * 4 * 64 + 8 * 16
    small = min(measured(result), key=lambda n: n.relu_count)
    assert small.model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    reloaded = deepreduce.load_reduced(small.folder, model=_Net())
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(reloaded(images), small.model(images))


def test_torch_data_sets_of_ones_own_will_do(tmp_path: Path) -> None:
    from torch.utils.data import TensorDataset

    x_train, y_train, x_test, y_test = _tensors()
    data = (TensorDataset(x_train, y_train), TensorDataset(x_test, y_test))
    result = deepreduce.optimize(_Net(), data, out=tmp_path / "run", **_QUICK)
    assert result.frontier
    with pytest.raises(UserError, match="transforms of its own"):
        deepreduce.load_reduced(result.teacher.folder, model=_Net(), raw_pixels=True)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["model.name=resnet81"], ModelError, "unknown model 'resnet81'; did you mean 'resnet18'"),
        (["data.name=digit"], DataError, "unknown data set 'digit'; did you mean 'digits'"),
        (["device=gpu"], ConfigError, "unknown device 'gpu'"),
        (["device=cuda:7"], ConfigError, "PyTorch sees"),
        (["training.epoch=3"], ConfigError, "did you mean 'training.epochs'"),
        (["method=deepreduce", "method.cull_order=S9"], PlanError, "unknown stage 'S9'"),
        (["method=deepreduce", "method.cull_order=S1,S2,S3"], PlanError, "leave out the stage to keep"),
        (["training.batch_size=5000"], DataError, "fewer than a batch of 5,000"),
        (["data.train_limit=5000"], DataError, "data.train_limit is 5,000; digits has 1,438"),
        (["data.image_size=2", "model.blocks=null"], ModelError, "too small"),
        (["plot.published=nowhere.csv"], UserError, "nowhere.csv"),
        (["plot.published_dataset=CIFAR-100"], ConfigError, "plot.published, which"),
        (["model.weights=nowhere.safetensors"], ModelError, "nowhere.safetensors can't be read"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(
    tmp_path: Path, settings: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        deepreduce.optimize(out=tmp_path / "run", settings=settings, **TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (_NoRelu(), r"_NoRelu has no ReLUs, so there is nothing to reduce .*sigmoid"),
        (_Net(classes=7), r"\(7,\) for one image; the data have 3 classes"),
    ],
)
def test_a_module_that_can_not_be_reduced_says_why(tmp_path: Path, module: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        deepreduce.optimize(module, _tensors(), out=tmp_path / "run", **_QUICK)


def test_a_network_that_is_trained_already_is_taken_as_it_is(tmp_path: Path) -> None:
    module = _Net()
    options = {**_QUICK, "training": {**_QUICK["training"], "teacher_epochs": 0}}
    result = deepreduce.optimize(module, _tensors(), out=tmp_path / "run", **options)
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(result.teacher.model(images), module.eval()(images))


def test_a_learning_rate_that_no_network_survives_is_an_error_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"teacher could not be trained: .*; lower training.learning_rate"):
        deepreduce.optimize(
            out=tmp_path / "run", settings=["training.learning_rate=1e6", "training.clip_norm=null"], **TINY
        )
