"""The analyzer counts what really executes: every operation is watched by a counter that shares no code with it."""

from __future__ import annotations

import pytest

from deepreduce.models import ZOO, build_model, default_input_size, resolve_spec
from deepreduce.network import analyze_network, trace_network
from tests.helpers.independent import executed_macs, executed_relus
from tests.helpers.zoo import TOYS

TORCHVISION = (
    "alexnet", "vgg11", "resnet18", "resnext50_32x4d", "squeezenet1_0", "densenet121", "googlenet", "mobilenet_v2",
    "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "vit_b_16", "swin_t",
)  # fmt: skip
LARGER = ("resnet50", "wide_resnet50_2", "efficientnet_b0", "regnet_x_400mf", "convnext_tiny", "inception_v3")


@pytest.mark.parametrize("name", [name for name in TOYS if name != "wrapped"])
def test_a_toys_sites_are_the_relus_that_execute(name: str) -> None:
    toy = TOYS[name]
    module = toy.build()
    report = analyze_network(trace_network(module, toy.input_shape))
    assert report.relu_count == toy.expected_relus
    assert dict(report.stages) == dict(toy.stages)
    assert [cost.site.relu_count for cost in report.sites] == executed_relus(module, toy.input_shape)
    assert report.macs == executed_macs(module, toy.input_shape)


@pytest.mark.parametrize("name", ZOO)
def test_a_zoo_networks_sites_are_the_relus_that_execute(name: str) -> None:
    # a sixteenth of the width, really run
    spec = resolve_spec(name, num_classes=7, width=max(1, ZOO[name].width // 16))
    module, shape = build_model(spec), (3, 32, 32)
    report = analyze_network(trace_network(module, shape, spec=spec))
    assert [cost.site.relu_count for cost in report.sites] == executed_relus(module, shape)
    assert report.macs == executed_macs(module, shape)


@pytest.mark.parametrize("name", ZOO)
def test_a_full_zoo_networks_count_is_of_the_relus_that_execute(name: str) -> None:
    spec = resolve_spec(name)
    module, shape = build_model(spec, device="meta"), (3, 32, 32)
    report = analyze_network(trace_network(module, shape, spec=spec))
    assert report.relu_count == sum(executed_relus(module, shape, device="meta"))
    assert report.macs == executed_macs(module, shape, device="meta")


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_torchvision_networks_count_is_of_the_relus_that_execute(name: str) -> None:
    spec = resolve_spec(f"torchvision:{name}")
    size = default_input_size(spec)
    module, shape = build_model(spec, device="meta"), (3, size, size)
    report = analyze_network(trace_network(module, shape, spec=spec))
    assert [cost.site.relu_count for cost in report.sites] == executed_relus(module, shape, device="meta")
    assert report.macs == executed_macs(module, shape, device="meta")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TORCHVISION, *LARGER, "resnet152"])
def test_a_torchvision_network_on_real_images_executes_the_relus_counted(name: str) -> None:
    spec = resolve_spec(f"torchvision:{name}")
    size = default_input_size(spec)
    module, shape = build_model(spec), (3, size, size)
    report = analyze_network(trace_network(module, shape, spec=spec))
    assert [cost.site.relu_count for cost in report.sites] == executed_relus(module, shape)
    assert report.macs == executed_macs(build_model(spec, device="meta"), shape, device="meta")
