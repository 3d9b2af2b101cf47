"""In this process, tasks are trained one after the other, each with the threads of the context."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepreduce.execution.serial import SerialExecutor
from deepreduce.execution.task import TrainTask
from deepreduce.training import Started, Stopped, TrainingEvent
from tests.helpers.execution import alone, untaught


def test_a_task_is_trained_with_the_threads_of_the_context_and_others_compute_with_their_own(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []

    def note(task: TrainTask, event: TrainingEvent) -> None:
        seen.append(torch.get_num_threads())

    with SerialExecutor() as executor:
        context = untaught(tmp_path, threads=before + 1)
        for _ in executor.run([alone("one")], context, on_event=note, stop=lambda: False):
            assert torch.get_num_threads() == before
    assert set(seen) == {before + 1} and torch.get_num_threads() == before


def test_after_a_stop_no_other_task_begins(tmp_path: Path) -> None:
    begun: list[str] = []

    def note(task: TrainTask, event: TrainingEvent) -> None:
        if isinstance(event, Started):
            begun.append(task.name)

    tasks = [alone("one"), alone("two")]
    running = SerialExecutor().run(tasks, untaught(tmp_path), on_event=note, stop=lambda: "one" in begun)
    with pytest.raises(Stopped):
        next(running)
    assert begun == ["one"] and (tmp_path / "one" / "training.safetensors").is_file()
    assert not (tmp_path / "two").exists()
