"""Events tell a caller all of a training, in order, and travel between processes."""

from __future__ import annotations

import pickle
from dataclasses import replace

from deepreduce.training import EpochEnded, EpochRecord, Progress, Started, Stepped, TrainingEvent
from tests.helpers.images import striped
from tests.helpers.training import RECIPE, fit, tiny


def test_a_training_reports_its_start_its_epochs_and_the_progress_between_them() -> None:
    events: list[TrainingEvent] = []
    summary = fit(tiny(), striped(), replace(RECIPE, epochs=3), on_event=events.append)
    assert [type(event) for event in events] == [Started, EpochEnded, Stepped, EpochEnded, Stepped, EpochEnded]
    assert events[0] == Started(epochs=())
    assert tuple(event.record for event in events if isinstance(event, EpochEnded)) == summary.history


def test_steps_are_reported_within_an_epoch_of_many_steps() -> None:
    events: list[TrainingEvent] = []
    fit(tiny(), striped(), replace(RECIPE, epochs=1, batch_size=2), on_event=events.append)
    steps = [event.progress for event in events if isinstance(event, Stepped)]
    assert [progress.step for progress in steps] == [20] and steps[0].steps == 36
    assert steps[0].done == 20 / 36 and steps[0].val_accuracy is None


def test_events_are_plain_values_that_can_be_sent() -> None:
    record = EpochRecord(epoch=1, learning_rate=0.1, train_loss=2.0, val_accuracy=None, seconds=1.0)
    progress = Progress(epoch=1, epochs=2, step=0, steps=4, done=0.5, train_loss=2.0, val_accuracy=0.5)
    for event in (Started(epochs=(record,)), Stepped(progress=progress), EpochEnded(record=record)):
        assert pickle.loads(pickle.dumps(event)) == event
