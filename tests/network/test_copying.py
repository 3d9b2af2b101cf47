"""Copies of modules that hold results of computations with their parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from deepreduce.network.copying import copy_module, copy_to_meta, plain_tensors


def pruned() -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    prune.l1_unstructured(network[0], "weight", 0.5)
    return network


def test_a_pruned_network_is_copied_whole_where_deepcopy_fails() -> None:
    network, images = pruned(), torch.randn(2, 3, 8, 8)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(network)
    copied = copy_module(network)
    assert torch.equal(copied(images), network(images))
    with torch.no_grad():
        copied.get_parameter("0.weight_orig").mul_(2)
    assert not torch.equal(copied(images), network(images))


def test_a_copy_on_meta_holds_nothing_else() -> None:
    copied = copy_to_meta(pruned())
    assert all(t.is_meta for t in [*copied.parameters(), *copied.buffers(), *plain_tensors(copied)])
    assert copied(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 4, 6, 6)


def test_tensors_are_found_in_lists_and_dictionaries_of_attributes() -> None:
    module = nn.Module()
    module.held = {"a": [torch.zeros(1), (torch.ones(1),)]}  # type: ignore[assignment]
    assert [float(t) for t in plain_tensors(module)] == [0, 1]
