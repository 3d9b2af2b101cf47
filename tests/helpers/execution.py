"""Tasks whose training takes a moment, and the context in which they are trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepreduce.execution.task import Student, TrainResult, TrainTask
from deepreduce.execution.trainer import CandidateTrainer, TrainingContext
from deepreduce.methods.autorep import LearnByRelay
from deepreduce.methods.snl import LearnAlphas
from deepreduce.methods.taylor import ShrinkMasks
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.training import AugmentationSchedule, Distillation, LogitsCache, Teacher, TrainingEvent, predict
from tests.helpers.images import CPU, striped
from tests.helpers.training import FP32, RECIPE, tiny

LONG = replace(RECIPE, epochs=5000)
"""Longer than any test waits."""
HOPELESS = replace(RECIPE, learning_rate=1e30, warmup_epochs=0.0, clip_norm=None)
"""Its loss is never finite."""

FILES = ["history.csv", "metrics.json", "model.safetensors", "plan.json"]
"""What a network's folder holds when it is done."""


@cache
def original() -> Network:
    return trace_network(tiny(), (3, 8, 8), name="tiny")


def teacher() -> nn.Module:
    return tiny(seed=9).eval().requires_grad_(False)


def untaught(root: Path, **options: Any) -> TrainingContext:
    """A context without a teacher, for a run in the folder `root`."""
    root.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "original": original(), "data": striped(), "precision": FP32, "device": CPU, "threads": 1,
        "distillation": Distillation(), "checkpoint_seconds": math.inf, "root": root,
    }  # fmt: skip
    return TrainingContext(**(values | options))


def taught(root: Path, **options: Any) -> TrainingContext:
    """A context in which students learn from a teacher, whose logits are cached."""
    context = untaught(root, **options)
    logits = LogitsCache(root / "answers.bin", epochs=2, steps=4, batch_size=18, num_classes=3)
    return replace(
        context,
        schedule=AugmentationSchedule(seed=3, epochs=2),
        teacher=Teacher(teacher(), precision=context.precision, cache=logits),
        teacher_test=predict(teacher(), context.data.test, batch_size=256),
    )


def student(folder: str = "cull", *, site: int = 0, **options: Any) -> Student:
    """The network without the ReLUs of one site."""
    plan = ReductionPlan(sites=((original().sites[site].name, "identity"),))
    return Student(**({"name": folder, "plan": plan, "folder": folder, "seed": 4} | options))


def alone(folder: str = "cull", **options: Any) -> TrainTask:
    """The task of one student; options are the student's, `recipe`, and those of `TrainTask`."""
    own = {name: options.pop(name) for name in ("first_epoch", "callbacks") if name in options}
    recipe = options.pop("recipe", RECIPE)
    return TrainTask(student=student(folder, **options), recipe=recipe, **own)


def learning(folder: str = "learning", **options: Any) -> TrainTask:
    """The task of a student that begins with all ReLUs and keeps half of them: channels that it chooses."""
    half = ShrinkMasks(budget=original().relu_count // 2, every=1, score_every=1)
    return replace(alone(folder, plan=ReductionPlan(), **options), learner=half)


def soft(folder: str = "soft", **options: Any) -> TrainTask:
    """The task of a student whose masks are learned as SNL does."""
    return replace(learning(folder, **options), learner=LearnAlphas(budget=original().relu_count // 2))


def relayed(folder: str = "relayed", **options: Any) -> TrainTask:
    """The task of a student whose masks are learned as AutoReP does."""
    return replace(learning(folder, **options), learner=LearnByRelay(budget=original().relu_count // 2))


MAKERS: dict[str, Callable[..., TrainTask]] = {
    "alone": alone, "learning": learning, "soft": soft, "relayed": relayed,
}  # fmt: skip


def ignore(event: TrainingEvent) -> None:
    pass


def complete(context: TrainingContext, task: TrainTask, **options: Any) -> TrainResult:
    """Train the task unless it is finished, as a run does; options are those of `CandidateTrainer`."""
    trainer = CandidateTrainer(context, **options)
    return trainer.finished(task) or trainer.train(task, ignore)


def stop_after(steps: int) -> Callable[[], bool]:
    """Ask a training to stop after so many steps."""
    asked = iter(range(10_000))
    return lambda: next(asked) >= steps


def folder_of(context: TrainingContext, folder: str) -> NetworkFolder:
    return NetworkFolder(path=context.root / folder)


def names_in(context: TrainingContext, folder: str) -> list[str]:
    return sorted(path.name for path in (context.root / folder).iterdir())


def weights_of(context: TrainingContext, task: TrainTask) -> dict[str, Tensor]:
    """The trained weights of the student."""
    return folder_of(context, task.folder).weights()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain(result: TrainResult) -> TrainResult:
    """Without what a clock measured."""
    return replace(result, train_seconds=0.0)
