"""A network of a run: trained once, resumed where it stopped, and trained again where a file is corrupt."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepreduce import load_reduced
from deepreduce.data import ImageData
from deepreduce.errors import CheckpointError, RunError, UserError
from deepreduce.execution import trainer as subject
from deepreduce.execution.anneal import Anneal
from deepreduce.execution.trainer import CandidateTrainer, SharedWeightsTask, TrainResult, TrainTask, WarmStart
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.training import (
    AugmentationSchedule,
    Distillation,
    EpochEnded,
    Precision,
    Started,
    Stopped,
    Teacher,
    TrainingEvent,
    predict,
)
from deepreduce.transforms import apply_plan, warm_start
from tests.helpers.callbacks import AverageWeights
from tests.helpers.images import CPU, striped
from tests.helpers.training import FP32, RECIPE, tiny


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()


@pytest.fixture(scope="module")
def original() -> Network:
    return trace_network(tiny(), (3, 8, 8), name="tiny")


def workshop(original: Network, data: ImageData, **options: Any) -> CandidateTrainer:
    values: dict[str, Any] = {
        "precision": FP32,
        "device": CPU,
        "distillation": Distillation(),
        "checkpoint_seconds": math.inf,
        "stop": lambda: False,
    }
    return taught(CandidateTrainer(original=original, data=data, **(values | options)))


def taught(shop: CandidateTrainer) -> CandidateTrainer:
    """With a teacher: what it teaches, and what it says of the test images."""
    lesson = Teacher(teacher(), precision=shop.precision)
    return replace(
        shop, lesson=lesson, views=AugmentationSchedule(seed=3, epochs=2), teacher_test=shop.predict_test(teacher())
    )


def alone(shop: CandidateTrainer) -> CandidateTrainer:
    """Without a teacher."""
    return replace(shop, lesson=None, views=None, teacher_test=None)


def teacher() -> nn.Module:
    return tiny(seed=9).eval().requires_grad_(False)


def job(original: Network, folder: Path, **options: Any) -> TrainTask:
    plan = ReductionPlan(sites=((original.sites[0].name, "identity"),))
    folder.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "name": "cull S1",
        "plan": plan,
        "folder": NetworkFolder(path=folder),
        "recipe": RECIPE,
        "seed": 4,
    }
    return TrainTask(**(values | options))


def silent(event: TrainingEvent) -> None:
    pass


def plain(outcome: TrainResult) -> TrainResult:
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
        said = predict(teacher(), data.test, batch_size=256).predicted
        assert measurement.churn == float((test.predicted != said).double().mean())


def test_a_network_that_is_done_is_not_trained_again(original: Network, data: ImageData, tmp_path: Path) -> None:
    first = workshop(original, data).run(job(original, tmp_path), silent)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert workshop(original, data).run(job(original, tmp_path), silent) == first
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_a_probe_is_not_tested(original: Network, data: ImageData, tmp_path: Path) -> None:
    outcome = workshop(original, data).run(job(original, tmp_path, test=False), silent)
    assert outcome.val_accuracy is not None
    assert outcome.test_accuracy is None and outcome.measurement() is None
    assert "test" not in outcome.summary()


def test_the_teacher_has_no_churn(original: Network, data: ImageData, tmp_path: Path) -> None:
    assert alone(workshop(original, data)).run(job(original, tmp_path), silent).churn == 0.0


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

    def monitor(event: TrainingEvent) -> None:
        match event:
            case Started():
                told.append([record.epoch for record in event.epochs])
            case EpochEnded():
                told.append([event.record.epoch])

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
    assert outcome.summary().startswith("failed: ")
    assert outcome.measurement() is None
    assert outcome.relu_count == apply_plan(original, wanted.plan).relu_count
    assert not (tmp_path / "model.safetensors").exists()

    told: list[TrainingEvent] = []
    assert workshop(original, data).run(wanted, told.append) == outcome
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
    def full(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(subject, "train", full)
    with pytest.raises(RunError, match=r"cull S1 does not fit into the memory of cpu; lower training\.batch_size"):
        workshop(original, data).run(job(original, tmp_path), silent)
    with pytest.raises(RunError, match=r"drafts does not fit into the memory of cpu; lower training\.batch_size"):
        workshop(original, data).run_shared(shared_job(original, tmp_path), silent)


def test_a_batch_too_small_for_batch_norm_is_one_line_with_the_repair(data: ImageData, tmp_path: Path) -> None:
    class Pooled(nn.Sequential):
        """Its feature map is a single position where it is normalised."""

        def __init__(self) -> None:
            pool, norm = nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)
            super().__init__(pool, norm, nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten())

    network = trace_network(Pooled(), (3, 8, 8))
    wanted = job(network, tmp_path, recipe=replace(RECIPE, batch_size=1))
    with pytest.raises(UserError, match=r"one value per channel.*raise training\.batch_size"):
        alone(workshop(network, data)).run(wanted, silent)


def test_other_errors_stay_what_they_are(
    original: Network, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(subject, "train", mistaken)
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


# -- where weights come from ----------------------------------------------------------------------------------


def trained_parent(original: Network, data: ImageData, folder: Path) -> WarmStart:
    parent = job(original, folder, plan=ReductionPlan(), name="parent", seed=1)
    workshop(original, data).run(parent, silent)
    return WarmStart(folder=parent.folder, plan=parent.plan)


def test_a_network_starts_from_the_weights_it_inherits(original: Network, data: ImageData, tmp_path: Path) -> None:
    start = trained_parent(original, data, tmp_path / "parent")
    untrained = replace(RECIPE, epochs=0)
    child = job(original, tmp_path / "child", start=start, recipe=untrained)
    outcome = workshop(original, data).run(child, silent)
    expected = warm_start(original, child.plan, parent=start.plan, weights=start.folder.weights())
    weights = child.folder.weights()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.module.state_dict().items())
    assert outcome.val_accuracy == predict(expected.module, data.val, batch_size=256).accuracy
    scratch = job(original, tmp_path / "scratch", recipe=untrained)
    workshop(original, data).run(scratch, silent)
    assert not torch.equal(scratch.folder.weights()["conv.weight"], weights["conv.weight"])


def test_a_corrupt_parent_is_named(original: Network, data: ImageData, tmp_path: Path) -> None:
    start = trained_parent(original, data, tmp_path / "parent")
    corrupt(tmp_path / "parent" / "model.safetensors", "flipped")
    with pytest.raises(CheckpointError, match=r"parent/model\.safetensors is corrupt"):
        workshop(original, data).run(job(original, tmp_path / "child", start=start), silent)


def test_statistics_are_computed_anew_only_where_wanted(original: Network, data: ImageData, tmp_path: Path) -> None:
    kept, renewed = (
        job(original, tmp_path / name, statistics_batches=batches) for name, batches in (("kept", 0), ("new", 2))
    )
    for wanted in (kept, renewed):
        workshop(original, data).run(wanted, silent)
    one, other = kept.folder.weights(), renewed.folder.weights()
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        "bn.running_mean", "bn.running_var", "bn.num_batches_tracked",
    }  # fmt: skip
    assert int(other["bn.num_batches_tracked"]) == 2
    # and the accuracy is of the network as it is kept
    module = load_reduced(renewed.folder.path, model=tiny())
    outcome = workshop(original, data).finished(renewed)
    assert outcome is not None and outcome.val_accuracy == predict(module, data.val, batch_size=256).accuracy


# -- ReLUs that go gradually ----------------------------------------------------------------------------------


def test_annealed_relus_leave_the_network_that_the_plan_names(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    annealed, sudden = (
        job(original, tmp_path / "annealed", callbacks=(Anneal(0.5),)),
        job(original, tmp_path / "sudden"),
    )
    outcomes = [workshop(original, data).run(each, silent) for each in (annealed, sudden)]
    one, other = annealed.folder.weights(), sudden.folder.weights()
    assert one.keys() == other.keys() and not torch.equal(one["conv.weight"], other["conv.weight"])
    module = load_reduced(annealed.folder.path, model=tiny())
    assert outcomes[0].val_accuracy == predict(module, data.val, batch_size=256).accuracy
    assert outcomes[0].relu_count == outcomes[1].relu_count


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_annealing_resumes_where_it_was_stopped(
    original: Network, data: ImageData, tmp_path: Path, steps: int
) -> None:
    undisturbed, stopped = (
        job(original, tmp_path / name, callbacks=(Anneal(0.7),)) for name in ("undisturbed", "stopped")
    )
    expected = workshop(original, data).run(undisturbed, silent)
    with pytest.raises(Stopped):
        workshop(original, data, stop=stopping_after(steps)).run(stopped, silent)
    assert plain(workshop(original, data).run(stopped, silent)) == plain(expected)
    one, other = (j.folder.weights() for j in (undisturbed, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_networks_that_share_weights_are_eased_together(original: Network, data: ImageData, tmp_path: Path) -> None:
    callbacks = {"eased": (Anneal(0.5),), "sudden": ()}
    eased, sudden = (shared_job(original, tmp_path / name, callbacks=each) for name, each in callbacks.items())
    for shared in (eased, sudden):
        workshop(original, data).run_shared(shared, silent)
    first, second = weights_of(eased)
    assert torch.equal(first["conv.weight"], second["conv.weight"])
    assert not torch.equal(first["conv.weight"], weights_of(sudden)[0]["conv.weight"])
    for own in eased.jobs:
        load_reduced(own.folder.path, model=tiny())


# -- the user's callbacks -------------------------------------------------------------------------------------


def test_the_users_callbacks_take_part_in_the_training_of_students_not_of_the_teacher(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    shops = [workshop(original, data, callbacks=callbacks) for callbacks in ((), (AverageWeights(),))]
    found: list[list[torch.Tensor]] = []
    for number, shop in enumerate(shops):
        single, shared = (
            job(original, tmp_path / f"single{number}"),
            shared_job(original, tmp_path / f"shared{number}"),
        )
        teacher = job(original, tmp_path / f"teacher{number}")
        shop.run(single, silent)
        shop.run_shared(shared, silent)
        alone(shop).run(teacher, silent)
        folders = [single.folder, *(own.folder for own in shared.jobs), teacher.folder]
        found.append([folder.weights()["fc.weight"] for folder in folders])
    assert [torch.equal(one, other) for one, other in zip(*found, strict=True)] == [False, False, False, True]


@pytest.mark.parametrize("steps", [1, 5])
def test_stopped_networks_with_callbacks_end_like_those_that_were_not(
    original: Network, data: ImageData, tmp_path: Path, steps: int
) -> None:
    options: dict[str, Any] = {"callbacks": (AverageWeights(),)}
    tasks = [shared_job(original, tmp_path / name, callbacks=(Anneal(0.7),)) for name in ("undisturbed", "stopped")]
    expected = workshop(original, data, **options).run_shared(tasks[0], silent)
    with pytest.raises(Stopped):
        workshop(original, data, stop=stopping_after(steps), **options).run_shared(tasks[1], silent)
    assert plain_shared(workshop(original, data, **options).run_shared(tasks[1], silent)) == plain_shared(expected)
    for one, other in zip(*(weights_of(task) for task in tasks), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_that_was_stopped_with_other_callbacks_begins_again(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed, stopped = job(original, tmp_path / "undisturbed"), job(original, tmp_path / "stopped")
    expected = workshop(original, data).run(undisturbed, silent)
    with pytest.raises(Stopped):
        workshop(original, data, stop=stopping_after(5), callbacks=(AverageWeights(),)).run(stopped, silent)
    assert plain(workshop(original, data).run(stopped, silent)) == plain(expected)
    assert "its callbacks were ['Average'], now []; training cull S1 again from the start" in caplog.text


# -- networks that are trained together -----------------------------------------------------------------------

TURNS = (0, 0, 1)


def shared_job(original: Network, folder: Path, **options: Any) -> SharedWeightsTask:
    folder.mkdir(exist_ok=True)
    jobs = tuple(
        job(original, folder / f"network{number}", name=f"without {site.name}", test=False, statistics_batches=2,
            plan=ReductionPlan(sites=((site.name, "identity"),)))
        for number, site in enumerate(original.sites[:2])
    )  # fmt: skip
    together = folder / "together"
    together.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "name": "drafts", "jobs": jobs, "turns": TURNS, "folder": NetworkFolder(path=together), "recipe": RECIPE,
        "seed": 7,
    }  # fmt: skip
    return SharedWeightsTask(**(values | options))


def weights_of(shared: SharedWeightsTask) -> list[dict[str, torch.Tensor]]:
    return [own.folder.weights() for own in shared.jobs]


def plain_shared(outcomes: dict[str, TrainResult]) -> dict[str, TrainResult]:
    return {name: plain(outcome) for name, outcome in outcomes.items()}


def test_networks_trained_together_are_kept_and_measured_each_on_its_own(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    shared = shared_job(original, tmp_path)
    outcomes = workshop(original, data).run_shared(shared, silent)
    assert list(outcomes) == [own.name for own in shared.jobs]
    first, second = weights_of(shared)
    equal = {name for name in first if torch.equal(first[name], second[name])}
    assert {"conv.weight", "twice.weight"} <= equal
    assert not {"fc.weight", "bn.weight"} & equal
    for own in shared.jobs:
        assert sorted(p.name for p in own.folder.path.iterdir()) == FILES
        module = load_reduced(own.folder.path, model=tiny())
        assert outcomes[own.name].val_accuracy == predict(module, data.val, batch_size=256).accuracy
        assert outcomes[own.name].test_accuracy is None
        assert outcomes[own.name].relu_count == apply_plan(original, own.plan).relu_count
    assert not shared.folder.path.exists()


def test_the_seconds_of_networks_trained_together_go_with_their_turns(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    outcomes = workshop(original, data).run_shared(shared_job(original, tmp_path), silent)
    first, second = (outcome.train_seconds for outcome in outcomes.values())
    assert first == pytest.approx(2 * second) and second > 0


def test_networks_without_a_turn_are_kept_as_they_start(original: Network, data: ImageData, tmp_path: Path) -> None:
    shared = shared_job(original, tmp_path, turns=(), recipe=replace(RECIPE, epochs=0))
    outcomes = workshop(original, data).run_shared(shared, silent)
    assert all(o.failure is None and o.train_seconds == 0 for o in outcomes.values()) and len(outcomes) == 2


def test_networks_that_are_done_are_not_trained_together_again(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    shared = shared_job(original, tmp_path)
    outcomes = workshop(original, data).run_shared(shared, silent)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")}
    told: list[TrainingEvent] = []
    again = workshop(original, data).run_shared(shared_job(original, tmp_path), told.append)
    assert again == outcomes and not told
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_networks_that_were_stopped_together_end_like_those_that_were_not(
    original: Network, data: ImageData, tmp_path: Path, steps: int
) -> None:
    undisturbed = shared_job(original, tmp_path / "undisturbed")
    expected = workshop(original, data).run_shared(undisturbed, silent)
    stopped = shared_job(original, tmp_path / "stopped")
    with pytest.raises(Stopped):
        workshop(original, data, stop=stopping_after(steps)).run_shared(stopped, silent)
    assert [p.name for p in stopped.folder.path.iterdir()] == ["training.safetensors"]
    assert plain_shared(workshop(original, data).run_shared(stopped, silent)) == plain_shared(expected)
    for one, other in zip(weights_of(undisturbed), weights_of(stopped), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not stopped.folder.path.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json"])
def test_where_one_of_them_is_corrupt_all_are_trained_again(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    expected = workshop(original, data).run_shared(shared_job(original, tmp_path), silent)
    weights = [{key: t.clone() for key, t in own.items()} for own in weights_of(shared_job(original, tmp_path))]
    corrupt(tmp_path / "network1" / name, "truncated")
    again = shared_job(original, tmp_path)
    assert plain_shared(workshop(original, data).run_shared(again, silent)) == plain_shared(expected)
    assert str(tmp_path / "network1") in caplog.text and "again" in caplog.text
    for one, other in zip(weights, weights_of(again), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("how", ["truncated", "of another family"])
def test_a_corrupt_state_of_networks_trained_together_is_named_and_they_begin_again(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    expected = workshop(original, data).run_shared(shared_job(original, tmp_path / "undisturbed"), silent)
    stopped = shared_job(original, tmp_path / "stopped")
    with pytest.raises(Stopped):
        workshop(original, data, stop=stopping_after(5)).run_shared(stopped, silent)
    snapshot = stopped.folder.snapshot()
    assert snapshot is not None
    if how == "truncated":
        corrupt(stopped.folder.path / "training.safetensors", how)
    else:
        fewer = {name: tensor for name, tensor in snapshot.tensors.items() if "members.1." not in name}
        stopped.folder.save_snapshot(replace(snapshot, tensors=fewer))
    assert plain_shared(workshop(original, data).run_shared(stopped, silent)) == plain_shared(expected)
    assert "training drafts again from the start" in caplog.text


def test_a_loss_that_is_never_finite_fails_all_of_them_and_they_are_not_tried_again(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, warmup_epochs=0.0, clip_norm=None)
    outcomes = workshop(original, data).run_shared(shared_job(original, tmp_path, recipe=recipe), silent)
    assert len(outcomes) == 2
    assert all("not finite" in (outcome.failure or "") for outcome in outcomes.values())
    told: list[TrainingEvent] = []
    again = shared_job(original, tmp_path, recipe=recipe)
    assert workshop(original, data).run_shared(again, told.append) == outcomes and not told


@pytest.mark.parametrize("after", range(15))
def test_a_kill_between_any_two_files_of_networks_trained_together_loses_nothing(
    original: Network, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    expected = workshop(original, data).run_shared(shared_job(original, tmp_path / "undisturbed"), silent)
    written, rename = iter(range(10_000)), os.replace

    def killed(source: Any, target: Any) -> None:
        if next(written) == after:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            workshop(original, data, checkpoint_seconds=0.0).run_shared(
                shared_job(original, tmp_path / "killed"), silent
            )
    again = shared_job(original, tmp_path / "killed")
    assert plain_shared(workshop(original, data).run_shared(again, silent)) == plain_shared(expected)
    assert all(sorted(p.name for p in own.folder.path.iterdir()) == FILES for own in again.jobs)
