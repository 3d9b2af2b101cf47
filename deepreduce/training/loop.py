"""The training loop, for teacher and students alike.

All that a step depends on follows from the seed and the step's number, or lies in the `Snapshot`. So a training that
resumes from a snapshot computes the numbers that it would have computed without the interruption.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.data import ImageData
from deepreduce.errors import CheckpointError, NonFiniteLossError
from deepreduce.training.augmentation import AugmentationSchedule, AugmentedBatches
from deepreduce.training.callbacks import Callbacks, TrainingCallback, TrainingState
from deepreduce.training.distillation import Distillation, distillation_loss
from deepreduce.training.evaluate import predict
from deepreduce.training.events import (
    EpochEnded,
    EpochRecord,
    Progress,
    Snapshot,
    Started,
    Stepped,
    Stopped,
    TrainingEvent,
)
from deepreduce.training.logits_cache import Teacher
from deepreduce.training.optimizer import make_optimizer
from deepreduce.training.recipe import Precision, Recipe, learning_rate_at
from deepreduce.training.state import RestorableState, with_prefix
from deepreduce.utils.seed import derived_seed

log = logging.getLogger(__name__)

MAX_ROLLBACKS = 2
ROLLBACK_RATE = 0.2
"""Factor of the learning rate after each loss that is not finite."""

_CLIP_EPSILON = 1e-6  # torch adds it to the norm before it divides
_CHECK_EVERY = 20  # steps between looks at the loss: on CUDA a look waits for the device


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """The epochs of a training, and its wall seconds without the interruptions; the weights are in the module."""

    history: tuple[EpochRecord, ...]
    seconds: float


class _NonFiniteLoss(Exception):
    pass


def _ignore(_: object) -> None:
    pass


def _never() -> bool:
    return False


def train(
    module: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int,
    precision: Precision,
    device: torch.device,
    teacher: Teacher | None = None,
    distillation: Distillation | None = None,
    schedule: AugmentationSchedule | None = None,
    callbacks: Sequence[TrainingCallback] = (),
    resume: Snapshot | None = None,
    on_event: Callable[[TrainingEvent], None] = _ignore,
    save: Callable[[Snapshot], None] = _ignore,
    save_every: float = math.inf,
    stop: Callable[[], bool] = _never,
) -> TrainingSummary:
    """Train `module` in place on `data.train`; the global random state stays as it was.

    With a `teacher`, the loss is `distillation_loss` against its logits. Students of one teacher must share the
    `schedule` of augmented images (None: images follow from `seed` and never repeat). Validation, every
    `recipe.validate_every` epochs and after the last one, chooses nothing: the final weights are the result. After a
    loss that is not finite, training goes back to the start of the epoch at a lower learning rate.

    `callbacks` are new objects. `save` gets a snapshot when `save_every` seconds have passed since the last one, and
    when `stop` returns true.

    Raises `Stopped` after a stop, `NonFiniteLossError` for the third loss that is not finite, `CheckpointError` for a
    `resume` of another training, `DataError` if the images fill no batch, `ValueError` for a batch size that is not a
    multiple of the schedule's.
    """
    data.check_batch_size(recipe.batch_size)
    precision = precision.sound_for(module, device)
    session = _Session(
        module=module, data=data, recipe=recipe, seed=seed, precision=precision, device=device, teacher=teacher,
        distillation=distillation or Distillation(), callbacks=Callbacks(callbacks),
        batches=AugmentedBatches(
            data.train, schedule or AugmentationSchedule(seed=seed), batch_size=recipe.batch_size, device=device
        ),
        on_event=on_event, save=save, save_every=save_every, stop=stop,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        session.run(resume)
    return TrainingSummary(history=session.history, seconds=session.seconds)


@dataclass(kw_only=True, eq=False)
class _Session:
    """One training. `step` counts within the epoch; `start` is a copy of the state at the start of the epoch."""

    module: nn.Module
    data: ImageData
    recipe: Recipe
    seed: int
    precision: Precision
    device: torch.device
    teacher: Teacher | None
    distillation: Distillation
    callbacks: Callbacks
    batches: AugmentedBatches
    on_event: Callable[[TrainingEvent], None]
    save: Callable[[Snapshot], None]
    save_every: float
    stop: Callable[[], bool]

    epoch: int = 0
    step: int = 0
    rollbacks: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    resumed: float = 0.0
    history: tuple[EpochRecord, ...] = ()

    def __post_init__(self) -> None:
        self.module.to(self.device, memory_format=self.precision.memory_format)  # type: ignore[call-overload]
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = self.recipe.num_steps(self.steps_per_epoch)
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        self.optimizer = make_optimizer(self.module, self.recipe)
        self.state = RestorableState(self.module, self.optimizer, self.callbacks)
        self.clock = self.last_save = time.monotonic()

    @property
    def steps(self) -> int:
        """Steps of the present epoch; the last epoch may be cut short."""
        return min(self.steps_per_epoch, self.total_steps - self.epoch * self.steps_per_epoch)

    @property
    def steps_done(self) -> int:
        """Steps taken in all epochs."""
        return min(self.epoch * self.steps_per_epoch + self.step, self.total_steps)

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self, resume: Snapshot | None) -> None:
        self.module.train()
        torch.manual_seed(self.seed)
        self.callbacks.on_start(self._view())
        self.start = self.state.copy()
        if resume is not None:
            self._restore(resume)
        self.on_event(Started(epochs=self.history))
        while self.epoch < self.epochs:
            try:
                self._run_epoch()
            except _NonFiniteLoss:
                self._roll_back()
        self.callbacks.on_end(self._view())

    def _run_epoch(self) -> None:
        steps = self.steps
        running = torch.tensor(self.loss_sum, dtype=torch.float64, device=self.device)
        batches = self.batches.epoch(self.epoch, first_step=self.step)
        for images, labels in itertools.islice(batches, steps - self.step):
            running += self._take_step(images, labels)
            if self.step % _CHECK_EVERY == 0 or self.step == steps:
                self._check(running)
                if self.step < steps:
                    self._report()
            if self.step < steps and (self._save_is_due() or self.stop()):
                self._check(running)
                self._save()
        self._end_epoch()

    def _take_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Update the weights once; return the loss, NaN if the gradient is not finite."""
        rate = learning_rate_at(self.steps_done, recipe=self.recipe, steps_per_epoch=self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * ROLLBACK_RATE**self.rollbacks
        torch.manual_seed(derived_seed(self.seed, self.epoch, self.step))  # dropout resumes like all else
        self.callbacks.on_step_start(self._view())
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(images.contiguous(memory_format=self.precision.memory_format), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.callbacks.on_backward_end(self._view())
        norm = self._clip()
        self.optimizer.step()
        self.step += 1
        self.callbacks.on_step_end(self._view())
        return loss.detach() + 0 * norm

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision.bf16):
            logits = self.module(images)  # (batch, classes)
        smoothing = self.recipe.label_smoothing
        if self.teacher is None:
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        else:
            taught = self.batches.teacher_logits(self.teacher, images, epoch=self.epoch, step=self.step)
            loss = distillation_loss(
                logits.float(), taught, labels, distillation=self.distillation, label_smoothing=smoothing
            )
        term = self.callbacks.loss_term(self._view(), images)
        return loss if term is None else loss + term

    def _clip(self) -> Tensor:
        """Bound the norm of the whole gradient; return the norm that it had."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        bound = self.recipe.clip_norm
        # to look at the norm is to wait for CUDA; on a CPU it spares writing all gradients times one
        if bound is not None and (self.device.type != "cpu" or not float(norm) + _CLIP_EPSILON <= bound):
            nn.utils.clip_grads_with_norm_(self.module.parameters(), bound, norm)
        return norm

    def _check(self, running: Tensor) -> None:
        self.loss_sum = float(running)
        if not math.isfinite(self.loss_sum):
            raise _NonFiniteLoss

    def _end_epoch(self) -> None:
        train_loss = self.loss_sum / self.steps
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        last = self.epoch == self.epochs
        accuracy = None
        if last or self.epoch % self.recipe.validate_every == 0:
            batch_size = max(self.recipe.batch_size, 256)
            accuracy = predict(self.module, self.data.val, batch_size=batch_size, device=self.device).accuracy
        self._add_seconds()
        record = EpochRecord(
            epoch=self.epoch, learning_rate=self.optimizer.param_groups[0]["lr"], train_loss=train_loss,
            val_accuracy=accuracy, seconds=self.seconds,
        )  # fmt: skip
        self.history = (*self.history, record)
        self.callbacks.on_epoch_end(self._view())
        if not last:
            self.start = self.state.copy()
        self.on_event(EpochEnded(record=record))
        if not last:
            self._report()
            if self._save_is_due() or self.stop():
                self._save()

    def _roll_back(self) -> None:
        self.rollbacks += 1
        where = f"the loss was not finite in epoch {self.epoch + 1}"
        if self.rollbacks > MAX_ROLLBACKS:
            raise NonFiniteLossError(f"{where}, also after {MAX_ROLLBACKS} retries at lower learning rates")
        log.warning("%s; going back to its start with %g times the learning rate", where, ROLLBACK_RATE)
        self.state.load(self.start)
        self.step, self.loss_sum = 0, 0.0

    # -- reports and snapshots --------------------------------------------------------------------------------

    def _view(self) -> TrainingState:
        return TrainingState(
            module=self.module, optimizer=self.optimizer, step=self.steps_done,
            total_steps=self.total_steps, epoch=self.epoch, history=self.history,
        )  # fmt: skip

    def _report(self) -> None:
        measured = [r.val_accuracy for r in self.history if r.val_accuracy is not None]
        progress = Progress(
            epoch=self.epoch, epochs=self.epochs, step=self.step, steps=self.steps,
            done=self.steps_done / self.total_steps,
            train_loss=self.loss_sum / self.step if self.step else self.history[-1].train_loss,
            val_accuracy=measured[-1] if measured else None, resumed=self.resumed,
        )  # fmt: skip
        self.on_event(Stepped(progress=progress))

    def _add_seconds(self) -> None:
        now = time.monotonic()
        self.seconds += now - self.clock
        self.clock = now

    def _save_is_due(self) -> bool:
        return time.monotonic() - self.last_save >= self.save_every

    def _save(self) -> None:
        self._add_seconds()
        states = {"now": self.state.snapshot()}
        if self.step:  # between epochs the start is the present
            states["start"] = self.start
        tensors = {f"{when}.{name}": t for when, state in states.items() for name, t in state.tensors.items()}
        values = {
            "epoch": self.epoch, "step": self.step, "rollbacks": self.rollbacks, "loss_sum": self.loss_sum,
            "seconds": self.seconds, "history": [asdict(record) for record in self.history],
            "callbacks": {when: state.values for when, state in states.items()},
        }  # fmt: skip
        self.save(Snapshot(tensors=tensors, values=values))
        self.last_save = time.monotonic()
        if self.stop():
            raise Stopped

    def _restore(self, snapshot: Snapshot) -> None:
        def state(when: str) -> Snapshot:
            callbacks = values.get("callbacks", {}).get(when, {})
            return Snapshot(tensors=with_prefix(snapshot.tensors, f"{when}."), values=callbacks)

        try:
            values = snapshot.values
            self.epoch, self.step, self.rollbacks = (int(values[key]) for key in ("epoch", "step", "rollbacks"))
            self.loss_sum, self.seconds = float(values["loss_sum"]), float(values["seconds"])
            self.resumed = self.steps_done / self.total_steps
            self.history = tuple(EpochRecord(**record) for record in values["history"])
            self.state.load(state("now"))
            self.start = state("start") if self.step else self.state.copy()
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the snapshot is not of this training: {error}") from error
