"""A mask is a value: equal by its digest, whole in memory, named in JSON."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.errors import PlanError
from deepreduce.plan import ReductionPlan
from deepreduce.sites import ChannelMask, PixelMask
from deepreduce.transforms import apply_plan
from tests.helpers.zoo import TOYS

booleans = st.lists(st.booleans(), min_size=1, max_size=40)


@given(booleans)
def test_a_mask_gives_back_what_it_was_made_of(bits: list[bool]) -> None:
    mask = ChannelMask.of(bits)
    assert mask.tensor().tolist() == bits and mask.kept == sum(bits) and mask.tensor().dtype == torch.bool
    assert ChannelMask.of(np.array(bits)) == mask == ChannelMask.of(torch.tensor(bits).view(-1, 1, 1))
    again = pickle.loads(pickle.dumps(mask))
    assert again == mask and torch.equal(again.tensor(), mask.tensor())


@given(booleans, booleans)
def test_masks_are_equal_where_their_bits_are(a: list[bool], b: list[bool]) -> None:
    assert (ChannelMask.of(a) == ChannelMask.of(b)) == (a == b)


def test_bits_of_another_shape_are_another_mask_and_memory_does_not_matter() -> None:
    bits = torch.arange(24) % 3 == 0
    shapes = [(24, 1, 1), (2, 3, 4), (2, 4, 3), (4, 3, 2)]
    assert len({PixelMask.of(bits.view(shape)) for shape in shapes}) == len(shapes)
    wide = bits.view(2, 3, 4)
    assert PixelMask.of(wide) == PixelMask.of(wide.transpose(1, 2).contiguous().transpose(1, 2))


def test_the_digest_is_the_same_on_every_machine() -> None:
    packed = bytes([0b10110000])
    expected = hashlib.sha256(b"(4,)" + packed).hexdigest()[:32]
    assert ChannelMask.of([True, False, True, True]).digest == expected


def test_a_tensor_that_is_changed_later_changes_no_mask() -> None:
    bits = torch.tensor([True, False, True])
    mask = ChannelMask.of(bits)
    bits[:] = False
    mask.tensor()[:] = False
    assert mask.tensor().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([0.1, 0.9]), "channel_mask of float32 is given; give booleans, such as scores > 0.5"),
        ([0, 1], "channel_mask of int64 is given"),
        (torch.ones(2, 2, dtype=torch.bool), r"channel mask of shape \(2, 2\) .*one boolean per channel: \(C,\)"),
        (torch.ones(2, 1, 3, dtype=torch.bool), r"channel mask of shape \(2, 1, 3\)"),
        (torch.tensor(True), r"channel mask of shape \(\)"),
    ],
)
def test_what_is_no_channel_mask_is_refused(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        ChannelMask.of(mask)


def test_json_names_the_mask_and_its_tensor_is_held_against_it() -> None:
    mask = ChannelMask.of([True, False, True])
    plan = ReductionPlan(sites=(("relu", mask),))
    value = plan.to_json()
    assert value["sites"] == {"relu": {"kind": "channel_mask", "kept": 2, "digest": mask.digest}}
    assert ReductionPlan.from_json(value, tensors=plan.mask_tensors()).is_complete
    for tensors, message in (
        ({}, "the mask of site 'relu' is missing"),
        ({"relu": torch.tensor([True, True, True])}, "site 'relu': the mask is ChannelMask.* and not ChannelMask"),
        ({"relu": torch.tensor([1.0, 0.0, 1.0])}, "site 'relu': a channel_mask of float32"),
        ({"relu": torch.ones(3, 2, dtype=torch.bool)}, "site 'relu': a channel mask of shape"),
    ):
        with pytest.raises(PlanError, match=message):
            ReductionPlan.from_json(value, tensors=tensors)


@pytest.mark.parametrize(
    "action",
    [
        {"kind": "channel_mask"},
        {"kind": "channel_mask", "kept": "2", "digest": "ab"},
        {"kind": "channel_mask", "kept": True, "digest": "ab"},
        {"kind": "channel_mask", "kept": 2, "digest": 3},
        {"kind": "channel_mask", "kept": 2, "digest": "ab", "more": 1},
    ],
)
def test_json_that_is_no_mask_is_refused(action: object) -> None:
    with pytest.raises(PlanError, match=r"'relu': .* does not describe a channel_mask; it has kind, kept and digest"):
        ReductionPlan.from_json({"sites": {"relu": action}})


def test_a_mask_that_is_known_by_its_digest_can_be_named_and_not_applied() -> None:
    network = TOYS["basic"].network()
    whole = ReductionPlan(sites=((network.sites[0].name, ChannelMask.of([True, False, True, True])),))
    named = ReductionPlan.from_json(whole.to_json())
    assert whole.is_complete and not named.is_complete and named == whole
    assert whole.merge(named).is_complete and named.merge(whole).is_complete
    for use in (named.mask_tensors, lambda: apply_plan(network, named)):
        with pytest.raises(PlanError, match=r"known by its digest alone; take the plan of the run's result") as told:
            use()
        assert "\n" not in str(told.value)


def test_merging_different_masks_of_a_site_is_refused() -> None:
    a, b = (ReductionPlan(sites=(("x", ChannelMask.of(bits)),)) for bits in ([True, False], [False, True]))
    with pytest.raises(PlanError, match=r"site 'x' is ChannelMask.* in one plan and ChannelMask.* in the other"):
        a.merge(b)
    with pytest.raises(PlanError, match="'identity' in the other"):
        a.merge(ReductionPlan(sites=(("x", "identity"),)))  # type: ignore[arg-type]


def test_within_is_the_subset_whatever_the_kinds() -> None:
    channels, fewer = ChannelMask.of([True, True, False]), ChannelMask.of([False, True, False])
    assert fewer.within(channels) and not channels.within(fewer)
    pixels = torch.zeros(3, 2, 2, dtype=torch.bool)
    pixels[1, 0, 0] = True
    pixel = PixelMask.of(pixels)
    assert pixel.within(fewer) and pixel.within(channels) and not fewer.within(pixel)
    assert not PixelMask.of(~pixels).within(channels)
    # of sites of other shapes nothing is known
    assert not ChannelMask.of([False, True]).within(channels) and not ChannelMask.of([True]).within(channels)
    nearly_all = ~pixels.flip(2)
    assert pixel.within(PixelMask.of(nearly_all)) and not PixelMask.of(pixels[:, :1]).within(PixelMask.of(nearly_all))
