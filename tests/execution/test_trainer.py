"""Students are trained once, resumed where they stopped, and trained again where a file is corrupt."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepreduce import load_reduced
from deepreduce.errors import CheckpointError, RunError, UserError
from deepreduce.execution import trainer as subject
from deepreduce.execution.anneal import Anneal
from deepreduce.execution.task import TrainResult, WarmStart
from deepreduce.execution.trainer import CandidateTrainer, TrainingContext
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.training import (
    EpochEnded,
    Precision,
    PreparedStudent,
    Started,
    Stopped,
    TrainingCallback,
    TrainingEvent,
    predict,
)
from deepreduce.transforms import apply_plan, warm_start
from deepreduce.utils.files import write_tensors
from deepreduce.utils.records import read_record
from tests.helpers.callbacks import AverageWeights
from tests.helpers.execution import (
    FILES,
    HOPELESS,
    MAKERS,
    alone,
    complete,
    folder_of,
    ignore,
    names_in,
    original,
    plain,
    same,
    stop_after,
    taught,
    teacher,
    untaught,
    weights_of,
)
from tests.helpers.records import change_record, changed
from tests.helpers.training import FP32, RECIPE, tiny

Weights = dict[str, torch.Tensor]
Undisturbed = dict[str, tuple[TrainResult, Weights]]

both_kinds = pytest.mark.parametrize("kind", MAKERS)


@pytest.fixture
def context(tmp_path: Path) -> TrainingContext:
    return taught(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The result, and the student's weights, of a task of each kind that nothing disturbed."""
    context = taught(tmp_path_factory.mktemp("undisturbed"))
    return {
        kind: (plain(complete(context, make(kind))), weights_of(context, make(kind))) for kind, make in MAKERS.items()
    }


def accuracy(module: nn.Module, context: TrainingContext) -> float:
    return predict(module, context.data.val, batch_size=256).accuracy


# -- what comes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [FP32, Precision(bf16=True, channels_last=True)], ids=["fp32", "bf16"])
def test_the_accuracies_kept_are_those_of_the_network_that_loads_back(tmp_path: Path, precision: Precision) -> None:
    context, task = taught(tmp_path, precision=precision), alone()
    result = complete(context, task)
    assert names_in(context, "cull") == FILES
    reduced = apply_plan(original(), task.student.plan)
    assert (result.relu_count, result.stage_relu_counts) == (reduced.relu_count, reduced.stage_relu_counts)
    for module in (
        load_reduced(tmp_path / "cull", model=tiny()),
        CandidateTrainer(context).load(task.student).module,
    ):
        assert accuracy(module, context) == result.val_accuracy
        test = predict(module, context.data.test, batch_size=256)
        assert test.accuracy == result.test_accuracy
        said = predict(teacher(), context.data.test, batch_size=256).predicted
        assert result.churn == float((test.predicted != said).double().mean())


@both_kinds
def test_a_task_that_is_finished_is_known_by_its_files(context: TrainingContext, kind: str) -> None:
    task, trainer = MAKERS[kind](), CandidateTrainer(context)
    assert trainer.finished(task) is None and not any(context.root.glob("*/"))
    result = trainer.train(task, ignore)
    before = {path: path.stat().st_mtime_ns for path in context.root.rglob("*.*")}
    assert trainer.finished(task) == result
    assert {path: path.stat().st_mtime_ns for path in context.root.rglob("*.*")} == before


def test_measuring_changes_nothing_that_others_see(tmp_path: Path) -> None:
    context = untaught(tmp_path)
    result = complete(context, alone())
    assert result.churn == 0.0  # a teacher agrees with itself
    assert context.teacher_test is None and complete(context, alone("other")).churn == 0.0


def test_what_is_not_to_be_trained_is_measured_as_it_starts(context: TrainingContext) -> None:
    task = alone(recipe=replace(RECIPE, epochs=0))
    result = complete(context, task)
    assert result.train_seconds == 0
    assert result.val_accuracy == accuracy(apply_plan(original(), task.student.plan).module, context)


# -- stopping and resuming ------------------------------------------------------------------------------------


def test_the_first_event_says_which_epochs_were_trained_before(context: TrainingContext) -> None:
    told: list[list[int]] = []

    def note(event: TrainingEvent) -> None:
        if isinstance(event, Started):
            told.append([record.epoch for record in event.epochs])
        elif isinstance(event, EpochEnded):
            told.append([event.record.epoch])

    task, steps = alone(), context.data.train.num_steps(RECIPE.batch_size)
    with pytest.raises(Stopped):
        CandidateTrainer(context, stop_after(steps)).train(task, note)
    assert told == [[], [1]]
    CandidateTrainer(context).train(task, note)
    epochs = range(1, RECIPE.epochs + 1)
    assert told[2:] == [[1], *([epoch] for epoch in epochs[1:])]
    assert [record.epoch for record in CandidateTrainer(context).history(task)] == list(epochs)


@both_kinds
@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_a_training_that_was_stopped_ends_like_one_that_was_not(
    context: TrainingContext, undisturbed: Undisturbed, kind: str, steps: int
) -> None:
    stopped, (expected, weights) = MAKERS[kind]("stopped"), undisturbed[kind]
    with pytest.raises(Stopped):
        complete(context, stopped, stop=stop_after(steps))
    assert names_in(context, stopped.folder) == ["training.safetensors"]
    assert plain(complete(context, stopped)) == expected
    assert same(weights_of(context, stopped), weights)
    assert not list(context.root.rglob("training.safetensors"))


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.mark.parametrize(("kind", "after"), [(kind, n) for kind in MAKERS for n in range(8)])
def test_a_kill_between_any_two_files_loses_nothing(
    context: TrainingContext, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch, kind: str, after: int
) -> None:
    task, (expected, weights) = MAKERS[kind]("killed"), undisturbed[kind]
    written, rename = iter(range(10_000)), os.replace

    def killed(source: Any, target: Any) -> None:
        if next(written) == after:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            complete(replace(context, checkpoint_seconds=0.0), task)
    assert plain(complete(context, task)) == expected and same(weights_of(context, task), weights)
    assert set(names_in(context, task.folder)) >= set(FILES)


# -- corrupt files --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("kind", "name", "how"),
    [
        *[("alone", "model.safetensors", how) for how in ("truncated", "empty", "flipped", "missing")],
        *[("alone", "metrics.json", how) for how in ("truncated", "empty", "missing")],
        *[("learning", name, "truncated") for name in ("model.safetensors", "metrics.json")],
    ],
)
def test_a_corrupt_file_is_named_and_its_task_trained_again(
    context: TrainingContext,
    undisturbed: Undisturbed,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    name: str,
    how: str,
) -> None:
    task, (expected, weights) = MAKERS[kind](), undisturbed[kind]
    victim = context.root / task.folder
    complete(context, task)
    corrupt(victim / name, how)
    with caplog.at_level(logging.WARNING):
        assert plain(complete(context, task)) == expected
    # weights that are whole need no training
    done_again = "measuring" if name == "metrics.json" else "training"
    again = [r.message for r in caplog.records if f"{done_again} {task.name} again" in r.message]
    if (name, how) == ("metrics.json", "missing"):
        assert not caplog.records  # it is not finished, then
    else:
        assert len(again) == 1 and str(victim / name) in again[0]
    assert same(weights_of(context, task), weights)


@pytest.mark.parametrize("change", [changed(val_accuracy=1.5), changed(relu_count=7), changed(macs=7), lambda _: {}])
def test_metrics_that_can_not_be_true_are_corrupt_though_their_checksum_fits(
    context: TrainingContext, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture, change: Any
) -> None:
    complete(context, alone())
    path = context.root / "cull" / "metrics.json"
    before = read_record(path)
    change_record(path, change)
    assert plain(complete(context, alone())) == undisturbed["alone"][0]
    assert f"{context.root / 'cull'}: its metrics" in caplog.text and "measuring cull again" in caplog.text
    repaired = read_record(path)
    assert abs(repaired.pop("train_seconds") - before.pop("train_seconds")) < 0.01  # as far as its history tells
    assert repaired == before


def test_a_changed_digit_of_the_metrics_is_named_and_the_network_measured_again(
    context: TrainingContext, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    complete(context, alone())
    path = context.root / "cull" / "metrics.json"
    path.write_text(path.read_text().replace('"val_accuracy": 0.', '"val_accuracy": 0.1'))
    assert plain(complete(context, alone())) == undisturbed["alone"][0]
    assert "metrics.json was changed or damaged after it was written: its checksum does not match" in caplog.text


def test_weights_of_another_network_are_trained_again_and_not_measured(
    context: TrainingContext, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    complete(context, alone())
    folder = folder_of(context, "cull")
    write_tensors(folder.path / "model.safetensors", {n: t + 1 for n, t in folder.weights().items()}, {})
    assert plain(complete(context, alone())) == undisturbed["alone"][0]
    assert "model.safetensors is not the file that metrics.json was written with; training cull again" in caplog.text


def test_a_corrupt_description_is_named_and_written_again(
    context: TrainingContext, caplog: pytest.LogCaptureFixture
) -> None:
    expected = complete(context, alone())
    path = context.root / "cull" / "plan.json"
    before = path.read_text()
    for how in ("truncated", "empty", "missing"):
        corrupt(path, how)
        assert complete(context, alone()) == expected
        assert path.read_text() == before
        assert "plan.json can't be read" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *[("alone", how) for how in ("truncated", "empty", "flipped", "of another network", "of no training")],
        ("learning", "truncated"),
    ],
)
def test_a_corrupt_snapshot_is_named_and_the_training_begins_again(
    context: TrainingContext, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture, kind: str, how: str
) -> None:
    task, (expected, weights) = MAKERS[kind]("stopped"), undisturbed[kind]
    with pytest.raises(Stopped):
        complete(context, task, stop=stop_after(5))
    folder = folder_of(context, task.folder)
    snapshot = folder.snapshot()
    assert snapshot is not None
    if how == "of another network":
        folder.save_snapshot(replace(snapshot, tensors={name: torch.zeros(7) for name in snapshot.tensors}))
    elif how == "of no training":
        folder.save_snapshot(replace(snapshot, values={}))
    else:
        corrupt(folder.path / "training.safetensors", how)
    assert plain(complete(context, task)) == expected and same(weights_of(context, task), weights)
    assert str(folder.path) in caplog.text and "training stopped again from the start" in caplog.text


def test_a_history_that_can_not_be_read_is_named_and_missed_by_nobody(
    context: TrainingContext, caplog: pytest.LogCaptureFixture
) -> None:
    complete(context, alone())
    corrupt(context.root / "cull" / "history.csv", "missing")
    assert CandidateTrainer(context).history(alone()) == ()
    assert "history.csv" in caplog.text


# -- what goes wrong ------------------------------------------------------------------------------------------


@both_kinds
def test_a_loss_that_is_never_finite_is_a_result_and_not_tried_again(context: TrainingContext, kind: str) -> None:
    task, trainer = MAKERS[kind](recipe=HOPELESS), CandidateTrainer(context)
    result = trainer.train(task, ignore)
    assert "not finite" in (result.failure or "")
    assert result.relu_count == apply_plan(original(), task.student.plan).relu_count
    assert "model.safetensors" not in names_in(context, task.folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        trainer.load(task.student)
    assert trainer.finished(task) == result


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_task_that_does_not_fit_into_memory_is_one_line_with_the_repair(
    context: TrainingContext, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(subject, "train", full)
    with pytest.raises(RunError, match=r"cull does not fit into the memory of cpu; lower training\.batch_size"):
        complete(context, alone())


def test_a_batch_too_small_for_batch_norm_is_one_line_with_the_repair(tmp_path: Path) -> None:
    network = trace_network(pooled(), (3, 8, 8))
    plan = ReductionPlan(sites=((network.sites[0].name, "identity"),))
    with pytest.raises(UserError, match=r"one value per channel.*raise training\.batch_size"):
        complete(untaught(tmp_path, original=network), alone(plan=plan, recipe=replace(RECIPE, batch_size=1)))


def pooled() -> nn.Module:
    """Its feature map is a single position where it is normalised."""
    pool, norm = nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)
    return nn.Sequential(pool, norm, nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten())


def test_other_errors_stay_what_they_are(context: TrainingContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(subject, "train", mistaken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        complete(context, alone())


# -- where weights come from ----------------------------------------------------------------------------------


def trained_parent(context: TrainingContext) -> WarmStart:
    complete(context, alone("parent", plan=ReductionPlan(), seed=1))
    return WarmStart(folder="parent", plan=ReductionPlan())


def test_a_student_starts_from_the_weights_it_inherits(context: TrainingContext) -> None:
    start, untrained = trained_parent(context), replace(RECIPE, epochs=0)
    child, scratch = alone("child", start=start, recipe=untrained), alone("scratch", recipe=untrained)
    result = complete(context, child)
    parents = folder_of(context, "parent").weights()
    expected = warm_start(original(), child.student.plan, parent=start.plan, weights=parents)
    weights = weights_of(context, child)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.module.state_dict().items())
    assert result.val_accuracy == accuracy(expected.module, context)
    complete(context, scratch)
    assert not torch.equal(weights_of(context, scratch)["conv.weight"], weights["conv.weight"])


def test_a_corrupt_parent_is_named(context: TrainingContext) -> None:
    start = trained_parent(context)
    corrupt(context.root / "parent" / "model.safetensors", "flipped")
    with pytest.raises(CheckpointError, match=r"parent/model\.safetensors is corrupt"):
        complete(context, alone("child", start=start))


def test_statistics_are_recomputed_only_where_asked_for(context: TrainingContext) -> None:
    kept, renewed = alone("kept"), alone("renewed", statistics_batches=2)
    complete(context, kept)
    result = complete(context, renewed)
    one, other = weights_of(context, kept), weights_of(context, renewed)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        "bn.running_mean", "bn.running_var", "bn.num_batches_tracked",
    }  # fmt: skip
    assert int(other["bn.num_batches_tracked"]) == 2
    # and the accuracy is of the network as it is kept
    assert result.val_accuracy == accuracy(load_reduced(context.root / "renewed", model=tiny()), context)


# -- callbacks ------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_training_with_callbacks_resumes_where_it_was_stopped(
    tmp_path: Path, undisturbed: Undisturbed, kind: str, steps: int
) -> None:
    context = taught(tmp_path, callbacks=(AverageWeights(),))
    whole, stopped = (MAKERS[kind](name, callbacks=(Anneal(0.7),)) for name in ("whole", "stopped"))
    expected = complete(context, whole)
    with pytest.raises(Stopped):
        complete(context, stopped, stop=stop_after(steps))
    assert plain(complete(context, stopped)) == plain(expected)
    weights = weights_of(context, whole)
    assert same(weights_of(context, stopped), weights)
    assert not torch.equal(weights["conv.weight"], undisturbed[kind][1]["conv.weight"])


def test_annealing_leaves_the_network_that_the_plan_names(context: TrainingContext, undisturbed: Undisturbed) -> None:
    result = complete(context, alone(callbacks=(Anneal(0.5),)))
    sudden, weights = undisturbed["alone"]
    annealed = weights_of(context, alone())
    assert annealed.keys() == weights.keys() and result.relu_count == sudden.relu_count
    assert result.val_accuracy == accuracy(load_reduced(context.root / "cull", model=tiny()), context)


@both_kinds
def test_the_users_callbacks_take_part_in_the_training_of_students_not_of_the_teacher(
    tmp_path: Path, undisturbed: Undisturbed, kind: str
) -> None:
    students, teachers, plainly = (
        taught(tmp_path / "students", callbacks=(AverageWeights(),)),
        untaught(tmp_path / "teachers", callbacks=(AverageWeights(),)),
        untaught(tmp_path / "plainly"),
    )
    for context in (students, teachers, plainly):
        complete(context, MAKERS[kind]())
    found = [weights_of(context, MAKERS[kind]()) for context in (students, teachers, plainly)]
    assert not same(found[0], undisturbed[kind][1]) and same(found[1], found[2])


class Handed:
    """Keep the teachers that students are prepared with."""

    def __init__(self) -> None:
        self.teachers: list[nn.Module | None] = []

    def build(self, student: PreparedStudent) -> TrainingCallback:
        self.teachers.append(student.teacher)
        return TrainingCallback()


def test_callbacks_are_handed_the_teacher_that_the_student_learns_from(tmp_path: Path) -> None:
    handed = Handed()
    context = taught(tmp_path)
    CandidateTrainer(context).train(alone(callbacks=(handed,), recipe=replace(RECIPE, epochs=0)), ignore)
    CandidateTrainer(untaught(tmp_path)).train(alone("other", callbacks=(handed,)), ignore)
    found, none = handed.teachers
    assert none is None and found is not None and not found.training
    assert not any(weight.requires_grad for weight in found.parameters())
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(images), teacher()(images))


def test_a_training_that_was_stopped_with_other_callbacks_begins_again(
    context: TrainingContext, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped):
        complete(replace(context, callbacks=(AverageWeights(),)), alone(), stop=stop_after(5))
    assert plain(complete(context, alone())) == undisturbed["alone"][0]
    assert "its callbacks were ['Average'], now []; training cull again from the start" in caplog.text
