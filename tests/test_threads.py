"""The number of threads: chosen by time, remembered, never in the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deepreduce.threads import faster_threads, remembered_threads


def steps(one: float, all_: float, taken: list[int] | None = None) -> Callable[[int], float]:
    def seconds(count: int) -> float:
        if taken is not None:
            taken.append(count)
        return one if count == 1 else all_

    return seconds


@pytest.mark.parametrize(("one", "all_", "chosen"), [(1.0, 0.5, 4), (1.0, 0.95, 1), (1.0, 1.5, 1), (1.0, 20.0, 1)])
def test_all_threads_are_chosen_only_where_they_are_clearly_faster(one: float, all_: float, chosen: int) -> None:
    assert faster_threads(steps(one, all_), available=4) == chosen


def test_both_are_tried_in_turns_and_a_hopeless_one_not_for_long() -> None:
    fair: list[int] = []
    faster_threads(steps(1.0, 0.9, fair), available=4)
    assert fair == [1, 4] * 4
    hopeless: list[int] = []
    faster_threads(steps(1.0, 20.0, hopeless), available=4)
    assert hopeless == [1, 4] * 2


def test_a_slow_first_step_decides_nothing() -> None:
    times = iter([9.0, 90.0] + [1.0, 0.4] * 3)
    assert faster_threads(lambda count: next(times), available=2) == 2


def test_one_core_needs_no_trial() -> None:
    assert faster_threads(lambda count: pytest.fail("tried"), available=1) == 1


def test_a_choice_is_made_once_for_each_network_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "threads.json"
    assert remembered_threads("a", lambda: 3, file=file) == 3
    assert remembered_threads("a", lambda: pytest.fail("asked again"), file=file) == 3
    assert remembered_threads("b", lambda: 1, file=file) == 1
    assert remembered_threads("a", lambda: pytest.fail("asked again"), file=file) == 3
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert remembered_threads("a", lambda: 2, file=file) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": "y"}', "null"])
def test_a_damaged_memory_costs_a_trial_and_is_repaired(content: str, tmp_path: Path) -> None:
    file = tmp_path / "threads.json"
    file.write_text(content)
    assert remembered_threads("a", lambda: 2, file=file) == 2
    assert remembered_threads("a", lambda: pytest.fail("asked again"), file=file) == 2


def test_a_memory_that_can_not_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert remembered_threads("a", lambda: 2, file=tmp_path / "file" / "threads.json") == 2
