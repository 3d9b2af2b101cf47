"""The record of labels: what is joined goes together, what is pinned stays, what is apart is scaled apart."""

from __future__ import annotations

import numpy as np
import torch

from deepreduce.transforms.width.channel_sets import FREE, OUTPUT, TOGETHER, ChannelBook


def test_layers_of_one_structure_are_a_set_each_and_joined_ones_are_one() -> None:
    book = ChannelBook()
    a, b = book.output_labels("a.weight", 0, 4), book.output_labels("b.weight", 0, 4)
    c = book.output_labels("c.weight", 0, 6)
    assert torch.equal(book.output_labels("a.weight", 0, 4), a)  # a second call gets the same labels
    book.join(a, b)
    book.bind("next.weight", 1, torch.cat([b, c]))
    channels = book.channels({"reshape": (a.view(2, 2),)})
    assert [(s.name, len(s.channels)) for s in channels.sets] == [("a", 4), ("c", 6)]
    ab, of_c = (s.channels for s in channels.sets)
    for key in (("a.weight", 0), ("b.weight", 0)):
        assert tuple(channels.tensors[key]) == ab
    assert tuple(channels.tensors["next.weight", 1]) == (*ab, *of_c)
    (reshaped,) = channels.reshaped["reshape"]
    assert np.array_equal(reshaped, np.reshape(ab, (2, 2)))


def test_pinned_channels_are_in_no_set_and_reported_with_their_first_reason() -> None:
    book = ChannelBook()
    a, b = book.output_labels("a.weight", 0, 4), book.output_labels("b.weight", 0, 2)
    book.pin(a[:3], "first")
    book.pin(a, "second")
    book.pin(b, OUTPUT)
    channels = book.channels({})
    assert channels.sets == ()
    # a classifier's outputs stay as a matter of course and need no report
    assert {(p.name, p.reason): p.count for p in channels.pinned} == {("a", "first"): 3, ("a", "second"): 1}


def test_joining_with_a_constant_pins_and_joining_with_a_number_does_not() -> None:
    book = ChannelBook()
    a, b = book.output_labels("a.weight", 0, 3), book.output_labels("b.weight", 0, 3)
    book.join(a, torch.zeros(3, dtype=torch.int64))  # the labels of the image and of constants
    book.join(b, torch.full((3,), FREE))
    channels = book.channels({})
    assert [s.name for s in channels.sets] == ["b"]
    assert [(p.name, p.reason) for p in channels.pinned] == [("a", "they meet the image or a constant")]


def test_parts_of_a_tensor_are_sets_of_their_own() -> None:
    book = ChannelBook()
    labels = book.output_labels("a.weight", 0, 6)
    book.segment(labels[:2])
    book.segment(labels[2:])
    assert sorted(len(s.channels) for s in book.channels({}).sets) == [2, 4]


def test_a_layer_whose_channels_are_all_one_keeps_them() -> None:
    book = ChannelBook()
    labels = book.output_labels("a.weight", 0, 4)
    book.join(labels[:-1], labels[1:])
    (pinned,) = book.channels({}).pinned
    assert (pinned.name, pinned.count, pinned.reason) == ("a", 4, TOGETHER)
