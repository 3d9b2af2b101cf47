"""How a machine trains a network: chosen by time, remembered, never in the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from deepreduce.training import Precision
from deepreduce.training.autotune import (
    ExecutionPlan,
    Variant,
    arrange,
    arrangement_from_json,
    best_variant,
    fastest,
    remembered_arrangement,
    seconds_beside,
)

FP32, BF16 = Precision(bf16=False, channels_last=False), Precision(bf16=True, channels_last=True)
SOME = ExecutionPlan(precision=BF16, threads=2, side_by_side=3)


def counted(seconds: dict[str, float], taken: list[str]) -> Callable[[str], float]:
    def step(name: str) -> float:
        taken.append(name)
        return seconds[name]

    return step


def test_variants_are_tried_in_turns_and_slow_ones_not_for_long() -> None:
    taken: list[str] = []
    left = fastest(["a", "b", "slow", "hopeless"], counted({"a": 1, "b": 1.1, "slow": 1.5, "hopeless": 9}, taken))
    assert list(left) == ["a", "b"]
    assert {name: taken.count(name) for name in ("a", "b", "slow", "hopeless")} == {
        "a": 6,
        "b": 6,
        "slow": 3,
        "hopeless": 1,
    }
    assert taken[:7] == ["a", "b", "slow", "hopeless", "a", "b", "slow"]


def test_a_slow_first_step_decides_nothing_unless_it_is_hopeless() -> None:
    times = {"a": itertools.chain([2.0], itertools.repeat(0.5)), "b": itertools.repeat(1.0)}
    left = fastest(["a", "b"], lambda name: next(times[name]))
    assert left == {"a": 0.5}


def test_one_variant_needs_no_trial() -> None:
    assert fastest(["only"], lambda name: pytest.fail("tried")) == {"only": 0.0}


@pytest.mark.parametrize(("one", "all_", "chosen"), [(1.0, 0.5, 4), (1.0, 0.95, 1), (1.0, 1.5, 1)])
def test_all_threads_are_chosen_only_where_they_are_clearly_faster(one: float, all_: float, chosen: int) -> None:
    seconds = {Variant(precision=BF16, threads=1): one, Variant(precision=BF16, threads=4): all_}
    assert best_variant(seconds).threads == chosen


def test_with_one_thread_the_fastest_arithmetic_is_chosen() -> None:
    seconds = {
        Variant(precision=FP32, threads=1): 1.0,
        Variant(precision=BF16, threads=1): 0.8,
        Variant(precision=FP32, threads=2): 0.75,
    }
    assert best_variant(seconds) == Variant(precision=BF16, threads=1)


def machine(one: float, two: float, beside: float) -> Callable[[Precision], Callable[[], float]]:
    """A machine of two cores on which a step takes `one` or `two` threads so long, and `beside` beside another."""
    import threading

    def step_of(precision: Precision) -> Callable[[], float]:
        def step() -> float:
            if threading.current_thread() is not threading.main_thread():
                return beside
            return one if torch.get_num_threads() == 1 else two

        return step

    return step_of


@pytest.mark.parametrize(
    ("one", "two", "beside", "threads", "side_by_side"),
    [
        (1.0, 0.6, 1.05, 2, 2),  # 1.67 images in the time of one with two threads, 1.9 side by side
        (1.0, 0.6, 1.3, 2, 1),  # side by side 1.54
        (1.0, 0.6, 1.18, 2, 1),  # 1.69: not worth the memory
        (1.0, 20.0, 1.5, 1, 2),  # a busy machine: threads that spin
        (1.0, 20.0, 2.1, 1, 1),
    ],
)
def test_students_side_by_side_must_train_more_images_together(
    one: float, two: float, beside: float, threads: int, side_by_side: int
) -> None:
    before = torch.get_num_threads()
    try:
        variants = [Variant(precision=BF16, threads=1), Variant(precision=BF16, threads=2)]
        chosen = arrange(variants, machine(one, two, beside), side_by_side=[1, 2])
    finally:
        torch.set_num_threads(before)
    assert chosen == ExecutionPlan(precision=BF16, threads=threads, side_by_side=side_by_side)
    assert chosen.student_threads == (1 if side_by_side > 1 else threads)


def test_what_is_given_is_not_tried() -> None:
    before = torch.get_num_threads()

    def step_of(precision: Precision) -> Callable[[], float]:
        return lambda: pytest.fail("tried")

    variants: Sequence[Variant] = [Variant(precision=FP32, threads=3)]
    assert arrange(variants, step_of, side_by_side=[5]) == ExecutionPlan(precision=FP32, threads=3, side_by_side=5)
    assert torch.get_num_threads() == before


def test_steps_side_by_side_run_at_the_same_time() -> None:
    import threading

    meeting = threading.Barrier(3, timeout=20)

    def step() -> float:
        meeting.wait()  # ends only when all three are here
        return 0.5

    assert seconds_beside([step] * 3) == 0.5


def test_a_choice_is_made_once_for_each_network_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "arrangements.json"
    other = ExecutionPlan(precision=FP32, threads=1)

    def never() -> ExecutionPlan:
        pytest.fail("asked again")

    assert remembered_arrangement("a", lambda: SOME, file=file) == SOME
    assert remembered_arrangement("a", never, file=file) == SOME
    assert remembered_arrangement("b", lambda: other, file=file) == other
    assert remembered_arrangement("a", never, file=file) == SOME
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert remembered_arrangement("a", lambda: other, file=file) == other


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": "y"}', "null", "everything wrong"])
def test_a_damaged_memory_costs_a_trial_and_is_repaired(content: str, tmp_path: Path) -> None:
    file = tmp_path / "arrangements.json"
    if content == "everything wrong":
        remembered_arrangement("a", lambda: SOME, file=file)
        content = file.read_text().replace("true", '"yes"')
    file.write_text(content)
    assert remembered_arrangement("a", lambda: SOME, file=file) == SOME
    assert remembered_arrangement("a", lambda: pytest.fail("asked again"), file=file) == SOME


def test_a_memory_that_can_not_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert remembered_arrangement("a", lambda: SOME, file=tmp_path / "file" / "arrangements.json") == SOME


@pytest.mark.parametrize(
    "value", [None, {}, {"threads": 1}, {"threads": 0, "side_by_side": 1, "precision": {"bf16": True}}]
)
def test_what_is_no_arrangement_is_refused(value: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        arrangement_from_json(value)


def test_an_arrangement_is_told_in_words() -> None:
    assert SOME.told() == "bfloat16, channels last, 2 threads, 3 students side by side"
    assert ExecutionPlan(precision=FP32, threads=1).told() == "float32, channels first, 1 thread"
