"""A state that is copied and loaded again is bit-equal, whatever was trained in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepreduce.training import Snapshot
from deepreduce.training.callbacks import Callbacks
from deepreduce.training.state import RestorableState
from tests.helpers.callbacks import Average
from tests.helpers.training import tiny


class Trained:
    """A module that has taken some steps, and its restorable state."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.average = module, Average(decay=0.5)
        self.average.weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        self.state = RestorableState(module, self.optimizer, Callbacks([self.average]))
        self.step()

    def step(self) -> None:
        for parameter in self.module.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()
        self.average.steps.append(len(self.average.steps))
        self.average.importance += 1


def same(one: Snapshot, other: Snapshot) -> bool:
    names = one.tensors.keys() == other.tensors.keys()
    return (
        names
        and one.values == other.values
        and all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.tensors)
    )


def test_a_copy_stays_as_it_is_and_takes_everything_back() -> None:
    trained = Trained(tiny())
    copy = trained.state.copy()
    assert same(copy, trained.state.snapshot())
    for _ in range(2):  # loading leaves the copy as it was
        trained.step()
        assert not same(copy, trained.state.snapshot())
        trained.state.load(copy)
        assert same(copy, trained.state.snapshot())


def test_a_snapshot_is_of_the_live_tensors() -> None:
    trained = Trained(tiny())
    weight: Tensor = trained.module.get_parameter("conv.weight")
    assert trained.state.snapshot().tensors["model.conv.weight"].data_ptr() == weight.data_ptr()


def test_a_state_before_the_first_step_has_no_momenta() -> None:
    trained = Trained(tiny())
    copy = trained.state.copy()
    fresh = {name: tensor for name, tensor in copy.tensors.items() if not name.startswith("momentum.")}
    assert len(fresh) < len(copy.tensors)
    trained.state.load(Snapshot(tensors=fresh, values=copy.values))
    assert trained.state.snapshot().tensors.keys() == fresh.keys()


def test_a_state_of_another_module_is_refused() -> None:
    other = Trained(nn.Linear(2, 2)).state.copy()
    with pytest.raises(ValueError, match="weights of other names"):
        Trained(tiny()).state.load(other)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Trained(nn.Linear(3, 2)).state.load(other)
