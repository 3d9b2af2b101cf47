"""Callbacks act where their hooks say, and a training with them resumes as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepreduce.data import ImageData
from deepreduce.errors import CheckpointError, UserError
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.training import (
    PreparedStudent,
    Recipe,
    Snapshot,
    Stopped,
    TrainingCallback,
    TrainingState,
)
from deepreduce.training.callbacks import Callbacks, build_callbacks, describe_callbacks
from deepreduce.utils.files import read_tensors, write_tensors
from tests.helpers.callbacks import Average, AverageWeights, Noted
from tests.helpers.images import striped
from tests.helpers.training import RECIPE, StopAfter, curve, fit, same_weights, tiny

STEPS = 4
"""Steps of an epoch of `striped` data with RECIPE."""


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()


class Gradients(TrainingCallback):
    """Multiply all gradients by a factor, after backward."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_backward_end(self, state: TrainingState) -> None:
        for parameter in state.module.parameters():
            assert parameter.grad is not None
            parameter.grad *= self.factor


# -- hooks ----------------------------------------------------------------------------------------------------


def test_hooks_are_called_in_their_order_and_know_how_far_the_training_is(data: ImageData) -> None:
    noted, module = Noted(), tiny()
    history = fit(module, data, replace(RECIPE, epochs=1.5), callbacks=[noted]).history
    expected: list[tuple[str, int, int]] = [("on_start", 0, 0)]
    for step in range(6):
        epoch = step // STEPS
        expected += [
            ("on_step_start", step, epoch),
            ("on_backward_end", step, epoch),
            ("on_step_end", step + 1, epoch),
        ]
        if step in (3, 5):
            expected.append(("on_epoch_end", step + 1, epoch + 1))
    expected.append(("on_end", 6, 2))
    assert [(hook, state.step, state.epoch) for hook, state in noted.notes] == expected
    for _, state in noted.notes:
        assert state.total_steps == 6 and state.share_done == state.step / 6
        assert state.module is module
    assert [state.history for hook, state in noted.notes if hook == "on_epoch_end"] == [history[:1], history]


def test_several_callbacks_are_called_in_order_and_end_in_reverse(data: ImageData) -> None:
    notes: list[Any] = []
    fit(tiny(), data, callbacks=[Noted(notes, "a."), Noted(notes, "b.")])
    hooks = [hook for hook, _ in notes]
    assert hooks[:2] == ["a.on_start", "b.on_start"] and hooks[2:4] == ["a.on_step_start", "b.on_step_start"]
    assert hooks[-2:] == ["b.on_end", "a.on_end"]


def test_a_training_of_no_epochs_starts_and_ends(data: ImageData) -> None:
    noted = Noted()
    assert fit(tiny(), data, replace(RECIPE, epochs=0), callbacks=[noted]).history == ()
    assert [(hook, state.share_done) for hook, state in noted.notes] == [("on_start", 1.0), ("on_end", 1.0)]


def test_a_stopped_training_does_not_end(data: ImageData) -> None:
    noted = Noted()
    with pytest.raises(Stopped):
        fit(tiny(), data, callbacks=[noted], **StopAfter(2).options())
    assert [hook for hook, _ in noted.notes].count("on_step_end") == 2
    assert noted.notes[-1][0] == "on_step_end"


def test_callbacks_that_do_nothing_change_nothing(data: ImageData) -> None:
    plain, watched = tiny(), tiny()
    assert curve(fit(plain, data)) == curve(fit(watched, data, callbacks=[TrainingCallback(), Noted()]))
    assert same_weights(plain, watched)


def test_gradients_changed_after_backward_are_clipped_and_taken(data: ImageData) -> None:
    one_step = Recipe(epochs=1, batch_size=72, learning_rate=0.5, weight_decay=0.0, warmup_epochs=0.0, clip_norm=1e-3)

    def trained(recipe: Recipe, factor: float) -> nn.Module:
        module = tiny(dropout=0.0)
        fit(module, data, recipe, callbacks=[Gradients(factor)])
        return module

    start, clipped, scaled = tiny(dropout=0.0), trained(one_step, 1.0), trained(one_step, 1000.0)
    assert not torch.equal(clipped.get_parameter("conv.weight"), start.conv.weight)
    for name, parameter in clipped.named_parameters():
        assert torch.allclose(parameter, scaled.get_parameter(name), atol=1e-7), name
    unclipped = replace(one_step, clip_norm=None)
    for name, parameter in trained(unclipped, 0.0).named_parameters():
        assert torch.equal(parameter, start.get_parameter(name)), name
    once, thrice = trained(unclipped, 1.0), trained(unclipped, 3.0)
    for name, parameter in start.named_parameters():
        moved, further = once.get_parameter(name) - parameter, thrice.get_parameter(name) - parameter
        assert torch.allclose(3 * moved, further, atol=1e-5), name


class Penalty(TrainingCallback):
    """Pull the weights to zero: by a term of the loss, or by that term's gradient."""

    def __init__(self, *, as_term: bool) -> None:
        self.as_term, self.seen = as_term, 0

    def loss_term(self, state: TrainingState, images: Tensor) -> Tensor | None:
        self.seen += len(images)
        if not self.as_term:
            return None
        return torch.stack([0.05 * weight.square().sum() for weight in state.module.parameters()]).sum()

    @torch.no_grad()
    def on_backward_end(self, state: TrainingState) -> None:
        if not self.as_term:
            for weight in state.module.parameters():
                assert weight.grad is not None
                weight.grad += 0.1 * weight


def test_a_term_of_the_loss_acts_by_its_gradient_and_is_in_the_reported_loss(data: ImageData) -> None:
    modules, losses = [tiny(), tiny()], []
    for module, as_term in zip(modules, (True, False), strict=True):
        penalty = Penalty(as_term=as_term)
        losses.append(fit(module, data, callbacks=[TrainingCallback(), penalty]).history[0].train_loss)
        assert penalty.seen == 2 * STEPS * RECIPE.batch_size
    for (name, one), other in zip(modules[0].named_parameters(), modules[1].parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name
    assert losses[0] > losses[1] + 0.05  # 0.05 * |w|^2 of about 30


def test_terms_of_several_callbacks_are_added() -> None:
    class Constant(TrainingCallback):
        def loss_term(self, state: TrainingState, images: Tensor) -> Tensor | None:
            return torch.tensor(2.5)

    state, images = Any, torch.zeros(1)
    several = Callbacks([Constant(), TrainingCallback(), Constant()])
    assert several.loss_term(state, images) == 5.0  # type: ignore[arg-type]
    assert Callbacks([TrainingCallback()]).loss_term(state, images) is None  # type: ignore[arg-type]


class OwnRate(TrainingCallback):
    """Train the weights that don't decay at a rate of zero."""

    def on_step_start(self, state: TrainingState) -> None:
        state.optimizer.param_groups[1]["lr"] = 0.0


def test_the_learning_rate_of_a_step_can_be_changed_before_it(data: ImageData) -> None:
    start, module = tiny(), tiny()
    fit(module, data, callbacks=[OwnRate()])
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, start.get_parameter(name)) == (parameter.dim() <= 1), name


def test_weights_set_at_the_end_are_those_of_the_training(data: ImageData) -> None:
    module, average = tiny(), Average(decay=0.5)
    fit(module, data, callbacks=[average])
    assert all(torch.equal(tensor, average.weights[name]) for name, tensor in module.state_dict().items())


# -- state ----------------------------------------------------------------------------------------------------


def through_a_file(snapshot: Snapshot, folder: Path) -> Snapshot:
    write_tensors(folder / "snapshot", snapshot.tensors, snapshot.values)
    tensors, values = read_tensors(folder / "snapshot")
    return Snapshot(tensors=tensors, values=values)


def test_a_stateful_callback_that_was_stopped_after_any_step_ends_like_one_that_was_not(
    data: ImageData, tmp_path: Path
) -> None:
    expected, undisturbed = Average(decay=0.7), tiny(seed=0)
    fit(undisturbed, data, callbacks=[Noted(), expected])
    for stop_after in range(1, 2 * STEPS - 1):
        stop = StopAfter(stop_after)
        with pytest.raises(Stopped):
            fit(tiny(seed=0), data, callbacks=[Noted(), Average(decay=0.7)], **stop.options())
        average, resumed = Average(decay=0.7), tiny(seed=5)
        snapshot = through_a_file(stop.snapshot, tmp_path)
        fit(resumed, data, callbacks=[Noted(), average], resume=snapshot)
        assert same_weights(resumed, undisturbed), stop_after
        assert average.steps == expected.steps == list(range(1, 2 * STEPS + 1))
        assert torch.equal(average.importance, expected.importance)
        assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in average.weights.items())


class Bursting(TrainingCallback):
    """Make the gradients of given calls infinite; it keeps no state, so that a retry is no such call."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.call = calls, 0

    def on_backward_end(self, state: TrainingState) -> None:
        self.call += 1
        if self.call in self.calls:
            next(state.module.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]


def test_going_back_after_a_loss_that_is_not_finite_restores_the_callbacks_too(data: ImageData) -> None:
    disturbed, module = Average(decay=0.7), tiny()
    history = fit(module, data, callbacks=[disturbed, Bursting(STEPS + 2, 2 * STEPS + 1)]).history
    assert len(history) == 2
    # both retries of the second epoch count from its start
    assert disturbed.steps == list(range(1, 2 * STEPS + 1))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in disturbed.weights.values())
    assert bool(torch.isfinite(disturbed.importance))
    # where the first epoch is the bad one, what follows is a training from the beginning at a lower rate
    again, slower = Average(decay=0.7), Average(decay=0.7)
    fit(tiny(), data, callbacks=[again, Bursting(3)])
    fit(tiny(), data, replace(RECIPE, learning_rate=0.2 * RECIPE.learning_rate), callbacks=[slower, Bursting()])
    assert torch.allclose(again.importance, slower.importance, rtol=1e-4)
    assert all(
        torch.allclose(tensor, slower.weights[name], rtol=1e-4, atol=1e-6) for name, tensor in again.weights.items()
    )


def test_a_bad_loss_after_a_resume_goes_back_to_the_state_before_the_stop(data: ImageData, tmp_path: Path) -> None:
    stop = StopAfter(STEPS + 2)
    with pytest.raises(Stopped):
        fit(tiny(), data, callbacks=[Average(decay=0.7), Bursting()], **stop.options())
    snapshot = through_a_file(stop.snapshot, tmp_path)
    expected, resumed = (Average(decay=0.7) for _ in range(2))
    done = STEPS * snapshot.values["epoch"] + snapshot.values["step"]
    assert snapshot.values["step"] > 0
    fit(tiny(), data, callbacks=[expected, Bursting(done + 1)])
    fit(tiny(), data, callbacks=[resumed, Bursting(1)], resume=snapshot)
    assert resumed.steps == expected.steps
    assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in resumed.weights.items())


@pytest.mark.parametrize(
    "others",
    [
        [],
        [Noted()],
        [Average(decay=0.5)],
        [Average(decay=0.5), Noted()],
        [Noted(), Average(decay=0.5), Noted()],
    ],
    ids=lambda others: "+".join(type(callback).__name__ for callback in others) or "none",
)
def test_a_snapshot_of_a_training_with_other_callbacks_is_refused(
    data: ImageData, others: list[TrainingCallback]
) -> None:
    stop = StopAfter(2)
    with pytest.raises(Stopped):
        fit(tiny(), data, callbacks=[Noted(), Average(decay=0.5)], **stop.options())
    with pytest.raises(CheckpointError, match="not of this training: its callbacks were"):
        fit(tiny(), data, callbacks=others, resume=stop.snapshot)


def test_a_snapshot_of_a_training_without_callbacks_is_refused_by_one_with_them(data: ImageData) -> None:
    stop = StopAfter(2)
    with pytest.raises(Stopped):
        fit(tiny(), data, **stop.options())
    with pytest.raises(CheckpointError, match="its callbacks were"):
        fit(tiny(), data, callbacks=[Noted()], resume=stop.snapshot)


def test_a_snapshot_from_before_there_were_callbacks_resumes(data: ImageData) -> None:
    undisturbed, resumed, stop = tiny(), tiny(seed=5), StopAfter(2)
    fit(undisturbed, data)
    with pytest.raises(Stopped):
        fit(tiny(), data, **stop.options())
    values = {key: value for key, value in stop.snapshot.values.items() if key != "callbacks"}
    fit(resumed, data, resume=replace(stop.snapshot, values=values))
    assert same_weights(resumed, undisturbed)


class Keeping(TrainingCallback):
    """A callback with the given state."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": {3}}, [object], float("nan"), float("inf")], ids=repr)
def test_a_state_that_a_snapshot_would_not_give_back_is_refused_at_once(data: ImageData, value: Any) -> None:
    with pytest.raises(UserError, match=r"Keeping\.state_dict\(\) holds scores = .* so return such values"):
        fit(tiny(), data, callbacks=[Keeping({"scores": value})])


def test_a_state_that_nothing_restores_is_refused() -> None:
    callbacks = Callbacks([Keeping({"scores": [1, None, "a", 2.5, True, {"b": []}]})])
    with pytest.raises(ValueError, match="Keeping has no load_state_dict to restore scores"):
        callbacks.load_state_dict(callbacks.state_dict())


class Loaded(Keeping):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


def test_a_callback_is_handed_copies_that_it_may_change() -> None:
    kept: dict[str, Any] = {"scores": torch.zeros(2), "steps": [1]}
    callbacks, other = Callbacks([Loaded(kept)]), Loaded({})
    Callbacks([other]).load_state_dict(state := callbacks.state_dict())
    other.state["scores"] += 1
    other.state["steps"].append(2)
    assert state["0.scores"].tolist() == [0, 0] and state["0.steps"] == [1]


# -- factories ------------------------------------------------------------------------------------------------


def student(seed: int) -> PreparedStudent:
    network = trace_network(tiny(seed=seed), (3, 8, 8), name="tiny")
    return PreparedStudent(original=network, plan=ReductionPlan(), seed=seed, network=network, module=network.module)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Wrap:
    """Have a wrapped module trained in the student's place."""

    def build(self, student: PreparedStudent) -> TrainingCallback:
        student.module = Wrapped(student.module)
        return TrainingCallback()


def test_later_callbacks_see_the_module_that_earlier_ones_set() -> None:
    prepared = student(1)
    _, average = build_callbacks([Wrap(), AverageWeights(0.25)], prepared)
    assert isinstance(average, Average) and average.module is prepared.module
    assert isinstance(prepared.module, Wrapped) and prepared.module.inner is prepared.network.module


class Mistaken:
    def build(self, student: PreparedStudent) -> Any:
        return None


def test_what_builds_no_callback_is_named() -> None:
    with pytest.raises(UserError, match=r"Mistaken.*\.build\(\) returned None; return a TrainingCallback"):
        build_callbacks([Mistaken()], student(0))
    with pytest.raises(UserError, match=r"Average object.* is no factory of callbacks; give an object with build"):
        describe_callbacks([Average(0.5)])  # type: ignore[list-item]


def test_factories_are_described_by_their_options_not_by_where_they_lie_in_memory() -> None:
    assert describe_callbacks([AverageWeights(0.25)]) == ["AverageWeights(decay=0.25)"]
    assert describe_callbacks([Wrap()]) == describe_callbacks([Wrap()])
    assert describe_callbacks([Wrap()]) != describe_callbacks([Mistaken()])
