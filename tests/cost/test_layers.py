"""Layers count their elements, weights and comparisons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepreduce.cost.layers import (
    ADD,
    COMPARING,
    CONV,
    KINDS,
    LINEAR,
    LOCAL,
    MAX_POOL,
    MULTIPLYING,
    RELU,
    RELU6,
    Layer,
    conv_macs,
    moved_elements,
)


def layer(kind: str, before: tuple[int, ...], after: tuple[int, ...], **more: object) -> Layer:
    return Layer(name="x", kind=kind, in_shape=before, out_shape=after, **more)  # type: ignore[arg-type]


def test_no_kind_multiplies_compares_and_is_local_at_once() -> None:
    groups = [set(MULTIPLYING), set(COMPARING), set(LOCAL)]
    assert sum(map(len, groups)) == len(set.union(*groups)) and set.union(*groups) <= set(KINDS)
    assert len(set(KINDS)) == len(KINDS)


def test_elements_are_those_of_the_shapes() -> None:
    found = layer(CONV, (3, 8, 8), (16, 4, 4))
    assert (found.inputs, found.outputs) == (3 * 8 * 8, 16 * 4 * 4)


@pytest.mark.parametrize(
    ("found", "weights"),
    [
        (layer(CONV, (8, 4, 4), (16, 4, 4), kernel=(3, 5)), 16 * 8 * 3 * 5),
        (layer(CONV, (8, 4, 4), (16, 4, 4), kernel=(3, 3), groups=4), 16 * 2 * 3 * 3),
        (layer(LINEAR, (64,), (10,)), 64 * 10),
        (layer(ADD, (8, 4, 4), (8, 4, 4)), 0),
    ],
)
def test_weights_are_those_of_filters_and_matrices(found: Layer, weights: int) -> None:
    assert found.weights == weights


@pytest.mark.parametrize(
    ("found", "comparisons"),
    [
        (layer(RELU, (8, 4, 4), (8, 4, 4)), 8 * 4 * 4),
        (layer(RELU6, (8, 4, 4), (8, 4, 4)), 2 * 8 * 4 * 4),
        (layer(MAX_POOL, (8, 4, 4), (8, 2, 2), kernel=(2, 2)), 3 * 8 * 2 * 2),
        (layer(LINEAR, (64,), (10,)), 0),
    ],
)
def test_comparisons_are_counted_for_each_output(found: Layer, comparisons: int) -> None:
    assert found.comparisons == found.selections == comparisons


def test_a_masked_relu_compares_what_is_kept_unless_it_is_computed_whole() -> None:
    masked = layer(RELU, (8, 4, 4), (8, 4, 4), kept=32, moved=moved_elements(128, [32]))
    assert (masked.comparisons, masked.moved) == (32, 160)
    assert (masked.whole.comparisons, masked.whole.moved) == (128, 0)
    sliced = replace(masked, moved=0)
    assert sliced.whole == sliced


def test_a_convolution_multiplies_each_output_with_one_filter() -> None:
    assert conv_macs((16, 4, 4), 8, kernel=(3, 3), groups=1) == 16 * 4 * 4 * 8 * 9
    assert conv_macs((16, 4, 4), 8, kernel=(3, 3), groups=8) == 16 * 4 * 4 * 1 * 9
