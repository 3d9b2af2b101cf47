"""Alpha for networks that deepreduce did not build: what goes, what stays, what is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from deepreduce import load_reduced
from deepreduce.errors import PlanError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import apply_plan, cull, normalise_plan, reshape, thin
from tests.helpers.independent import executed_macs, executed_relus
from tests.helpers.zoo import CLASSES, REDUCIBLE, TOYS, conv

SCALED_WHOLE = [name for name in REDUCIBLE if name not in ("others",)]


def torchvision_network(name: str, size: int = 64) -> Network:
    spec = resolve_spec(f"torchvision:{name}", num_classes=7)
    return trace_network(build_model(spec), (3, size, size), spec=spec)


@pytest.mark.parametrize("name", SCALED_WHOLE)
def test_alpha_halves_the_relus_of_a_toy(name: str) -> None:
    network = TOYS[name].network()
    half = reshape(network, alpha=0.5)
    assert half.relu_count * 2 == network.relu_count and not half.notes
    assert half.output_shape == (CLASSES,)
    assert [s.name for s in half.sites] == [s.name for s in network.sites]
    assert executed_macs(half.as_module(), network.input_shape) == half.macs


def test_a_narrowed_network_is_narrowed_further() -> None:
    network = TOYS["chain"].network()
    quarter = reshape(reshape(network, alpha=0.5), alpha=0.5)
    assert quarter.relu_count * 4 == network.relu_count == reshape(network, alpha=0.25).relu_count * 4


def test_the_most_important_channels_stay_with_their_weights() -> None:
    network = TOYS["chain"].network()
    layers = network.module.get_submodule("layers")
    with torch.no_grad():
        for index, weight in enumerate(layers.get_submodule("0").weight):
            weight.fill_([0.1, 3.0, 0.2, 2.0][index])
        layers.get_submodule("2").weight[:, [0, 2]] *= 0.1
    narrow = reshape(network, alpha=0.5).module.get_submodule("layers.0")
    assert torch.equal(narrow.weight, layers.get_submodule("0").weight[[1, 3]])
    assert torch.equal(narrow.bias, layers.get_submodule("0").bias[[1, 3]])
    assert (narrow.in_channels, narrow.out_channels) == (3, 2)


class Figures(nn.Module):
    """Names sizes in figures at every turn, as many a tutorial does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 8), conv(4, 6), conv(4, 4)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(6 + 4), nn.Linear(10 * 4 * 4, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.conv1(x)).split(4, dim=1)
        x = torch.cat([F.relu(self.conv2(a)), F.relu(self.conv3(b))], dim=1)
        x = torch.cat([x[:, :6], x[:, 6:]], dim=1)
        x = F.layer_norm(x.permute(0, 2, 3, 1), (10,), self.norm.weight, self.norm.bias).permute(0, 3, 1, 2)
        x = F.avg_pool2d(x, 2).reshape(-1, 10 * 4 * 4)
        return self.fc2(F.relu(self.fc1(x)).view(-1, 12))


def test_sizes_that_the_forward_pass_names_in_figures_follow() -> None:
    network = trace_network(Figures(), (3, 8, 8))
    half = reshape(network, alpha=0.5)
    assert half.relu_count * 2 == network.relu_count and not half.notes
    module = half.as_module().train()
    assert module(torch.randn(5, 3, 8, 8)).shape == (5, CLASSES)
    assert sum(executed_relus(module, (3, 8, 8))) == half.relu_count


class Stubborn(nn.Module):
    """One layer's width is fixed by a computation on its size, the others' are not."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.rigid, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rigid(F.relu(self.free(x)))
        x = F.relu(x.unflatten(1, (2, 3)).flatten(1, 2))
        return self.fc(x.mean(dim=(2, 3)))


def test_what_can_not_be_scaled_stays_and_is_told() -> None:
    network = trace_network(Stubborn(), (3, 8, 8))
    half = reshape(network, alpha=0.5)
    assert half.relu_count == (4 + 6) * 64
    assert half.notes == ("not scaled: rigid (6 channels), because the forward pass fails with fewer",)
    assert thin(half, keep="first").notes == half.notes


@pytest.mark.parametrize(
    ("layers", "note"),
    [
        ([weight_norm(nn.Conv2d(3, 6, 3)), nn.ReLU()], "0 (6 channels), because its weight is computed"),
        ([nn.Conv2d(3, 6, 3), nn.LocalResponseNorm(3), nn.ReLU()],
         "0 (6 channels), because they can only be removed all together"),
        ([nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 6, 2, groups=2)],
         "2 (6 channels), because it is grouped and transposed"),
        ([nn.Conv2d(3, 6, 3), nn.LayerNorm([6, 6, 6]), nn.ReLU()],
         "0 (6 channels), because a layer-norm spans several dimensions"),
    ],
)  # fmt: skip
def test_every_layer_that_keeps_its_channels_is_told(layers: list[nn.Module], note: str) -> None:
    head = [nn.Conv2d(6, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)]
    half = reshape(trace_network(nn.Sequential(*layers, *head), (3, 8, 8)), alpha=0.5)
    assert any(note in told for told in half.notes)
    assert half.module.get_submodule(str(len(layers))).out_channels == 4
    half.as_module().train()(torch.randn(2, 3, 8, 8)).sum().backward()


NORMS = (
    nn.GroupNorm(8, 8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8),
    nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8, track_running_stats=False),
)  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
def test_norms_and_slopes_follow_their_channels(norm: nn.Module) -> None:
    layers = nn.Sequential(conv(3, 8), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    half = reshape(trace_network(layers, (3, 8, 8)), alpha=0.5)
    assert half.relu_count == 4 * 64 and not half.notes
    half.as_module().train()(torch.randn(2, 3, 8, 8)).sum().backward()


def test_an_alpha_that_changes_no_channel_is_refused_with_the_reason() -> None:
    with pytest.raises(PlanError, match="is already what"):
        reshape(TOYS["chain"].network(), alpha=0.99)
    image = nn.Sequential(nn.Conv2d(3, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(PlanError, match=r"alpha 0.5 changes no channel of Sequential"):
        reshape(trace_network(image, (3, 8, 8)), alpha=0.5)


def test_the_normal_form_of_alpha_is_the_simplest_fraction() -> None:
    network = TOYS["chain"].network()  # sets of 4 and 8 channels
    for alpha, simplest in ((0.51, 0.5), (0.5, 0.5), (0.26, 0.25), (0.76, 0.75), (0.7499, 0.75), (0.99, 1.0)):
        assert normalise_plan(network, ReductionPlan(alpha=alpha)).alpha == simplest


def test_tied_weights_stay_tied() -> None:
    module = TOYS["chain"].build()
    layers = module.get_submodule("layers")
    layers.get_submodule("4").weight = layers.get_submodule("2").weight
    narrow = reshape(trace_network(module, (3, 8, 8)), alpha=0.5).module.get_submodule("layers")
    assert narrow.get_submodule("4").weight is narrow.get_submodule("2").weight
    assert narrow.get_submodule("2").weight.shape == (2, 2, 3, 3)


def test_a_narrowed_network_of_torchvision_loads_back_bit_equal(tmp_path: Path) -> None:
    whole = torchvision_network("shufflenet_v2_x0_5", 32)
    with torch.no_grad():  # as after a training
        for tensor in whole.module.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + torch.rand_like(tensor))
    plan = normalise_plan(whole, cull_plan_of(whole).merge(ReductionPlan(alpha=0.5, rho=0.5)))
    reduced = apply_plan(whole, plan)
    reduced.module.eval()
    NetworkFolder(path=tmp_path).finish(
        weights=reduced.module.state_dict(),
        description=describe_network(whole, reduced, plan, label="mine"),
        metrics={},
        history=(),
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_reduced(tmp_path)(images), reduced.module(images))


def cull_plan_of(network: Network) -> ReductionPlan:
    culled = cull(network, [network.stages[0]])
    left = {site.name for site in culled.sites}
    return ReductionPlan(sites=tuple((s.name, "identity") for s in network.sites if s.name not in left))


# -- torchvision's networks of ReLUs: one of each kind; scripts/torchvision_table.py tries them all -----------

EDITS = {
    "cull": lambda network: cull(network, [network.stages[0]]),
    "thin": thin,
    "alpha": lambda network: reshape(network, alpha=0.5),
    "rho": lambda network: reshape(network, rho=0.5),
    "all": lambda network: thin(reshape(cull(network, [network.stages[0]]), alpha=0.5, rho=0.5)),
}
KINDS = ("alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_1", "densenet121",
         "googlenet", "inception_v3", "mobilenet_v2", "mnasnet0_5", "shufflenet_v2_x0_5", "regnet_x_400mf",
         "regnet_y_400mf")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_network_of_torchvision_is_reduced_in_every_way_and_trained(name: str) -> None:
    network = torchvision_network(name, {"inception_v3": 224, "googlenet": 128, "alexnet": 128}.get(name, 96))
    for edit in EDITS.values():
        reduced = edit(network)
        assert not reduced.notes and reduced.relu_count < network.relu_count
        assert sum(executed_relus(reduced.as_module(), network.input_shape)) == reduced.relu_count
        module = reduced.as_module().train()
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        F.cross_entropy(module(torch.randn(2, *network.input_shape)), torch.tensor([0, 1])).backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())
        optimizer.step()
