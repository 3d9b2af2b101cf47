"""Images are put into queries in their order, and what a query can't hold is refused before it starts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from deepreduce.errors import UserError
from deepreduce.private import batches
from deepreduce.private.batches import batches_of, check_batch_of, check_query_fits, query_memory
from deepreduce.utils import memory
from tests.helpers.plain_engine import lowered
from tests.helpers.private_networks import small_resnet


def test_the_last_query_is_filled_up_with_zeros() -> None:
    images = torch.randn(7, 1, 2, 2)
    found = batches_of(images, 3)
    assert [part.shape for part in found] == [(3, 1, 2, 2)] * 3
    assert torch.equal(torch.cat(found)[:7], images) and not found[2][1:].any()
    assert torch.equal(torch.cat(batches_of(list(images), 7)), images)


def test_a_batch_that_the_images_do_not_fill_is_refused() -> None:
    check_batch_of(3, 3)
    with pytest.raises(UserError, match=r"the batch is 4, and 3 images are given: .*; give a batch of at most 3"):
        check_batch_of(3, 4)
    with pytest.raises(UserError, match=r"and 1 image is given"):
        check_batch_of(1, 2)
    with pytest.raises(UserError, match=r"the batch is 0; give a whole number of images"):
        check_batch_of(1, 0)


def test_memory_is_judged_for_any_batch_from_the_program_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one, four = (lowered(small_resnet(), batch=batch).program for batch in (1, 4))
    assert query_memory(one, 4) == query_memory(four, 4) < 4 * query_memory(one, 1)  # the weights are there once
    shares = 8 * sum(torch.Size(one.shapes[name]).numel() for name in one.weights)
    assert 2 * query_memory(one, 1) - query_memory(one, 2) >= batches.ENGINE_BYTES + shares
    needed = query_memory(one, 4)
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * needed)
    check_query_fits(one, 4, parties=2)
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * needed - 1)
    with pytest.raises(UserError, match=r"a query of 4 images to resnet20 needs about .*; give a smaller batch"):
        check_query_fits(one, 4, parties=2)


def test_a_strangers_program_is_judged_whatever_it_says() -> None:
    program = lowered(small_resnet()).program
    ops = [dataclasses.replace(op, args=(), shape=()) for op in program.layers[0].ops]
    odd = dataclasses.replace(program, layers=(dataclasses.replace(program.layers[0], ops=tuple(ops)),))
    check_query_fits(odd, 1, parties=1)
    huge = dataclasses.replace(program, shapes={**program.shapes, "more": (10**12, 10**12)})
    with pytest.raises(UserError, match="needs about"):
        check_query_fits(huge, 1, parties=1)
