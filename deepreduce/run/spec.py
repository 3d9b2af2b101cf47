"""Everything that a run needs, as one frozen value: built once from a config, which nothing below it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from deepreduce.cost.preset import Preset
from deepreduce.data import ImageData
from deepreduce.methods.base import Method, Search, SearchContext
from deepreduce.methods.options import MethodOptions
from deepreduce.network import Network, without_weights
from deepreduce.observers.base import RunObserver
from deepreduce.report.published import Overlay
from deepreduce.search.budget import Budget
from deepreduce.search.schedule import Preview, Schedule, make_schedule, preview_search
from deepreduce.store.run_folder import RunIdentity
from deepreduce.training import Distillation, Recipe
from deepreduce.training.autotune import ExecutionPlan
from deepreduce.training.callbacks import CallbackFactory


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchSpec:
    """Say which networks are sought, and how long they are trained: all that a dry run needs.

    `network` is the original. `teacher_epochs` is 0 for an original that is trained already.
    """

    network: Network
    method: Method[MethodOptions]
    options: MethodOptions
    context: SearchContext
    budget: Budget
    presets: tuple[Preset, ...]
    teacher_epochs: int

    def search(self) -> Search:
        """Begin the method's search for networks."""
        return self.method.search(self._without_weights, self.options, self.context)

    @cached_property
    def _without_weights(self) -> Network:
        """The network of every search: what was proposed of it once need not be made again."""
        return without_weights(self.network)

    def preview(self) -> tuple[Preview, Schedule]:
        """Return what would be trained, without training anything. Raises what the method raises."""
        return self._preview

    @cached_property
    def _preview(self) -> tuple[Preview, Schedule]:
        preview = preview_search(self.search())
        schedule = make_schedule(
            preview.proposals, preview.requests, self.budget, self.context.objective,
            teacher_epochs=self.teacher_epochs,
        )  # fmt: skip
        return preview, schedule


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSpec:
    """Everything that a run needs.

    `recipe` is the full recipe. `logits_cache_bytes` bounds the disk that the teacher's logits take.
    `checkpoint_seconds` bounds the work that a kill destroys. `observers` follow the run, `callbacks` take part in
    every student's training. `title` and `overlay` are those of the plots. `identity` is what a resumed run must
    share. `model` is the original if it was given as a Python module.
    """

    search: SearchSpec
    data: ImageData
    recipe: Recipe
    distillation: Distillation
    logits_cache_bytes: float
    checkpoint_seconds: float
    seed: int
    device: torch.device
    execution: ExecutionPlan
    observers: tuple[RunObserver, ...]
    callbacks: tuple[CallbackFactory, ...]
    title: str
    overlay: Overlay | None
    identity: RunIdentity
    model: nn.Module | None

    def student_recipe(self, epochs: float, *, batch_size: int | None = None) -> Recipe:
        """Return the recipe of a student that is trained for `epochs` epochs (`batch_size` None: the budget's).

        A change of the batch size multiplies the learning rate in proportion. The warm-up of a shorter training is
        shorter in proportion.
        """
        budget = self.search.budget
        recipe = scaled_recipe(self.recipe, epochs=epochs, batch_size=batch_size or budget.student_batch_size)
        return replace(recipe, validate_every=budget.validation_interval(epochs, usual=recipe.validate_every))


def scaled_recipe(recipe: Recipe, *, epochs: float, batch_size: int | None = None) -> Recipe:
    """Return a recipe for another number of epochs, and another batch size.

    The learning rate is proportional to the batch size, the warm-up of a shorter training to its epochs.
    """
    batch_size = batch_size or recipe.batch_size
    return replace(
        recipe,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=recipe.learning_rate * batch_size / recipe.batch_size,
        warmup_epochs=recipe.warmup_epochs * min(epochs / recipe.epochs, 1.0),
    )
