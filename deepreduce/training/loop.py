"""The training loop, for teacher and students alike.

Everything a step depends on follows from the seed and the step's number, or lies in a `Snapshot`: a training that
goes on from a snapshot computes the numbers that it would have computed without the interruption.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.data import ImageData
from deepreduce.errors import CheckpointError, NonFiniteLossError
from deepreduce.training.distillation import Distillation, distillation_loss
from deepreduce.training.evaluate import predict
from deepreduce.training.logits_cache import Teacher
from deepreduce.training.recipe import Precision, Recipe, learning_rate_at
from deepreduce.utils.seed import derived_generator, derived_seed

log = logging.getLogger(__name__)

MAX_ROLLBACKS = 2
ROLLBACK_RATE = 0.2
"""After a loss that is not finite, the learning rate is this times what it was."""

_CLIP_EPSILON = 1e-6  # torch's own, with which it divides
_CHECK_EVERY = 20  # steps between looks at the loss: on CUDA a look waits for the device


class Stopped(Exception):
    """Training was asked to stop; its snapshot has been saved."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch: learning rate at its last step, mean training loss, validation accuracy where it was measured."""

    epoch: int
    learning_rate: float
    train_loss: float
    val_accuracy: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands, for somebody who watches: `step` of the `steps` of this epoch, which may be the last.

    `done` is the share of all steps that is trained, `resumed` the share that an earlier process trained.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    done: float
    train_loss: float
    val_accuracy: float | None
    resumed: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A training between two steps: tensors by name, and plain values (safetensors and JSON hold both)."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AugmentationSchedule:
    """The augmented images that trainings share: what draws them; after how many epochs they repeat (0: never).

    They are drawn in batches of `batch_size` (None: a training's own), several of which may make one of a training's.
    A training begins with the epoch `first` of them.
    """

    seed: int
    epochs: int = 0
    batch_size: int | None = None
    first: int = 0

    def epoch(self, number: int) -> int:
        """Which epoch of views is shown in a training's epoch of that number, counted from 0."""
        number += self.first
        return number % self.epochs if self.epochs else number


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Who is told what while a training runs.

    `on_start` is handed the epochs that an earlier process trained. `save` is handed a snapshot when `save_every`
    seconds have passed since the last one, and at a stop; `stop` is asked after every step.
    """

    on_start: Callable[[Sequence[EpochRecord]], None] = lambda epochs: None
    on_step: Callable[[Progress], None] = lambda progress: None
    on_epoch: Callable[[EpochRecord], None] = lambda record: None
    save: Callable[[Snapshot], None] = lambda snapshot: None
    save_every: float = math.inf
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training did; the weights are in the module. `seconds` are wall time over all interruptions."""

    history: tuple[EpochRecord, ...]
    seconds: float


def train(
    module: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int,
    precision: Precision,
    device: torch.device,
    lesson: Teacher | None = None,
    distillation: Distillation | None = None,
    views: AugmentationSchedule | None = None,
    turns: Sequence[nn.Module] = (),
    before_step: Callable[[float], None] | None = None,
    resume: Snapshot | None = None,
    monitor: Monitor | None = None,
) -> Trained:
    """Train `module` in place on `data.train`; the global random state stays as it was.

    With a `lesson`, the loss is `distillation_loss` against its teacher. Order and augmentation of the images are
    those of `views` (None: of `seed`, without end), which all students of a lesson must share. Validation accuracy is
    measured every `recipe.validate_every` epochs and after the last; it chooses nothing here: the final weights are
    the result. Where the loss is not finite, training goes back to the start of the epoch with a lower rate.

    `turns` are networks inside `module` that share weights: each step trains one of them, all of them in a random
    order before any comes again. Then nothing is validated, since `module` itself answers nothing.

    `before_step` is told before every step which share of all steps is done, and at the end 1: it may change what
    `module` computes, but not its weights.

    Raises `ValueError` for a batch size that is no multiple of that of the views,
    `NonFiniteLossError` when that has happened more than twice, `Stopped` when the monitor asks for it,
    `CheckpointError` for a snapshot that is not of this training, `DataError` where the images fill no batch.
    """
    session = _Session(
        module=module, data=data, recipe=recipe, seed=seed, precision=precision, device=device,
        views=views or AugmentationSchedule(seed=seed), turns=tuple(turns) or (module,), lesson=lesson,
        distillation=distillation or Distillation(), before_step=before_step or _nothing,
        monitor=monitor or Monitor(),
    )  # fmt: skip
    if resume is not None:
        session.restore(resume)
    session.monitor.on_start(tuple(session.history))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        session.run()
    return Trained(history=tuple(session.history), seconds=session.seconds)


@dataclass(kw_only=True, eq=False)
class _Session:
    """The state of one training. `start` is a copy of weights and momenta at the start of the current epoch."""

    module: nn.Module
    data: ImageData
    recipe: Recipe
    seed: int
    views: AugmentationSchedule
    turns: tuple[nn.Module, ...]
    precision: Precision
    device: torch.device
    lesson: Teacher | None
    distillation: Distillation
    before_step: Callable[[float], None]
    monitor: Monitor

    epoch: int = 0
    step: int = 0
    rollbacks: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    resumed: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data.check_batch_size(self.recipe.batch_size)
        self.drawn = self.views.batch_size or self.recipe.batch_size
        if self.recipe.batch_size % self.drawn:
            raise ValueError(f"batches of {self.recipe.batch_size} images are no whole batches of {self.drawn}")
        self.module.to(self.device, memory_format=self.precision.memory_format)  # type: ignore[call-overload]
        self.steps_per_epoch = self.data.train.num_steps(self.drawn) // (self.recipe.batch_size // self.drawn)
        self.total_steps = self.recipe.num_steps(self.steps_per_epoch)
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},  # norms and biases
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=self.recipe.learning_rate, momentum=self.recipe.momentum,
            nesterov=self.recipe.momentum > 0, fused=True,
        )  # fmt: skip
        if len(self.turns) > 1:  # fused steps take no mixture of parameters that have stepped and that have not
            for parameter in parameters:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.start = self._copy()
        self.clock = self.last_save = time.monotonic()

    @property
    def steps(self) -> int:
        """Of the present epoch; the last one may be cut short."""
        return min(self.steps_per_epoch, self.total_steps - self.epoch * self.steps_per_epoch)

    @property
    def steps_done(self) -> int:
        """Of all epochs."""
        return self.epoch * self.steps_per_epoch + self.step

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        self.module.train()
        while self.epoch < self.epochs:
            try:
                self._run_epoch()
            except FloatingPointError:
                self._roll_back()

    def _run_epoch(self) -> None:
        steps = self.steps
        running = torch.tensor(self.loss_sum, dtype=torch.float64, device=self.device)
        for images, labels in itertools.islice(self._batches(), steps - self.step):
            running += self._take_step(images, labels)
            self.step += 1
            if self.step % _CHECK_EVERY == 0 or self.step == steps:
                self._check(running)
                if self.step < steps:
                    self._report()
            if self.step < steps and (self._save_is_due() or self.monitor.stop()):
                self._check(running)
                self._save()
        self._end_epoch()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of the steps that this epoch has left, and of the epoch's steps after those."""
        several = self.recipe.batch_size // self.drawn
        batches = self.data.train.train_batches(
            batch_size=self.drawn, seed=self.views.seed, epoch=self.views.epoch(self.epoch),
            device=self.device, start_step=self.step * several,
        )  # fmt: skip
        if several == 1:
            yield from ((images, labels) for images, labels, _ in batches)
            return
        while len(drawn := list(itertools.islice(batches, several))) == several:
            yield torch.cat([images for images, *_ in drawn]), torch.cat([labels for _, labels, _ in drawn])

    def _taught(self, lesson: Teacher, images: Tensor) -> Tensor:
        """The teacher's logits (batch, classes) of this step's images."""
        parts = torch.split(images, self.drawn)
        epoch, first = self.views.epoch(self.epoch), self.step * len(parts)
        return torch.cat([lesson.logits(part, epoch=epoch, step=first + i) for i, part in enumerate(parts)])

    def _take_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One update; returns the loss, made NaN where the gradient is not finite."""
        rate = learning_rate_at(self.steps_done, recipe=self.recipe, steps_per_epoch=self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * ROLLBACK_RATE**self.rollbacks
        torch.manual_seed(derived_seed(self.seed, self.epoch, self.step))  # dropout resumes like all else
        self.before_step(self.steps_done / self.total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(images.contiguous(memory_format=self.precision.memory_format), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = self._clip()
        self.optimizer.step()
        return loss.detach() + 0 * norm

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision.bf16)
        with autocast:
            logits = self._whose_turn()(images)  # (batch, classes)
        smoothing = self.recipe.label_smoothing
        if self.lesson is None:
            return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        return distillation_loss(
            logits.float(),
            self._taught(self.lesson, images),
            labels,
            distillation=self.distillation,
            label_smoothing=smoothing,
        )

    def _clip(self) -> Tensor:
        """Bound the norm of the whole gradient; returns what it was."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        bound = self.recipe.clip_norm
        # to look at the norm is to wait for CUDA; on a CPU it spares writing all gradients times one
        if bound is not None and (self.device.type != "cpu" or not float(norm) + _CLIP_EPSILON <= bound):
            nn.utils.clip_grads_with_norm_(self.module.parameters(), bound, norm)
        return norm

    def _whose_turn(self) -> nn.Module:
        """The network that this step trains.

        In a fixed order, a network would meet the same few batches whenever the views come again.
        """
        cycle, place = divmod(self.steps_done, len(self.turns))
        order = torch.randperm(len(self.turns), generator=derived_generator(self.seed, "turns", cycle))
        return self.turns[int(order[place])]

    def _check(self, running: Tensor) -> None:
        self.loss_sum = float(running)
        if not math.isfinite(self.loss_sum):
            raise FloatingPointError

    def _end_epoch(self) -> None:
        steps = self.steps
        self.epoch += 1
        last = self.epoch == self.epochs
        if last:
            self.before_step(1.0)
        accuracy = None
        if self.turns == (self.module,) and (last or self.epoch % self.recipe.validate_every == 0):
            validation = predict(
                self.module, self.data.val, batch_size=max(self.recipe.batch_size, 256), device=self.device
            )
            accuracy = validation.accuracy
        self._tick()
        record = EpochRecord(
            epoch=self.epoch, learning_rate=self.optimizer.param_groups[0]["lr"],
            train_loss=self.loss_sum / steps, val_accuracy=accuracy, seconds=self.seconds,
        )  # fmt: skip
        self.history.append(record)
        self.step, self.loss_sum = 0, 0.0
        if not last:
            self.start = self._copy()
        self.monitor.on_epoch(record)
        if not last:
            self._report()
            if self._save_is_due() or self.monitor.stop():
                self._save()

    def _roll_back(self) -> None:
        self.rollbacks += 1
        where = f"the loss was not finite in epoch {self.epoch + 1}"
        if self.rollbacks > MAX_ROLLBACKS:
            raise NonFiniteLossError(f"{where}, also after {MAX_ROLLBACKS} retries at lower learning rates")
        log.warning("%s; going back to its start with %g times the learning rate", where, ROLLBACK_RATE)
        self._load(self.start)
        self.step, self.loss_sum = 0, 0.0

    # -- telling --------------------------------------------------------------------------------------------

    def _report(self) -> None:
        measured = [r.val_accuracy for r in self.history if r.val_accuracy is not None]
        self.monitor.on_step(
            Progress(
                epoch=self.epoch, epochs=self.epochs, step=self.step, steps=self.steps,
                done=self.steps_done / self.total_steps,
                train_loss=self.loss_sum / self.step if self.step else self.history[-1].train_loss,
                val_accuracy=measured[-1] if measured else None, resumed=self.resumed,
            )
        )  # fmt: skip

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self.clock
        self.clock = now

    # -- snapshots ------------------------------------------------------------------------------------------

    def _save_is_due(self) -> bool:
        return time.monotonic() - self.last_save >= self.monitor.save_every

    def _save(self) -> None:
        self._tick()
        tensors = {f"now.{name}": tensor for name, tensor in self._live().items()}
        if self.step:  # between epochs the start is the present
            tensors |= {f"start.{name}": tensor for name, tensor in self.start.items()}
        values = {
            "epoch": self.epoch, "step": self.step, "rollbacks": self.rollbacks, "loss_sum": self.loss_sum,
            "seconds": self.seconds, "history": [asdict(record) for record in self.history],
        }  # fmt: skip
        self.monitor.save(Snapshot(tensors=tensors, values=values))
        self.last_save = time.monotonic()
        if self.monitor.stop():
            raise Stopped

    def restore(self, snapshot: Snapshot) -> None:
        try:
            values = snapshot.values
            self.epoch, self.step, self.rollbacks = (int(values[key]) for key in ("epoch", "step", "rollbacks"))
            self.loss_sum, self.seconds = float(values["loss_sum"]), float(values["seconds"])
            self.resumed = self.steps_done / self.total_steps
            self.history = [EpochRecord(**record) for record in values["history"]]
            self._load(_with_prefix(snapshot.tensors, "now."))
            self.start = _with_prefix(snapshot.tensors, "start.") if self.step else self._copy()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the snapshot is not of this training: {error}") from error

    def _live(self) -> dict[str, Tensor]:
        """The tensors training changes: weights, statistics, momenta."""
        state = self.module.state_dict()
        if len(self.turns) > 1:  # weights that networks share have a name in each of them; one is enough
            names = {t.data_ptr() if t.numel() else name: name for name, t in state.items()}.values()
            state = {name: state[name] for name in names}
        tensors = {f"model.{name}": tensor for name, tensor in state.items()}
        for name, parameter in self.module.named_parameters():
            momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        return tensors

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._live().items()}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        weights = _with_prefix(tensors, "model.")
        if weights.keys() != _with_prefix(self._live(), "model.").keys():
            raise ValueError("it holds weights of other names")
        self.module.load_state_dict(weights, strict=False)  # one of the names of a shared weight is enough
        momenta = _with_prefix(tensors, "momentum.")
        self.optimizer.state.clear()
        for name, parameter in self.module.named_parameters():
            if name in momenta:
                # the layout of the weight, so that the arithmetic is the same as without an interruption
                momentum = torch.empty_like(parameter, requires_grad=False).copy_(momenta[name])
                self.optimizer.state[parameter]["momentum_buffer"] = momentum


def _nothing(done: float) -> None:
    pass


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
