"""The loop learns, repeats itself bit for bit, and resumes after any step as if nothing had happened."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from deepreduce.data import ImageData, load_source, prepare, raw_from_python
from deepreduce.errors import CheckpointError, DataError, NonFiniteLossError
from deepreduce.training import (
    AugmentationSchedule,
    Distillation,
    EpochEnded,
    Precision,
    Recipe,
    Snapshot,
    Started,
    Stepped,
    Stopped,
    Teacher,
    TrainingEvent,
    predict,
    train,
)
from deepreduce.training.loop import ROLLBACK_RATE
from deepreduce.training.recipe import OptimizerName
from tests.helpers.images import CPU, cyclic_labels, random_images, striped
from tests.helpers.training import FP32, RECIPE, StopAfter, curve, fit, same_weights, tiny


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()  # 72 training images: four steps of 18


@pytest.fixture
def teacher() -> nn.Module:
    return tiny(seed=9).eval().requires_grad_(False)


def test_real_digits_are_learned_far_above_chance() -> None:
    digits = prepare(load_source("digits"), seed=0)
    module = tiny(channels=1, classes=10, dropout=0.0)
    recipe = Recipe(epochs=6, batch_size=32, learning_rate=0.2)
    history = fit(module, digits, recipe).history
    assert history[-1].val_accuracy is not None
    assert history[-1].val_accuracy > 0.5
    assert history[-1].train_loss < 0.7 * history[0].train_loss
    assert predict(module, digits.test, batch_size=256).accuracy > 0.5


def test_a_student_learns_from_its_teacher_alone(data: ImageData) -> None:
    taught = tiny(dropout=0.0)
    fit(taught, data, replace(RECIPE, epochs=12))
    student = tiny(seed=1, dropout=0.0)
    fit(
        student,
        data,
        replace(RECIPE, epochs=12),
        teacher=Teacher(taught.eval().requires_grad_(False), precision=FP32),
        distillation=Distillation(weight=1.0, temperature=2.0),
    )
    assert predict(taught, data.test, batch_size=64).accuracy > 0.8
    assert predict(student, data.test, batch_size=64).accuracy > 0.8


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(data: ImageData, teacher: nn.Module) -> None:
    modules = [tiny() for _ in range(3)]
    one, same, other = (
        fit(module, data, teacher=Teacher(teacher, precision=FP32), seed=seed)
        for module, seed in zip(modules, (0, 0, 1), strict=True)
    )
    assert curve(one) == curve(same) != curve(other)
    assert same_weights(modules[0], modules[1])
    assert not same_weights(modules[0], modules[2])


@pytest.mark.parametrize("precision", [FP32, Precision(bf16=True, channels_last=True)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("with_teacher", [False, True], ids=["alone", "distilled"])
def test_a_training_that_was_stopped_after_any_step_ends_like_one_that_was_not(
    data: ImageData, teacher: nn.Module, with_teacher: bool, precision: Precision
) -> None:
    options = {"precision": precision, "teacher": Teacher(teacher, precision=precision) if with_teacher else None}
    undisturbed = tiny()
    expected = fit(undisturbed, data, **options)
    for stop_after in range(1, 2 * 4 - 1):
        stop = StopAfter(stop_after)
        with pytest.raises(Stopped):
            fit(tiny(), data, **stop.options(), **options)
        resumed = tiny(seed=5)  # its weights must all come from the snapshot
        result = fit(resumed, data, resume=stop.snapshot, **options)
        assert same_weights(resumed, undisturbed), stop_after
        assert curve(result) == curve(expected), stop_after


def test_a_training_on_a_torch_data_set_goes_on_as_if_it_had_not_been_stopped() -> None:
    items = Subset(TensorDataset(random_images(80), cyclic_labels(80)), range(80))
    images = prepare(raw_from_python((items, items)), seed=0)
    undisturbed, resumed, stop = tiny(), tiny(seed=5), StopAfter(6)
    expected = fit(undisturbed, images)
    with pytest.raises(Stopped):
        fit(tiny(), images, **stop.options())
    assert stop.snapshot.values["step"] > 0
    assert curve(fit(resumed, images, resume=stop.snapshot)) == curve(expected)
    assert same_weights(resumed, undisturbed)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_may_be_stopped_again_and_again(data: ImageData, optimizer: OptimizerName) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01)
    undisturbed = tiny()
    expected = fit(undisturbed, data, recipe)
    snapshot, stops = None, 0
    while True:
        stop = StopAfter(1)
        module = tiny()
        try:
            result = fit(module, data, recipe, resume=snapshot, **stop.options())
            break
        except Stopped:
            snapshot, stops = stop.snapshot, stops + 1
    assert stops == 7
    assert same_weights(module, undisturbed)
    assert curve(result) == curve(expected)
    assert result.seconds >= result.history[0].seconds


def test_saving_does_not_change_what_is_trained(data: ImageData) -> None:
    plain, saved = tiny(), tiny()
    snapshots: list[Snapshot] = []
    fit(plain, data)
    fit(saved, data, save=snapshots.append, save_every=0.0)
    assert same_weights(plain, saved)
    assert [(s.values["epoch"], s.values["step"]) for s in snapshots] == [
        (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3),
    ]  # fmt: skip


def test_a_snapshot_of_another_network_is_refused(data: ImageData) -> None:
    stop = StopAfter(2)
    with pytest.raises(Stopped):
        fit(tiny(), data, **stop.options())
    with pytest.raises(CheckpointError, match="not of this training"):
        fit(tiny(classes=4), data, resume=stop.snapshot)
    with pytest.raises(CheckpointError, match="not of this training"):
        fit(tiny(), data, resume=Snapshot(tensors=stop.snapshot.tensors, values={}))


def test_the_global_random_state_stays_as_it_was(data: ImageData, teacher: nn.Module) -> None:
    state = torch.get_rng_state()
    fit(tiny(), data, teacher=Teacher(teacher, precision=FP32))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_teacher_stays_as_it_was(data: ImageData) -> None:
    taught = tiny(seed=9).eval()
    before = {name: tensor.clone() for name, tensor in taught.state_dict().items()}
    modes: list[bool] = []
    taught.register_forward_hook(lambda module, inputs, output: modes.append(torch.is_grad_enabled()))
    fit(tiny(), data, teacher=Teacher(taught, precision=FP32))
    assert modes and not any(modes)
    assert not taught.training
    assert all(parameter.grad is None for parameter in taught.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in taught.state_dict().items())


def test_weights_decay_and_norms_and_biases_do_not(data: ImageData) -> None:
    module = tiny()
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        # no gradient from the loss, so that decay alone moves the weights
        parameter.register_hook(torch.zeros_like)
    recipe = Recipe(
        epochs=1, batch_size=72, learning_rate=0.5, momentum=0.0, weight_decay=0.1, warmup_epochs=0.0, clip_norm=None
    )
    fit(module, data, recipe)
    for name, parameter in module.named_parameters():
        decay = 1 - 0.5 * 0.1 if name in ("conv.weight", "twice.weight", "fc.weight") else 1.0
        assert torch.allclose(parameter, before[name] * decay), name


def test_one_step_is_nesterov_sgd_by_hand_with_the_gradient_clipped(data: ImageData) -> None:
    module, reference = tiny(dropout=0.0), tiny(dropout=0.0).train()
    recipe = Recipe(
        epochs=1, batch_size=72, learning_rate=0.5, momentum=0.9, weight_decay=0.0, warmup_epochs=0.0, clip_norm=0.01
    )
    (images, labels, _), *_ = data.train.train_batches(batch_size=72, seed=0, epoch=0, device=CPU)
    nn.functional.cross_entropy(reference(images), labels).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in reference.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    assert norm > 0.01
    with torch.no_grad():
        for parameter, gradient in zip(reference.parameters(), gradients, strict=True):
            # with Nesterov, the first step is along (1 + momentum) times the gradient
            parameter -= 0.5 * 1.9 * gradient * 0.01 / norm
    fit(module, data, recipe)
    for one, other in zip(module.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_bf16_trains_and_leaves_float32_weights(data: ImageData) -> None:
    module = tiny(dropout=0.0)
    kinds: set[torch.dtype] = set()
    module.twice.register_forward_hook(lambda _, inputs, output: kinds.add(output.dtype) if module.training else None)
    recipe = replace(RECIPE, epochs=12)
    fit(module, data, recipe, precision=Precision(bf16=True, channels_last=True))
    assert kinds == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert predict(module, data.test, batch_size=64).accuracy > 0.8


class Bursting(nn.Module):
    """Its loss is not finite in the given calls; calls are counted in training only."""

    def __init__(self, bursts: Callable[[int], bool], *, value: float = math.nan) -> None:
        super().__init__()
        self.inner, self.bursts, self.calls, self.value = tiny(), bursts, 0, value

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        if self.training:
            self.calls += 1
            if self.bursts(self.calls):
                logits = logits * self.value
        return logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_goes_back_to_the_start_of_its_epoch_at_a_lower_rate(
    data: ImageData, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    disturbed, clean = Bursting(lambda call: call == 6, value=value), tiny()
    history = fit(disturbed, data).history  # the second step of the second epoch
    expected = fit(clean, data).history
    assert [record.message for record in caplog.records] == [
        "the loss was not finite in epoch 2; going back to its start with 0.2 times the learning rate"
    ]
    assert disturbed.calls == 4 + 4 + 4
    assert history[0].train_loss == expected[0].train_loss
    assert history[1].learning_rate == pytest.approx(expected[1].learning_rate * ROLLBACK_RATE)
    # the first step of the epoch is the same, so the mean over the epoch is close, but the later steps are not
    assert history[1].train_loss != expected[1].train_loss
    assert all(bool(torch.isfinite(tensor).all()) for tensor in disturbed.state_dict().values())


def test_going_back_restores_weights_statistics_and_momentum(data: ImageData) -> None:
    """Where the bad epoch is the first, what follows is a training at the lower rate from the beginning."""
    disturbed, slower = Bursting(lambda call: call == 3), tiny()
    fit(disturbed, data)
    fit(slower, data, replace(RECIPE, learning_rate=RECIPE.learning_rate * ROLLBACK_RATE))
    for name, tensor in slower.state_dict().items():
        assert torch.allclose(tensor, disturbed.inner.state_dict()[name], rtol=1e-4, atol=1e-6), name


def test_the_third_loss_that_is_not_finite_ends_the_training(data: ImageData) -> None:
    hopeless = Bursting(lambda call: True)
    with pytest.raises(
        NonFiniteLossError, match="not finite in epoch 1, also after 2 retries at lower learning rates"
    ):
        fit(hopeless, data)
    assert hopeless.calls == 3 * 4


def test_a_gradient_that_is_not_finite_counts_as_a_loss_that_is_not(data: ImageData) -> None:
    module = tiny()
    module.fc.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError):
        fit(module, data)


def test_a_learning_rate_far_too_high_ends_in_the_error_not_in_a_network_of_nan(data: ImageData) -> None:
    with pytest.raises(NonFiniteLossError):
        fit(tiny(), data, replace(RECIPE, learning_rate=1e30, warmup_epochs=0.0, clip_norm=None))


def test_a_stop_between_two_retries_keeps_count_of_them(data: ImageData) -> None:
    """After the resume one more retry is left, not two."""
    stop = StopAfter(5)  # within the first retry
    with pytest.raises(Stopped):
        fit(Bursting(lambda call: call == 4), data, **stop.options())
    assert stop.snapshot.values["rollbacks"] == 1
    module = Bursting(lambda call: True)
    with pytest.raises(NonFiniteLossError):
        fit(module, data, resume=stop.snapshot)
    assert module.calls == (4 - stop.snapshot.values["step"]) + 4


def test_a_bad_loss_after_a_resume_goes_back_to_the_start_of_the_epoch_before_the_stop(data: ImageData) -> None:
    undisturbed = Bursting(lambda call: call == 7)  # the third step of the second epoch
    expected = fit(undisturbed, data)
    stop = StopAfter(5)
    with pytest.raises(Stopped):
        fit(Bursting(lambda call: False), data, **stop.options())
    position = 4 * stop.snapshot.values["epoch"] + stop.snapshot.values["step"]
    assert stop.snapshot.values["step"] > 0
    resumed = Bursting(lambda call: call == 7 - position)
    result = fit(resumed, data, resume=stop.snapshot)
    assert curve(result) == curve(expected)
    assert same_weights(resumed, undisturbed)


def test_accuracy_is_measured_as_often_as_asked_and_at_the_end(data: ImageData) -> None:
    history = fit(tiny(), data, replace(RECIPE, epochs=5, validate_every=2)).history
    assert [r.val_accuracy is not None for r in history] == [False, True, False, True, True]
    assert [r.epoch for r in history] == [1, 2, 3, 4, 5]


def test_events_say_which_epochs_were_trained_and_where_the_process_began(data: ImageData) -> None:
    recipe, stop = replace(RECIPE, epochs=3), StopAfter(5)
    with pytest.raises(Stopped):
        fit(tiny(), data, recipe, **stop.options())
    for snapshot, resumed, began in ((None, 0.0, [1, 2, 3]), (stop.snapshot, 5 / 12, [2, 3])):
        events: list[TrainingEvent] = []
        fit(tiny(), data, recipe, resume=snapshot, on_event=events.append)
        assert isinstance(events[0], Started) and len(events[0].epochs) == 3 - len(began)
        steps = [event.progress for event in events if isinstance(event, Stepped)]
        assert [e.record.epoch for e in events if isinstance(e, EpochEnded)] == began
        # so few steps that there is news between epochs only
        assert [(p.epoch, p.step, p.steps, p.epochs, p.done, p.resumed) for p in steps] == [
            (epoch, 0, 4, 3, 4 * epoch / 12, resumed) for epoch in began[:-1]
        ]


# -- a fraction of an epoch -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "steps", "records"),
    [(0.25, 1, 1), (0.5, 2, 1), (1, 4, 1), (1.25, 5, 2), (1.6, 6, 2), (2, 8, 2), (0.01, 1, 1)],
)
def test_a_training_takes_the_steps_of_its_fraction_of_an_epoch_and_ends_near_a_rate_of_zero(
    data: ImageData, epochs: float, steps: int, records: int
) -> None:
    module = tiny()
    calls: list[int] = []
    module.register_forward_hook(lambda m, inputs, output: calls.append(len(output)) if m.training else None)
    recipe = replace(RECIPE, epochs=epochs, warmup_epochs=0.0)
    history = fit(module, data, recipe).history
    assert calls == [18] * steps
    assert [r.epoch for r in history] == list(range(1, records + 1))
    # half a cosine that would reach zero with one step more
    last = 0.5 * recipe.learning_rate * (1 + math.cos(math.pi * (steps - 1) / steps))
    assert history[-1].learning_rate == pytest.approx(last)
    assert history[-1].val_accuracy is not None


def test_the_loss_of_a_last_epoch_that_is_cut_short_is_the_mean_of_its_own_steps(data: ImageData) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    recipe = replace(RECIPE, epochs=1.5, learning_rate=1e-12)  # every epoch has the losses of the first
    schedule = AugmentationSchedule(seed=3, epochs=1)
    first, second = fit(module, data, recipe, schedule=schedule).history
    half = fit(module, data, replace(recipe, epochs=0.5), schedule=schedule).history[0]
    assert second.train_loss == pytest.approx(half.train_loss)
    assert second.train_loss != pytest.approx(first.train_loss, rel=1e-6)


def test_a_training_that_was_stopped_within_a_fraction_ends_like_one_that_was_not(data: ImageData) -> None:
    recipe = replace(RECIPE, epochs=1.75)
    undisturbed = tiny()
    expected = fit(undisturbed, data, recipe)
    for stop_after in range(1, 7):
        stop = StopAfter(stop_after)
        with pytest.raises(Stopped):
            fit(tiny(), data, recipe, **stop.options())
        resumed = tiny(seed=5)
        assert curve(fit(resumed, data, recipe, resume=stop.snapshot)) == curve(expected)
        assert same_weights(resumed, undisturbed)


def test_frozen_and_unused_parameters_stay_as_they_were(data: ImageData) -> None:
    module = tiny()
    module.conv.requires_grad_(False)
    module.register_parameter("unused", nn.Parameter(torch.ones(3, 3)))
    before = module.conv.weight.clone()
    fit(module, data)
    assert torch.equal(module.conv.weight, before)
    assert torch.equal(module.get_parameter("unused"), torch.ones(3, 3))


def test_fewer_images_than_a_batch_are_refused(data: ImageData) -> None:
    with pytest.raises(DataError, match="fewer than a batch of 73"):
        fit(tiny(), data, replace(RECIPE, batch_size=73))


def test_training_warns_of_nothing(data: ImageData, teacher: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tiny(), data, RECIPE, seed=0, precision=FP32, device=CPU, teacher=Teacher(teacher, precision=FP32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("bf16", [False, True])
def test_on_cuda_a_stopped_training_ends_like_one_that_was_not(data: ImageData, bf16: bool) -> None:
    precision = Precision(bf16=bf16, channels_last=True)
    taught = Teacher(tiny(seed=9).cuda().eval(), precision=precision)
    options: dict[str, Any] = {"device": torch.device("cuda"), "precision": precision, "teacher": taught}
    undisturbed, resumed, stop = tiny(), tiny(seed=5), StopAfter(6)
    expected = fit(undisturbed, data, **options)
    with pytest.raises(Stopped):
        fit(tiny(), data, **stop.options(), **options)
    result = fit(resumed, data, resume=stop.snapshot, **options)
    assert [r[3] for r in curve(result)] == [r[3] for r in curve(expected)]
    for one, other in zip(resumed.parameters(), undisturbed.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-3)
