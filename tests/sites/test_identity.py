"""The identity: old plans keep their ids, nothing is left at the site, and the slope leads there."""

from __future__ import annotations

import pytest
import torch

from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, KEEP, ChannelMask, Identity, action_of
from tests.helpers.zoo import TOYS


def test_it_is_written_as_one_word_so_that_old_plans_keep_their_ids() -> None:
    assert action_of("identity") == IDENTITY == Identity() and repr(IDENTITY) == "'identity'"
    plan = ReductionPlan(sites=(("stem.relu", IDENTITY),))
    assert plan.to_json()["sites"] == {"stem.relu": "identity"}
    assert plan.plan_id == ReductionPlan(sites=(("stem.relu", "identity"),)).plan_id == "efab232eba"  # type: ignore


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_on_its_way_negative_values_are_multiplied_by_the_share(share: float) -> None:
    (site, *_) = TOYS["basic"].network().sites
    layer = IDENTITY.annealed(site, before=KEEP, copies=False)
    assert layer is not None
    layer.share = share
    x = torch.tensor([-2.0, 3.0])
    assert torch.equal(layer(x), torch.tensor([-2.0 * share, 3.0]))


def test_where_a_mask_stood_already_only_its_channels_are_on_their_way() -> None:
    (site, *_) = TOYS["basic"].network().sites
    before = ChannelMask.of([True, False, True, False])
    layer = IDENTITY.annealed(site, before=before, copies=False)
    assert layer is not None
    x = -torch.ones(2, *site.shape)
    found = layer(x)
    assert bool((found[:, ::2] == 0).all()) and bool((found[:, 1::2] == -1).all())
