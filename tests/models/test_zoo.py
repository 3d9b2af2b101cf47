"""The networks of the zoo: their options, their published sizes, their parameters."""

from __future__ import annotations

import pytest

from deepreduce.models import ZOO, build_model, default_input_size, resolve_spec
from deepreduce.network import trace_network


@pytest.mark.parametrize("name", ZOO)
def test_a_zoo_network_takes_other_channels_classes_width_and_depth(name: str) -> None:
    entry = ZOO[name]
    spec = resolve_spec(name, num_classes=7, in_channels=1, width=2, blocks=[1] * len(entry.blocks))
    network = trace_network(build_model(spec), (1, 32, 32), spec=spec)
    assert network.output_shape == (7,)
    assert network.stages == tuple(f"S{number}" for number in range(1, entry.num_stages + 1))
    assert network.blocks == spec.blocks
    assert not network.unsupported or name == "vgg16_bn"  # which has its max-pools


@pytest.mark.parametrize("name", ZOO)
def test_a_zoo_network_has_its_published_width_and_depth(name: str) -> None:
    spec = resolve_spec(name)
    assert (spec.width, spec.blocks, spec.num_classes, spec.in_channels) == (
        ZOO[name].width, ZOO[name].blocks, 10, 3
    )  # fmt: skip
    assert default_input_size(spec) == 32
    assert all(parameter.is_meta for parameter in build_model(spec, device="meta").parameters())


def test_parameters_are_those_of_the_literature() -> None:
    def parameters(name: str, num_classes: int) -> int:
        model = build_model(resolve_spec(name, num_classes=num_classes), device="meta")
        return sum(p.numel() for p in model.parameters())

    # convolutions 3x3, batch-norms of two, a projection where a stage widens, a linear layer with bias
    expected = 3 * 64 * 9 + 2 * 64
    in_channels = 64
    for channels in (64, 128, 256, 512):
        for block in range(2):
            source = in_channels if block == 0 else channels
            expected += 9 * source * channels + 9 * channels**2 + 4 * channels
            expected += source * channels + 2 * channels if source != channels else 0
        in_channels = channels
    assert parameters("resnet18", 100) == expected + 512 * 100 + 100
