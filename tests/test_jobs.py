"""A network of a run: trained once, resumed where it stopped, and trained again where a file is corrupt."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepreduce import jobs, load_reduced
from deepreduce.data import ImageData
from deepreduce.errors import CheckpointError, RunError, UserError
from deepreduce.jobs import Job, Outcome, Workshop
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.runs import NetworkFolder
from deepreduce.training import Distillation, EpochRecord, Lesson, Monitor, Precision, Progress, Stopped, predict
from deepreduce.transforms import apply_plan
from tests.data.toys import CPU, striped
from tests.training.toys import FP32, RECIPE, tiny


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()


@pytest.fixture(scope="module")
def original() -> Network:
    return trace_network(tiny(), (3, 8, 8), name="tiny")


def teacher() -> nn.Module:
    return tiny(seed=9).eval().requires_grad_(False)


def workshop(original: Network, data: ImageData, *, taught: bool = True, **options: Any) -> Workshop:
    values: dict[str, Any] = {
        "precision": FP32,
        "device": CPU,
        "distillation": Distillation(),
        "checkpoint_seconds": math.inf,
        "stop": lambda: False,
    }
    if taught:
        precision = options.get("precision", FP32)
        lesson = Lesson(teacher().to(memory_format=precision.memory_format), precision=precision)
        values |= {"lesson": lesson, "teacher_test": predict(teacher(), data.test, batch_size=256)}
    return Workshop(original=original, data=data, **(values | options))


def job(original: Network, folder: Path, **options: Any) -> Job:
    plan = ReductionPlan(sites=((original.sites[0].name, "identity"),))
    folder.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "name": "cull S1",
        "plan": plan,
        "folder": NetworkFolder(path=folder),
        "recipe": RECIPE,
        "seed": 4,
    }
    return Job(**(values | options))


silent = Monitor()


def plain(outcome: Outcome) -> Outcome:
    """Without what a clock measured."""
    return replace(outcome, train_seconds=0.0)


FILES = ["history.csv", "metrics.json", "model.safetensors", "plan.json"]


@pytest.mark.parametrize("precision", [FP32, Precision(bf16=True, channels_last=True)], ids=["fp32", "bf16"])
def test_the_accuracies_kept_are_those_of_the_network_that_loads_back(
    original: Network, data: ImageData, tmp_path: Path, precision: Precision
) -> None:
    shop = workshop(original, data, precision=precision)
    wanted = job(original, tmp_path)
    outcome = shop.run(wanted, silent)
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    reduced = apply_plan(original, wanted.plan)
    assert (outcome.relu_count, outcome.stage_relu_counts) == (reduced.relu_count, reduced.stage_relu_counts)
    measurement = outcome.measurement()
    assert measurement is not None
    for module in (load_reduced(tmp_path, model=tiny()), shop.load(wanted).module):
        assert predict(module, data.val, batch_size=256).accuracy == measurement.val_accuracy
        test = predict(module, data.test, batch_size=256)
        assert test.accuracy == measurement.test_accuracy
        taught = predict(teacher(), data.test, batch_size=256).predicted
        assert measurement.churn == float((test.predicted != taught).double().mean())


def test_a_network_that_is_done_is_not_trained_again(original: Network, data: ImageData, tmp_path: Path) -> None:
    first = workshop(original, data).run(job(original, tmp_path), silent)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert workshop(original, data).run(job(original, tmp_path), silent) == first
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_a_probe_is_not_tested(original: Network, data: ImageData, tmp_path: Path) -> None:
    outcome = workshop(original, data).run(job(original, tmp_path, test=False), silent)
    assert outcome.val_accuracy is not None
    assert outcome.test_accuracy is None and outcome.measurement() is None
    assert "test" not in outcome.told()


def test_the_teacher_has_no_churn(original: Network, data: ImageData, tmp_path: Path) -> None:
    assert workshop(original, data, taught=False).run(job(original, tmp_path), silent).churn == 0.0


def test_a_network_that_is_not_to_be_trained_is_measured_as_it_is(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    wanted = job(original, tmp_path, recipe=replace(RECIPE, epochs=0))
    outcome = workshop(original, data).run(wanted, silent)
    expected = predict(apply_plan(original, wanted.plan).module, data.test, batch_size=256).accuracy
    assert outcome.test_accuracy == expected
    assert outcome.train_seconds == 0


def test_a_network_that_goes_on_tells_first_which_epochs_are_behind_it(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    told: list[list[int]] = []

    def start(epochs: Sequence[EpochRecord]) -> None:
        told.append([record.epoch for record in epochs])

    monitor = Monitor(on_start=start, on_epoch=lambda record: told.append([record.epoch]))
    wanted = job(original, tmp_path)
    steps = data.train.num_steps(RECIPE.batch_size)
    with pytest.raises(Stopped):
        workshop(original, data, stop=stopping_after(steps)).run(wanted, monitor)
    assert told == [[], [1]]
    workshop(original, data).run(wanted, monitor)
    assert told[2:] == [[1], *([epoch] for epoch in range(2, RECIPE.epochs + 1))]
    assert [record.epoch for record in wanted.folder.history()] == list(range(1, RECIPE.epochs + 1))


def stopping_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(10_000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_stopped_network_ends_like_one_that_was_not(
    original: Network, data: ImageData, tmp_path: Path, steps: int
) -> None:
    undisturbed = job(original, tmp_path / "undisturbed")
    expected = workshop(original, data).run(undisturbed, silent)
    stopped = job(original, tmp_path / "stopped")
    with pytest.raises(Stopped):
        workshop(original, data, stop=stopping_after(steps)).run(stopped, silent)
    assert [p.name for p in stopped.folder.path.iterdir()] == ["training.safetensors"]
    assert plain(workshop(original, data).run(stopped, silent)) == plain(expected)
    assert sorted(p.name for p in stopped.folder.path.iterdir()) == FILES
    one, other = (j.folder.weights() for j in (undisturbed, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def corrupt(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        content[-2] ^= 0xFF
        path.write_bytes(content)
    elif how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json"])
def test_a_corrupt_file_is_named_and_that_network_trained_again(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, how: str
) -> None:
    wanted = job(original, tmp_path)
    expected = workshop(original, data).run(wanted, silent)
    weights = {key: tensor.clone() for key, tensor in wanted.folder.weights().items()}
    corrupt(tmp_path / name, how)
    with caplog.at_level(logging.WARNING):
        assert plain(workshop(original, data).run(wanted, silent)) == plain(expected)
    if (name, how) == ("metrics.json", "missing"):
        assert not caplog.records  # it is not done, then
    else:
        assert [
            r.message for r in caplog.records if str(tmp_path) in r.message and "training cull S1 again" in r.message
        ]
        assert name in caplog.text
    again = wanted.folder.weights()
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert load_reduced(tmp_path, model=tiny()) is not None


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"val_accuracy": 0.5},
        {"val_accuracy": "high", "test_accuracy": 0.5},
        {"val_accuracy": math.nan, "test_accuracy": 0.5},
        {"val_accuracy": 0.5, "test_accuracy": 0.5, "stage_relu_counts": [3]},
        {"val_accuracy": 0.5, "test_accuracy": 0.5, "relu_count": None},
        {"val_accuracy": 0.5, "test_accuracy": 0.5, "more": 1},
    ],
)
def test_metrics_that_say_something_else_are_corrupt(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture, metrics: dict[str, Any]
) -> None:
    wanted = job(original, tmp_path)
    expected = workshop(original, data).run(wanted, silent)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert plain(workshop(original, data).run(wanted, silent)) == plain(expected)
    assert "metrics" in caplog.text and "training cull S1 again" in caplog.text


def test_a_corrupt_description_is_named_and_written_again(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = job(original, tmp_path)
    expected = workshop(original, data).run(wanted, silent)
    before = (tmp_path / "plan.json").read_text()
    for how in ("truncated", "empty", "missing"):
        corrupt(tmp_path / "plan.json", how)
        assert workshop(original, data).run(wanted, silent) == expected
        assert (tmp_path / "plan.json").read_text() == before
        assert "plan.json can't be read" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "of another network", "of no training"])
def test_a_corrupt_state_is_named_and_the_training_begins_again(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    expected = workshop(original, data).run(job(original, tmp_path / "undisturbed"), silent)
    wanted = job(original, tmp_path / "stopped")
    with pytest.raises(Stopped):
        workshop(original, data, stop=stopping_after(5)).run(wanted, silent)
    snapshot = wanted.folder.snapshot()
    assert snapshot is not None
    if how == "of another network":
        tensors = {name: torch.zeros(7) for name in snapshot.tensors}
        wanted.folder.save_snapshot(replace(snapshot, tensors=tensors))
    elif how == "of no training":
        wanted.folder.save_snapshot(replace(snapshot, values={}))
    else:
        corrupt(wanted.folder.path / "training.safetensors", how)
    assert plain(workshop(original, data).run(wanted, silent)) == plain(expected)
    assert str(wanted.folder.path) in caplog.text
    assert "training cull S1 again from the start" in caplog.text


def test_a_network_whose_loss_is_never_finite_is_kept_as_failed_and_not_tried_again(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, warmup_epochs=0.0, clip_norm=None)
    wanted = job(original, tmp_path, recipe=recipe)
    outcome = workshop(original, data).run(wanted, silent)
    assert outcome.failure is not None and "not finite" in outcome.failure
    assert outcome.told().startswith("failed: ")
    assert outcome.measurement() is None
    assert outcome.relu_count == apply_plan(original, wanted.plan).relu_count
    assert not (tmp_path / "model.safetensors").exists()

    def never() -> Network:
        raise AssertionError("it was trained again")

    told: list[Progress] = []
    assert workshop(original, data).run(wanted, Monitor(on_step=told.append)) == outcome
    assert not told
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        workshop(original, data).load(wanted)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_network_that_does_not_fit_into_memory_is_one_line_with_the_repair(
    original: Network, data: ImageData, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(*_: Any, **__: Any) -> Network:
        raise error

    monkeypatch.setattr(jobs, "apply_plan", apply)
    with pytest.raises(RunError, match=r"cull S1 does not fit into the memory of cpu; lower training\.batch_size"):
        workshop(original, data).run(job(original, tmp_path), silent)


def test_a_batch_too_small_for_batch_norm_is_one_line_with_the_repair(data: ImageData, tmp_path: Path) -> None:
    class Pooled(nn.Sequential):
        """Its feature map is a single position where it is normalised."""

        def __init__(self) -> None:
            pool, norm = nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)
            super().__init__(pool, norm, nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten())

    network = trace_network(Pooled(), (3, 8, 8))
    wanted = job(network, tmp_path, recipe=replace(RECIPE, batch_size=1))
    with pytest.raises(UserError, match=r"one value per channel.*raise training\.batch_size"):
        workshop(network, data, taught=False).run(wanted, silent)


def test_other_errors_stay_what_they_are(
    original: Network, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(*_: Any, **__: Any) -> Network:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(jobs, "apply_plan", apply)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        workshop(original, data).run(job(original, tmp_path), silent)


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.mark.parametrize("after", range(8))
def test_a_kill_between_any_two_files_loses_nothing(
    original: Network, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    expected = workshop(original, data).run(job(original, tmp_path / "undisturbed"), silent)
    written, rename = iter(range(10_000)), os.replace

    def killed(source: Any, target: Any) -> None:
        if next(written) == after:
            raise Killed
        rename(source, target)

    wanted = job(original, tmp_path / "killed")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            workshop(original, data, checkpoint_seconds=0.0).run(wanted, silent)
    assert plain(workshop(original, data).run(wanted, silent)) == plain(expected)
    assert sorted(p.name for p in wanted.folder.path.iterdir()) == FILES
