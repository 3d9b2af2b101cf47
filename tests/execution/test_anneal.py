"""The annealing callback removes ReLUs over a share of the training; the plan's network gets the weights."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from deepreduce.data import ImageData
from deepreduce.execution.anneal import Anneal, AnnealCallback
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.training import PreparedStudent, TrainingCallback, TrainingState
from deepreduce.transforms import AnnealedNetwork, apply_plan
from tests.helpers.images import random_images, striped
from tests.helpers.training import RECIPE, fit, same_weights, tiny


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()  # four steps an epoch


@pytest.fixture(scope="module")
def original() -> Network:
    return trace_network(tiny(), (3, 8, 8), name="tiny")


def student(original: Network, plan: ReductionPlan) -> PreparedStudent:
    network = apply_plan(original, plan)
    return PreparedStudent(original=original, plan=plan, seed=4, network=network, module=network.module)


def culled(original: Network) -> ReductionPlan:
    return ReductionPlan(sites=((original.sites[0].name, "identity"),))


def test_relus_are_gone_after_the_share_and_at_the_last_validation(
    original: Network, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(AnnealedNetwork, "advance", lambda self, share: shares.append(share))
    prepared = student(original, culled(original))
    callback = Anneal(0.5).build(prepared)
    fit(prepared.module, data, RECIPE, callbacks=[callback])
    assert shares == [0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 1.0]  # eight steps, and the end


def test_the_network_of_the_plan_gets_the_weights_that_were_trained_in_its_place(
    original: Network, data: ImageData
) -> None:
    prepared = student(original, culled(original))
    before = {name: tensor.clone() for name, tensor in prepared.network.module.state_dict().items()}
    callback = Anneal(0.5).build(prepared)
    assert prepared.module is not prepared.network.module
    assert all(torch.equal(tensor, before[name]) for name, tensor in prepared.module.state_dict().items())
    history = fit(prepared.module, data, RECIPE, callbacks=[callback]).history
    assert same_weights(prepared.module, prepared.network.module)
    assert not torch.equal(prepared.network.module.state_dict()["conv.weight"], before["conv.weight"])
    images = random_images(4, size=8).float() / 255
    with torch.no_grad():
        one, other = (module.eval()(images) for module in (prepared.module, prepared.network.module))
    assert torch.equal(one, other) and history[-1].val_accuracy is not None


@pytest.mark.parametrize("plan", [ReductionPlan(), ReductionPlan(alpha=0.5)])
def test_where_no_relu_goes_the_network_itself_is_trained(original: Network, plan: ReductionPlan) -> None:
    prepared = student(original, plan)
    callback = Anneal(0.5).build(prepared)
    assert type(callback) is TrainingCallback and prepared.module is prepared.network.module


def test_the_share_follows_from_the_step_alone(original: Network) -> None:
    prepared = student(original, culled(original))
    callback = Anneal(0.5).build(prepared)
    assert isinstance(callback, AnnealCallback) and callback.state_dict() == {}
    optimizer = torch.optim.SGD(prepared.module.parameters(), lr=0.1)
    state = TrainingState(module=prepared.module, optimizer=optimizer, step=2, total_steps=8, epoch=0)
    shares = []
    for step in (2, 0, 4, 6, 2):
        callback.on_step_start(replace(state, step=step))
        shares += [layer.share for layer in callback._annealed.layers]
    assert shares == [0.5, 0.0, 1.0, 1.0, 0.5]


def test_the_factory_is_plain_data() -> None:
    assert (
        pickle.loads(pickle.dumps(Anneal(0.5))) == Anneal(0.5)
        and repr(Anneal(0.5)) == "Anneal(share=0.5, start=None)"
    )
