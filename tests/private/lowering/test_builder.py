"""Operations become layers with the names of the network, and each layer has the kind of its costliest operation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.private.lowering.aten_graph import aten_graph
from deepreduce.private.lowering.builder import ProgramBuilder, build_program, stored_shape
from deepreduce.private.lowering.constants import Constants
from deepreduce.private.lowering.program import Argument, Program, Ref
from tests.helpers.plain_engine import calibrated, lowered

SHAPE = (1, 2, 3, 4)


def constants() -> Constants:
    network = trace_network(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
    return Constants(aten_graph(network), network)


def program(builder: ProgramBuilder, known: Constants, *, logits: str) -> Program:
    return build_program(
        builder.layers, known, network="toy", image="image", image_shape=SHAPE, logits=logits
    )  # fmt: skip


def test_consecutive_operations_of_a_layer_are_one_and_later_ones_another() -> None:
    builder, known = ProgramBuilder(), constants()
    first = builder.add("conv", "relu", [Ref("image")], SHAPE)
    second = builder.add("conv", "neg", [Ref(first)], SHAPE)
    third = builder.add("other", "relu", [Ref(second)], SHAPE)
    last = builder.add("conv", "add", [Ref(third), Ref(first), 1], SHAPE)
    made = program(builder, known, logits=last)
    assert [(layer.name, [op.name for op in layer.ops]) for layer in made.layers] == [
        ("conv", ["relu", "neg"]), ("other", ["relu"]), ("conv", ["add"])
    ]  # fmt: skip
    assert [layer.inputs for layer in made.layers] == [("image",), (second,), (third, first)]
    assert [layer.outputs for layer in made.layers] == [(first, second), (third,), (last,)]
    assert made.shapes == {name: (1, 3, 4, 2) for name in ("image", first, second, third, last)}


@pytest.mark.parametrize(
    ("name", "args", "kind"),
    [
        ("relu", (), "relu"), ("hardtanh", (0, 6), "relu6"), ("clamp", (0, None), "relu"), ("clamp", (0, 6), "relu6"),
        ("clamp", (-1, 1), "clamp"), ("clamp_min", (0,), "relu"), ("clamp_min", (1,), "clamp"),
        ("mul", (2.0,), "add"), ("mul", (Ref("other"),), "product"), ("mul", ("weight",), "scale"),
        ("mul", ("mask",), "add"), ("mul", (Ref("image"),), "square"), ("pow", (2,), "square"),
        ("pow", (3,), "product"), ("view", ((1, -1),), "move"),
    ],
)  # fmt: skip
def test_the_kind_of_a_layer_follows_from_what_it_multiplies_and_compares(
    name: str, args: tuple[Argument, ...], kind: str
) -> None:
    builder, known = ProgramBuilder(), constants()
    known.masks["mask"] = np.ones(SHAPE, np.bool_)
    weight = known.store_weight(np.ones(SHAPE), "layer")
    named: dict[Argument, Ref] = {"weight": Ref(weight), "mask": Ref("mask")}
    given = [named.get(arg, arg) for arg in args]
    output = builder.add("layer", name, [Ref("image"), *given], SHAPE)
    (layer,) = program(builder, known, logits=output).layers
    assert layer.kind == kind
    assert layer.weights == ((weight,) if "weight" in args else ())


def test_four_dimensions_are_stored_channels_last_and_others_as_they_are() -> None:
    assert stored_shape(SHAPE) == tuple(torch.zeros(SHAPE).permute(0, 2, 3, 1).shape)
    assert stored_shape((1, 10)) == (1, 10) and stored_shape((1, 2, 3, 4, 5)) == (1, 2, 3, 4, 5)


def test_layers_of_a_network_have_the_names_of_its_sites_and_layers_and_batch_norms_are_gone() -> None:
    pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")
    spec = resolve_spec("resnet18", num_classes=10, in_channels=3, width=4)
    network = trace_network(calibrated(build_model(spec, seed=0), (3, 16, 16)), (3, 16, 16), spec=spec)
    layers = {layer.name: layer.kind for layer in lowered(network).program.layers}
    assert {site.name: "relu" for site in network.sites}.items() <= layers.items()
    assert {layer.name for layer in network.linear_layers} <= set(layers)
    assert "scale" not in layers.values()
