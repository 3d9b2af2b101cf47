"""How a machine trains a network fastest: measured once, cached, never in the way."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepreduce.network import Network, trace_network
from deepreduce.training import Precision, choose_precision
from deepreduce.training.autotune import (
    ExecutionPlan,
    Variant,
    best_variant,
    cached_plan,
    choose_execution,
    fastest,
    seconds_in_parallel,
    try_variants,
    using_threads,
)
from tests.helpers.images import CPU
from tests.helpers.training import tiny

FP32, BF16 = Precision(bf16=False, channels_last=False), Precision(bf16=True, channels_last=True)
SOME = ExecutionPlan(precision=BF16, threads=2, workers=3)


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


def machine(one: float, two: float, together: float) -> Callable[[Precision], Callable[[], float]]:
    """Return a machine: seconds of a step with `one` thread, with `two`, and of each of several steps `together`."""
    import threading

    def step_of(precision: Precision) -> Callable[[], float]:
        def step() -> float:
            if threading.current_thread() is not threading.main_thread():
                return together
            return one if torch.get_num_threads() == 1 else two

        return step

    return step_of


@pytest.mark.parametrize(
    ("one", "two", "together", "threads", "workers"),
    [
        (1.0, 0.6, 1.05, 2, 2),  # 1.67 images in the time of one with two threads, 1.9 with two workers
        (1.0, 0.6, 1.3, 2, 1),  # 1.54 with two workers
        (1.0, 0.6, 1.18, 2, 1),  # 1.69: not worth the memory
        (1.0, 20.0, 1.5, 1, 2),  # a busy machine: threads that spin
        (1.0, 20.0, 2.1, 1, 1),
    ],
)
def test_workers_must_train_more_images_than_one_process(
    one: float, two: float, together: float, threads: int, workers: int
) -> None:
    before = torch.get_num_threads()
    try:
        variants = [Variant(precision=BF16, threads=1), Variant(precision=BF16, threads=2)]
        chosen = try_variants(variants, machine(one, two, together), workers=[1, 2])
    finally:
        torch.set_num_threads(before)
    assert chosen == ExecutionPlan(precision=BF16, threads=threads, workers=workers)
    assert chosen.student_threads == (1 if workers > 1 else threads)


def test_a_single_variant_with_given_workers_is_not_tried() -> None:
    before = torch.get_num_threads()

    def step_of(precision: Precision) -> Callable[[], float]:
        return lambda: pytest.fail("tried")

    variants: Sequence[Variant] = [Variant(precision=FP32, threads=3)]
    assert try_variants(variants, step_of, workers=[5]) == ExecutionPlan(precision=FP32, threads=3, workers=5)
    assert torch.get_num_threads() == before


def test_steps_in_parallel_run_at_the_same_time() -> None:
    import threading

    meeting = threading.Barrier(3, timeout=20)

    def step() -> float:
        meeting.wait()  # ends only when all three are here
        return 0.5

    assert seconds_in_parallel([step] * 3) == 0.5


def test_a_choice_is_made_once_for_each_network_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "arrangements.json"
    other = ExecutionPlan(precision=FP32, threads=1)

    def never() -> ExecutionPlan:
        pytest.fail("asked again")

    assert cached_plan("a", lambda: SOME, file=file) == SOME
    assert cached_plan("a", never, file=file) == SOME
    assert cached_plan("b", lambda: other, file=file) == other
    assert cached_plan("a", never, file=file) == SOME
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert cached_plan("a", lambda: other, file=file) == other


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": "y"}', "null", "everything wrong"])
def test_a_damaged_cache_costs_a_trial_and_is_repaired(content: str, tmp_path: Path) -> None:
    file = tmp_path / "arrangements.json"
    if content == "everything wrong":
        cached_plan("a", lambda: SOME, file=file)
        content = file.read_text().replace("true", '"yes"')
    file.write_text(content)
    assert cached_plan("a", lambda: SOME, file=file) == SOME
    assert cached_plan("a", lambda: pytest.fail("asked again"), file=file) == SOME


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cached_plan("a", lambda: SOME, file=tmp_path / "file" / "arrangements.json") == SOME


@pytest.mark.parametrize(
    "value", [None, {}, {"threads": 1}, {"threads": 0, "side_by_side": 1, "precision": {"bf16": True}}]
)
def test_json_of_no_execution_plan_is_refused(value: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        ExecutionPlan.from_json(value)


def test_a_plan_is_described_in_words() -> None:
    assert SOME.describe() == "bfloat16, channels last, 2 threads, 3 students in parallel"
    assert ExecutionPlan(precision=FP32, threads=1).describe() == "float32, channels first, 1 thread"


def test_json_keeps_the_keys_that_earlier_runs_have_written() -> None:
    known = {"precision": {"bf16": True, "channels_last": True}, "threads": 2, "side_by_side": 3}
    assert SOME.to_json() == known and list(SOME.to_json()) == list(known)
    assert ExecutionPlan.from_json(known) == SOME


# -- the choice for a network ---------------------------------------------------------------------------------


@pytest.fixture
def network() -> Network:
    return trace_network(tiny(), (3, 8, 8), name="tiny")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "deepreduce" / "arrangements.json"


def test_a_run_trains_as_it_began_except_for_what_is_given(network: Network, cache: Path) -> None:
    for given in ({}, {"threads": 7}, {"workers": 4}, {"threads": 7, "workers": 4}):
        plan = choose_execution(network, device=CPU, batch_size=4, recorded=SOME, **given)
        assert plan == replace(SOME, **given)
    assert not cache.exists()


def test_a_trial_is_cached_for_the_network_and_changes_no_global_state(network: Network, cache: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    plan = choose_execution(network, device=CPU, batch_size=4, threads=1, workers=1)
    assert (plan.threads, plan.workers) == (1, 1)
    ((key, known),) = json.loads(cache.read_text()).items()
    assert known == plan.to_json()
    other = replace(plan, precision=replace(plan.precision, bf16=not plan.precision.bf16))
    cache.write_text(json.dumps({key: other.to_json()}))
    assert choose_execution(network, device=CPU, batch_size=4, threads=1, workers=1) == other
    others = {"batch_size": 8}, {"precision": "fp32"}
    for options in others:
        assert (
            choose_execution(network, device=CPU, threads=1, workers=1, **({"batch_size": 4} | options)).threads == 1
        )
    assert len(json.loads(cache.read_text())) == 1 + len(others)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_a_given_precision_is_taken(network: Network, cache: Path) -> None:
    for name in ("fp32", "bf16"):
        plan = choose_execution(network, device=CPU, batch_size=4, precision=name, threads=1, workers=1)
        assert plan.precision == choose_precision(name, network, device=CPU)


def test_on_cuda_students_are_trained_one_after_the_other_without_a_trial(
    network: Network, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    plan = choose_execution(network, device=torch.device("cuda"), batch_size=4)
    assert plan == ExecutionPlan(precision=BF16, threads=torch.get_num_threads())
    assert not cache.exists()


def test_threads_are_as_before_after_the_context() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
