"""The values of a network: lookups, its data flow, and that they survive the way to another process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepreduce.errors import PlanError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, ReluSite, trace_network
from deepreduce.network.network import SITE
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, cull_plan, normalise_plan
from deepreduce.transforms.width.propagate import channels_of
from tests.helpers.zoo import REDUCIBLE, TOYS


def pickled(network: Network) -> Network:
    return pickle.loads(pickle.dumps(network))


WAYS = [pickled, copy.deepcopy]
either_way = pytest.mark.parametrize("way", WAYS, ids=["pickle", "deepcopy"])

ZOO = ("resnet20", "vgg16_bn", "torchvision:shufflenet_v2_x0_5")


def zoo_network(name: str) -> Network:
    width = {} if ":" in name else {"width": 4}
    spec = resolve_spec(name, num_classes=5, **width)
    return trace_network(build_model(spec), (3, 32, 32), spec=spec)


def logits(network: Network) -> Tensor:
    network.module.eval()
    images = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network.module(images)


def plans(network: Network) -> list[ReductionPlan]:
    """One that culls, one that takes out single ReLUs, and scales where there is something to scale."""
    found = [ReductionPlan()]
    if len(network.sites) > 1:
        found.append(ReductionPlan(sites=((network.sites[1].name, "identity"),)))
        found.append(cull_plan(network, network.stages[:1]))
    for plan in (ReductionPlan(alpha=0.5), ReductionPlan(rho=0.5), ReductionPlan(alpha=0.5, rho=0.5)):
        with contextlib.suppress(PlanError):
            apply_plan(network, normalise_plan(network, plan))
            found.append(normalise_plan(network, plan))
    return found


def assert_same(one: Network, other: Network) -> None:
    for field in dataclasses.fields(Network):
        if field.name != "module":
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    nodes = [
        [(n.name, n.op, str(n.target), n.meta.get(SITE)) for n in net.module.graph.nodes] for net in (one, other)
    ]
    assert nodes[0] == nodes[1]
    assert torch.equal(logits(one), logits(other))


@either_way
@pytest.mark.parametrize("name", REDUCIBLE)
def test_a_toy_comes_back_as_it_was_and_takes_the_same_plans(name: str, way: Callable[[Network], Network]) -> None:
    network = TOYS[name].network()
    back = way(network)
    assert_same(back, network)
    for plan in plans(network) if name != "wrapped" else []:
        one, other = apply_plan(network, plan), apply_plan(back, plan)
        assert one.stage_relu_counts == other.stage_relu_counts and one.macs == other.macs
        assert torch.equal(logits(one), logits(other)), plan


@either_way
@pytest.mark.parametrize("name", ZOO)
def test_a_network_of_the_zoo_comes_back_as_it_was_and_takes_the_same_plans(
    name: str, way: Callable[[Network], Network]
) -> None:
    network = zoo_network(name)
    back = way(network)
    assert_same(back, network)
    for plan in plans(network)[-1:]:
        one, other = apply_plan(network, plan), apply_plan(back, plan)
        assert one.relu_count == other.relu_count and one.macs == other.macs
        assert torch.equal(logits(one), logits(other)), plan


@either_way
@pytest.mark.parametrize("name", ["basic", "chain", "in-place", "shared module"])
def test_a_reduced_network_comes_back_as_it_was(name: str, way: Callable[[Network], Network]) -> None:
    network = TOYS[name].network()
    for plan in plans(network):
        reduced = apply_plan(network, plan)
        assert_same(way(reduced), reduced)


def test_a_padded_network_comes_back_as_it_was() -> None:
    network = zoo_network("resnet20")
    padded = apply_plan(network, cull_plan(network, ["S1"]).merge(ReductionPlan(pad_once=True)))
    assert padded.is_padded_once
    for way in WAYS:
        assert_same(way(padded), padded)


@either_way
def test_a_network_that_comes_back_shares_nothing_with_the_one_that_went(way: Callable[[Network], Network]) -> None:
    network = TOYS["basic"].network()
    before = logits(network)
    back = way(network)
    with torch.no_grad():
        for parameter in back.module.parameters():
            parameter.zero_()
    assert torch.equal(logits(network), before)


@either_way
def test_there_and_back_twice_is_there_and_back_once(way: Callable[[Network], Network]) -> None:
    network = TOYS["bottleneck"].network()
    assert_same(way(way(network)), network)


def test_what_is_known_of_a_network_is_known_after_the_way_too() -> None:
    network = pickled(TOYS["basic"].network())
    assert channels_of(network).sets and network.dag.number_of_nodes() == len(network.node_shapes)
    assert [f.name for f in dataclasses.fields(network)] == [f.name for f in dataclasses.fields(Network)]


def test_a_graph_of_other_nodes_is_refused() -> None:
    network = TOYS["basic"].network()
    state = network.__getstate__()
    with pytest.raises(pickle.UnpicklingError, match="graph nodes and loads with"):
        object.__new__(Network).__setstate__({**state, "nodes": state["nodes"][:-1]})


def test_an_unknown_stage_or_site_is_an_error_with_the_nearest() -> None:
    network = TOYS["basic"].network()
    with pytest.raises(PlanError, match=r"unknown stage 'S3'; .*known: S1, S2"):
        network.sites_of("S3")
    with pytest.raises(PlanError, match=r"did you mean 'blocks.0.relu1'"):
        network.site("block.0.relu1")
    assert isinstance(network.site("relu"), ReluSite)


def test_the_dag_carries_the_sites_and_macs_of_the_report() -> None:
    network = TOYS["basic"].network()
    dag = network.dag
    assert {data["site"] for _, data in dag.nodes(data=True)} - {None} == {site.name for site in network.sites}
    assert sum(data["macs"] for _, data in dag.nodes(data=True)) == network.macs
    assert all(dag.in_degree(n) == 0 for n, data in dag.nodes(data=True) if data["op"] == "placeholder")
    additions = [n for n, data in dag.nodes(data=True) if dag.in_degree(n) == 2]
    assert len(additions) == 4  # one per block
