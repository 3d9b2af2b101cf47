"""Networks that share weights stay separate networks: each loads into a network of its own with equal logits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.data import ImageData
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.training import SharedWeights, predict
from deepreduce.transforms import apply_plan
from tests.helpers.images import random_images, striped
from tests.helpers.training import fit, same_weights, tiny

IMAGES = random_images(4, size=8).float() / 255


def own_and_shared(one: nn.Module, other: nn.Module) -> tuple[set[str], set[str]]:
    """Return the names of the parameters that each network has for itself, and of those that both share."""
    a, b = (dict(m.named_parameters(remove_duplicate=False)) for m in (one, other))
    assert a.keys() == b.keys()
    shared = {name for name in a if a[name] is b[name]}
    return set(a) - shared, shared


def logits(module: nn.Module) -> Tensor:
    module.eval()
    with torch.no_grad():
        return module(IMAGES)


def test_convolutions_are_shared_while_norms_biases_and_the_classifier_are_each_networks_own() -> None:
    together = SharedWeights([tiny(seed=1), tiny(seed=2)])
    own, shared = own_and_shared(*together.members)
    assert shared == {"conv.weight", "twice.weight"}
    assert own == {"conv.bias", "twice.bias", "bn.weight", "bn.bias", "fc.weight", "fc.bias"}
    buffers = [dict(member.named_buffers()) for member in together.members]
    assert not any(buffers[0][name] is buffers[1][name] for name in buffers[0])


def test_the_weights_that_are_shared_are_the_first_networks() -> None:
    first, second = tiny(seed=1), tiny(seed=2)
    expected = copy.deepcopy(first)
    before = second.fc.weight.clone()
    together = SharedWeights([first, second])
    assert together.members[0] is first and together.members[1] is second
    assert same_weights(first, expected)
    assert torch.equal(second.conv.weight, expected.conv.weight)
    assert torch.equal(second.fc.weight, before)


class Mlp(nn.Module):
    """Two linear layers, of which only the last one is a classifier."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(192, hidden), nn.Linear(hidden, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.second(F.relu(self.first(x.flatten(1))))))


def test_linear_layers_before_the_classifier_are_shared_too() -> None:
    _, shared = own_and_shared(*SharedWeights([Mlp(), Mlp()]).members)
    assert shared == {"first.weight", "second.weight"}


def test_weights_of_another_shape_stay_each_networks_own() -> None:
    together = SharedWeights([Mlp(), Mlp(hidden=4)])
    _, shared = own_and_shared(*together.members)
    assert not shared
    assert logits(together.members[1]).shape == (4, 3)


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.b.weight = self.a.weight
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(F.relu(self.stem(x)))))).mean((2, 3)))


def test_weights_that_a_network_ties_stay_tied() -> None:
    together = SharedWeights([Tied(), Tied()])
    for member in together.members:
        assert member.b.weight is member.a.weight is together.members[0].a.weight
    fit(together, striped(), turns=list(together.members))
    for member in together.members:
        alone = Tied()
        alone.load_state_dict(member.state_dict())
        assert torch.equal(logits(alone), logits(member))


def test_a_step_of_one_network_changes_the_logits_of_another() -> None:
    together = SharedWeights([tiny(seed=1), tiny(seed=2)])
    before = logits(together.members[1]).clone()
    own = {name: t.clone() for name, t in together.members[1].state_dict().items() if name not in
           ("conv.weight", "twice.weight")}  # fmt: skip
    fit(together, striped(), turns=[together.members[0]])
    assert not torch.equal(logits(together.members[1]), before)
    after = together.members[1].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in own.items())


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()


def test_networks_trained_together_load_into_separate_ones_with_equal_logits(data: ImageData) -> None:
    original = trace_network(tiny(dropout=0.0), (3, 8, 8), name="tiny")
    plans = [ReductionPlan(sites=((site.name, "identity"),)) for site in original.sites[:2]]
    together = SharedWeights([apply_plan(original, plan).module for plan in plans])
    _, shared = own_and_shared(*together.members)
    assert shared == {"conv.weight", "twice.weight"}
    fit(together, data, turns=list(together.members))
    answers = [logits(member) for member in together.members]
    assert not torch.equal(*answers)
    for plan, member, expected in zip(plans, together.members, answers, strict=True):
        alone = apply_plan(original, plan).module
        alone.load_state_dict(member.state_dict())
        assert torch.equal(logits(alone), expected)
        assert predict(alone, data.val, batch_size=64).accuracy == predict(member, data.val, batch_size=64).accuracy


def test_only_its_members_can_be_called() -> None:
    with pytest.raises(NotImplementedError, match="call one of its members"):
        SharedWeights([tiny()])(IMAGES)
