"""What layers make protocols do, against counts by hand and against bytes that SPU was seen to send."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.cost.features import FEATURES, POLYNOMIAL, feature, packing_of, product_of
from deepreduce.cost.layers import (
    ADD,
    CONV,
    LINEAR,
    MAX_POOL,
    PRODUCT,
    RELU,
    RELU6,
    SCALE,
    SQUARE,
    Layer,
    conv_macs,
)

sizes = st.integers(1, 3000)


def conv(channels: int, made: int, size: int, *, kernel: int = 3, groups: int = 1, stride: int = 1) -> Layer:
    after = (made, size // stride, size // stride)
    return Layer(
        name="conv", kind=CONV, in_shape=(channels, size, size), out_shape=after, kernel=(kernel, kernel),
        groups=groups, macs=conv_macs(after, channels, kernel=(kernel, kernel), groups=groups),
    )  # fmt: skip


def test_a_convolution_is_a_product_of_positions_by_windows_by_filters() -> None:
    layer = conv(16, 32, 8, stride=2)
    assert product_of(layer) == (4 * 4, 16 * 9, 32)
    assert layer.macs == 4 * 4 * 16 * 9 * 32 == feature("multiplications", layer)
    assert layer.weights == 16 * 9 * 32


def test_groups_save_multiply_accumulates_and_nothing_under_spu() -> None:
    depthwise, dense = conv(16, 16, 8, groups=16), conv(16, 16, 8)
    assert depthwise.macs * 16 == dense.macs
    assert feature("multiplications", depthwise) == feature("multiplications", dense)
    assert depthwise.weights * 16 == dense.weights


def test_a_linear_layer_is_a_product_of_one_row() -> None:
    layer = Layer(name="fc", kind=LINEAR, in_shape=(128,), out_shape=(10,), macs=1280)
    assert product_of(layer) == (1, 128, 10)
    assert layer.weights == 1280


@pytest.mark.parametrize(
    ("layer", "sent"),
    [
        # bytes of the busier party in one layer under SEMI2K, SPU 0.9.5, as its profile gives them
        (conv(3, 16, 32), 580_352),
        (conv(16, 16, 32), 2_527_232),
        (conv(16, 32, 32, stride=2), 729_088),
        (conv(128, 128, 4), 2_670_592),
        (conv(16, 16, 16, groups=16), 659_456),
        (conv(128, 128, 2), 4_206_592),  # every output sees the whole input: one product
        (Layer(name="fc", kind=LINEAR, in_shape=(128,), out_shape=(10,), macs=1280), 22_608),
    ],
)
def test_opened_matrices_and_results_are_what_semi2k_sends(layer: Layer, sent: int) -> None:
    assert 16 * (feature("left", layer) + feature("right", layer)) + 8 * feature("made", layer) == sent


@pytest.mark.parametrize(
    ("product", "sent"),
    [
        # bytes of both parties in one layer under CHEETAH, SPU 0.9.5, as its profile gives them
        ((1024, 144, 16), 929_843),
        ((256, 288, 32), 649_915),
        ((64, 576, 64), 1_192_022),
        ((16, 1152, 128), 815_622),
        ((36, 720, 80), 1_373_163),
        ((256, 576, 64), 1_484_671),
        ((256, 1152, 128), 4_449_273),
        ((64, 2304, 256), 3_889_314),
        ((16, 4608, 512), 1_944_713),
    ],
)
def test_polynomials_sent_and_returned_are_what_cheetah_sends(product: tuple[int, int, int], sent: int) -> None:
    packing = packing_of(*product)
    assert 185_000 * packing.sent + 280_000 * packing.returned == pytest.approx(sent, rel=0.03)


@given(sizes, sizes, sizes)
def test_a_packing_holds_the_whole_product(m: int, k: int, n: int) -> None:
    packing = packing_of(m, k, n)
    assert packing.multiplied * POLYNOMIAL >= m * k * n
    assert packing.sent <= packing.encoded <= packing.multiplied
    assert packing.sent * POLYNOMIAL >= min(m, n) * k
    assert packing.returned * POLYNOMIAL >= m * n


def test_comparisons_are_counted_by_element_and_by_what_follows_each_other() -> None:
    shape = (4, 8, 8)
    relu, relu6 = (Layer(name="r", kind=kind, in_shape=shape, out_shape=shape) for kind in (RELU, RELU6))
    pool = Layer(name="p", kind=MAX_POOL, in_shape=shape, out_shape=(4, 4, 4), kernel=(2, 2))
    assert [layer.comparisons for layer in (relu, relu6, pool)] == [256, 512, 3 * 64]
    assert [feature("comparing_layers", layer) for layer in (relu, relu6, pool)] == [1, 2, 2]


def test_a_mask_and_shared_signs_save_what_they_leave_out() -> None:
    shape = (4, 8, 8)
    for kind, each in ((RELU, 1), (RELU6, 2)):
        whole = Layer(name="r", kind=kind, in_shape=shape, out_shape=shape)
        assert feature("comparisons", whole) == feature("selections", whole) == 256 * each
        masked = replace(whole, kept=65)
        assert feature("comparisons", masked) == feature("selections", masked) == 65 * each
        shared = replace(whole, kept=64, selected=256)
        assert [feature(name, shared) for name in ("comparisons", "selections")] == [64 * each, 256]


def test_squares_and_scales_count_the_elements_that_they_compute() -> None:
    shape = (4, 64, 64)
    square, scale = (Layer(name="s", kind=kind, in_shape=shape, out_shape=shape) for kind in (SQUARE, SCALE))
    assert feature("squared_elements", square) == feature("scaled_elements", scale) == 16_384
    assert feature("squared_elements", replace(square, kept=65)) == 65
    assert feature("squaring_layers", square) == 1 and feature("other_layers", square) == 0
    assert [feature("scaled_polynomials", replace(scale, kept=kept)) for kept in (1, 8_192, 8_193)] == [1, 1, 2]


def test_an_addition_multiplies_and_compares_nothing() -> None:
    layer = Layer(name="add", kind=ADD, in_shape=(4, 8, 8), out_shape=(4, 8, 8))
    there = {name for name in FEATURES if feature(name, layer)}
    assert there == {"other_layers", "other_elements"}


@given(batch=st.integers(2, 300), kernel=st.sampled_from([1, 3]), size=sizes.filter(lambda n: n <= 16))
def test_a_query_pays_for_its_weights_once_and_for_every_image_of_its_own(batch: int, kernel: int, size: int) -> None:
    one = conv(4, 8, size, kernel=kernel)
    many = one.for_images(batch)
    assert feature("right", many) == feature("right", one)
    for name in ("left", "made", "multiplications", "macs", "read"):
        assert feature(name, many) == batch * feature(name, one), name
    assert feature("multiplying_layers", many) == 1


def test_of_other_layers_a_query_counts_every_image() -> None:
    relu = Layer(name="relu", kind=RELU, in_shape=(4, 6, 6), out_shape=(4, 6, 6), kept=10)
    assert feature("comparisons", relu.for_images(5)) == 5 * 10
    assert feature("comparing_layers", relu.for_images(5)) == 1
    linear = Layer(name="fc", kind=LINEAR, in_shape=(128,), out_shape=(10,), macs=1280)
    assert product_of(linear.for_images(7)) == (7, 128, 10)
    whole = conv(128, 128, 2)
    assert product_of(whole) == (1, 512, 512) and product_of(whole.for_images(3)) == (3, 512, 512)
    # each image has matrices of its own where two activations are multiplied
    attention = Layer(name="mm", kind=PRODUCT, in_shape=(4, 8), out_shape=(4, 5), macs=4 * 8 * 5)
    for name in ("left", "right", "made", "sent"):
        assert feature(name, attention.for_images(3)) == 3 * feature(name, attention)
