"""The learning rate over time, and the choice of arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.network import trace_network
from deepreduce.training import Precision, Recipe, RecipeChanges, choose_precision, learning_rate_at
from tests.helpers import zoo


def rates(epochs: int, steps: int, warmup: float) -> list[float]:
    recipe = Recipe(epochs=epochs, batch_size=1, learning_rate=0.4, warmup_epochs=warmup)
    return [learning_rate_at(step, recipe=recipe, steps_per_epoch=steps) for step in range(epochs * steps)]


def test_the_learning_rate_rises_in_even_steps_then_follows_half_a_cosine() -> None:
    found = rates(epochs=3, steps=4, warmup=1.0)
    assert found[:4] == pytest.approx([0.4 * n / 5 for n in (1, 2, 3, 4)])
    assert found[4:] == pytest.approx([0.2 * (1 + math.cos(math.pi * n / 8)) for n in range(8)])


def test_without_warm_up_training_starts_at_the_highest_rate() -> None:
    assert rates(epochs=2, steps=5, warmup=0.0)[0] == 0.4


@given(epochs=st.integers(1, 6), steps=st.integers(1, 9), warmup=st.floats(0, 10))
def test_every_step_has_a_rate_above_zero_and_one_has_the_highest(epochs: int, steps: int, warmup: float) -> None:
    found = rates(epochs, steps, warmup)
    assert all(0 < rate <= 0.4 for rate in found)
    peak = found.index(max(found))
    assert found[peak] == 0.4
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


HEAVY, LIGHT = (8, 8), (1, 1)  # feature maps: many multiplications per weight, or one


@pytest.mark.parametrize(
    ("name", "has_bf16", "size", "expected"),
    [
        ("auto", True, HEAVY, Precision(bf16=True, channels_last=True)),
        ("auto", True, LIGHT, Precision(bf16=False, channels_last=False)),
        ("auto", False, HEAVY, Precision(bf16=False, channels_last=False)),
        ("auto", False, LIGHT, Precision(bf16=False, channels_last=False)),
        ("fp32", True, HEAVY, Precision(bf16=False, channels_last=True)),
        ("fp32", False, HEAVY, Precision(bf16=False, channels_last=False)),
        ("bf16", False, LIGHT, Precision(bf16=True, channels_last=False)),
    ],
)
def test_on_the_cpu_bf16_needs_hardware_for_it_and_enough_arithmetic(
    monkeypatch: pytest.MonkeyPatch, name: str, has_bf16: bool, size: tuple[int, int], expected: Precision
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    network = trace_network(zoo.SharedModule(), (3, *size))
    assert choose_precision(name, network, device=torch.device("cpu")) == expected


@pytest.mark.parametrize("native", [True, False])
def test_on_cuda_bf16_is_chosen_where_the_hardware_has_it_not_where_it_is_emulated(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    network = trace_network(zoo.SharedModule(), (3, *LIGHT))
    assert choose_precision("auto", network, device=torch.device("cuda")) == Precision(
        bf16=native, channels_last=True
    )


def test_older_torch_that_can_not_tell_of_bf16_gets_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, check, raising=False)
    network = trace_network(zoo.SharedModule(), (3, *HEAVY))
    assert not choose_precision("auto", network, device=torch.device("cpu")).bf16


def test_the_memory_format_is_what_the_precision_says() -> None:
    assert Precision(bf16=False, channels_last=True).memory_format == torch.channels_last
    assert Precision(bf16=True, channels_last=False).memory_format == torch.contiguous_format


@given(epochs=st.integers(1, 6), steps=st.integers(1, 9))
def test_a_linear_decay_falls_by_the_same_at_every_step_and_would_end_at_zero(epochs: int, steps: int) -> None:
    recipe = Recipe(epochs=epochs, batch_size=1, learning_rate=0.4, warmup_epochs=0.0, decay="linear")
    total = epochs * steps
    found = [learning_rate_at(step, recipe=recipe, steps_per_epoch=steps) for step in range(total)]
    assert found == pytest.approx([0.4 * (total - step) / total for step in range(total)])


def test_changes_replace_what_they_name_and_multiply_the_rate() -> None:
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.4)
    assert RecipeChanges().of(recipe) == recipe
    assert RecipeChanges(rate=0.5).of(recipe) == replace(recipe, learning_rate=0.2)
    changes = RecipeChanges(learning_rate=1e-3, rate=2, weight_decay=0, decay="linear", optimizer="adam")
    assert changes.of(recipe) == replace(recipe, learning_rate=2e-3, weight_decay=0, decay="linear", optimizer="adam")
