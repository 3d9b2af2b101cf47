"""A batch is a whole number of images, and its name is read as it was written."""

from __future__ import annotations

import pytest

from deepreduce.cost.batch import check_batch, split_batch, with_batch
from deepreduce.cost.builtin import SEMI2K
from deepreduce.cost.layers import CONV, RELU, Layer
from deepreduce.cost.link import LINKS
from deepreduce.cost.objective import Latency, basis_of
from deepreduce.cost.preset import preset_named
from deepreduce.errors import UserError


@pytest.mark.parametrize("batch", [0, -1, 257, 10**30, 2.0, "2", None, True, float("nan")])
def test_anything_else_is_refused_with_the_numbers_that_are_allowed(batch: object) -> None:
    with pytest.raises(UserError, match=r"the batch is .*; give a whole number of images for each query, 1 to 256"):
        check_batch(batch)  # type: ignore[arg-type]


def test_a_name_is_read_as_it_was_written_and_one_image_adds_nothing() -> None:
    assert with_batch("mine-semi2k", 16) == "mine-semi2k-x16"
    for name in ("semi2k", "mine-cheetah", "my-x-model"):
        for batch in (1, 2, 256):
            assert split_batch(with_batch(name, batch)) == (name, batch)
    assert split_batch("semi2k-x0") == ("semi2k-x0", 1)  # a model's name, which nobody has


def test_a_preset_has_a_batch_and_says_so() -> None:
    preset = preset_named("semi2k-x16-wan")
    assert (preset.model, preset.link, preset.batch) == (SEMI2K, LINKS["wan"], 16)
    assert preset.name == "semi2k-x16-wan"
    assert basis_of(preset.name) == "semi2k over wan (16 images a query; trusted dealer, a cost reference; estimated)"
    assert basis_of("measured-cheetah-x4-lan") == "cheetah over lan (4 images a query; measured; link computed)"
    assert "16 images a query" in Latency(preset=preset.name).title
    with pytest.raises(UserError, match="the batch is 1000; give"):
        preset_named("semi2k-x1000-lan")


def test_an_image_has_an_equal_part_of_its_query() -> None:
    conv = Layer(name="c", kind=CONV, in_shape=(3, 8, 8), out_shape=(4, 8, 8), kernel=(3, 3), macs=64 * 27 * 4)
    relu = Layer(name="r", kind=RELU, in_shape=(4, 8, 8), out_shape=(4, 8, 8))
    for batch in (1, 4, 16):
        found = SEMI2K.estimate([conv, relu], LINKS["wan"], batch=batch)
        opened, weights = 16 * 64 * 27 + 8 * 64 * 4 + 144 * 256, 16 * 27 * 4
        assert found.bytes == pytest.approx(opened + (weights + 160) / batch)
        assert found.rounds == pytest.approx((2 + 8 + 1) / 2 / batch)
        by_layer = sum(SEMI2K.latency_of(LINKS["wan"], batch=batch)(layer) for layer in (conv, relu))
        assert batch * found.latency == pytest.approx(by_layer + SEMI2K.online.once.latency(LINKS["wan"]))
