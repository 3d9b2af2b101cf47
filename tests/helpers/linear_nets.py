"""Networks with linear regions: layers drawn by hypothesis, a sequence of given ones, ResNet-18."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.cost.layers import Layer
from deepreduce.errors import ModelError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import collapse


class Residual(nn.Module):
    """A branch of layers beside a shortcut; `overwrites` adds in place, as torchvision's blocks do."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, *, overwrites: bool = False) -> None:
        super().__init__()
        self.branch, self.shortcut, self.overwrites = branch, shortcut, overwrites

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if self.overwrites:
            out += self.shortcut(x)
            return out
        return out + self.shortcut(x)


class Linear(nn.Module):
    """Stem, ReLU, the region, ReLU, classifier."""

    def __init__(self, layers: list[nn.Module], *, channels: int, made: int) -> None:
        super().__init__()
        self.stem, self.relu1, self.relu2 = nn.Conv2d(3, channels, 1), nn.ReLU(), nn.ReLU(inplace=True)
        self.region, self.pool, self.fc = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Linear(made, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.relu2(self.region(self.relu1(self.stem(x))))).flatten(1))


class Function(nn.Module):
    """A convolution, batch-norm or pool of a module's numbers, computed by a function instead of the module."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding, dilation=layer.dilation,
                            groups=layer.groups)  # fmt: skip
        if isinstance(layer, nn.BatchNorm2d):
            return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
        return F.avg_pool2d(x, 2, divisor_override=3)


def hooked(layer: nn.Module) -> nn.Module:
    """The layer with a hook that changes what it gives."""
    layer.register_forward_hook(lambda _, given, made: 1.5 * made)
    return layer


WIDTH = 4
SIZES = (9, 12, 13, 16)

convolutions = st.fixed_dictionaries(
    {
        "kernel": st.sampled_from([1, 2, 3, (3, 1), 5]),
        "padding": st.sampled_from([0, 1, 2]),
        "stride": st.sampled_from([1, 1, 1, 2]),
        "dilation": st.sampled_from([1, 1, 2]),
        "groups": st.sampled_from([1, 1, 2, WIDTH]),
        "bias": st.booleans(),
    }
)
steps = st.one_of(
    st.tuples(st.just("conv"), convolutions),
    st.tuples(
        st.sampled_from(
            ["bn", "pool", "padded pool", "dropout", "basic", "in-place", "strided", "bottleneck", "pad"]
        ),
        st.none(),
    ),
)
regions = st.lists(steps, min_size=1, max_size=5)

# what collapsing must leave as it is, or can't pad once
odd_convolutions = st.fixed_dictionaries(
    {
        "kernel": st.sampled_from([1, 2, 3, (2, 3)]),
        "padding": st.sampled_from(["same", "same", "valid", 0, 1]),
        "padding_mode": st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
        "dilation": st.sampled_from([1, 1, 2]),
        "groups": st.sampled_from([1, 2]),
        "bias": st.booleans(),
    }
)
odd_steps = st.one_of(
    steps,
    st.tuples(st.sampled_from(["conv", "hooked", "function"]), odd_convolutions),
    st.tuples(st.sampled_from(["pool function", "bn function", "hooked identity"]), st.none()),
)
odd_regions = st.lists(odd_steps, min_size=1, max_size=5)


def conv3(stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, stride=stride, padding=1, bias=False)


def conv1(stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 1, stride=stride, bias=False)


def layer_of(kind: str, options: dict[str, Any] | None) -> nn.Module:
    if kind == "conv":
        assert options is not None
        return nn.Conv2d(WIDTH, WIDTH, options["kernel"], **{k: v for k, v in options.items() if k != "kernel"})
    if kind == "hooked":
        return hooked(layer_of("conv", options))
    if kind == "function":
        return Function(layer_of("conv", options))
    return {
        "pool function": lambda: Function(nn.Identity()),
        "bn function": lambda: Function(nn.BatchNorm2d(WIDTH)),
        "hooked identity": lambda: hooked(nn.Identity()),
        "bn": lambda: nn.BatchNorm2d(WIDTH),
        "pool": lambda: nn.AvgPool2d(2),
        "padded pool": lambda: nn.AvgPool2d(3, stride=1, padding=1),
        "dropout": nn.Dropout,
        "basic": lambda: Residual(
            nn.Sequential(conv3(), nn.BatchNorm2d(WIDTH), conv3(), nn.BatchNorm2d(WIDTH)), nn.Identity()
        ),
        "in-place": lambda: Residual(nn.Sequential(conv3(), nn.BatchNorm2d(WIDTH)), nn.Identity(), overwrites=True),
        "strided": lambda: Residual(
            nn.Sequential(conv3(2), nn.BatchNorm2d(WIDTH), conv3()), nn.Sequential(conv1(2), nn.BatchNorm2d(WIDTH))
        ),
        "bottleneck": lambda: Residual(nn.Sequential(conv1(), conv3(), conv1()), nn.Identity()),
        "pad": lambda: nn.ZeroPad2d((1, 0, 2, 1)),
    }[kind]()  # fmt: skip


def built(drawn: list[tuple[str, dict[str, Any] | None]], size: int) -> Network:
    """The network with random weights and statistics for images of `size`; raises where a feature map vanishes."""
    torch.manual_seed(0)
    layers = [layer_of(kind, options) for kind, options in drawn]
    return trace_network(randomised(Linear(layers, channels=WIDTH, made=WIDTH)), (3, size, size))


@torch.no_grad()
def randomised(module: nn.Module) -> nn.Module:
    """The module in evaluation mode with batch-norms that do something."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.5, 0.5)
    return module.eval()


def images(network: Network, count: int = 2) -> Tensor:
    return torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(1))


def logits(network: Network) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(network.as_module()).eval()(images(network))


drawing = settings(
    max_examples=int(os.environ.get("EXAMPLES", "25")), deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


Drawn = list[tuple[str, dict[str, Any] | None]]


def fewest_layers(layer: Layer) -> float:
    """Every layer is free, so that as few as possible are best."""
    return 0.0


def drawn_network(drawn: Drawn, size: int) -> Network:
    try:
        network = built(drawn, size)
    except ModelError:  # nothing is left of a feature map
        assume(False)
        raise
    assume(not network.starved_layers)
    return network


def error(a: Network, b: Network) -> float:
    return float((logits(a) - logits(b)).abs().max())


def padded(plan: ReductionPlan) -> ReductionPlan:
    return plan.merge(ReductionPlan(pad_once=True))


def resnet18(*, device: str = "cpu", width: int = 64) -> Network:
    spec = resolve_spec("resnet18", width=width)
    module = build_model(spec, device=device)
    return trace_network(module if device == "meta" else randomised(module), (3, 32, 32), spec=spec)


class Sequence(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), *layers, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


def sequence(*layers: nn.Module) -> Network:
    return trace_network(randomised(Sequence(*layers)), (3, 8, 8))


def only(network: Network, cost: Any = fewest_layers) -> Any:
    (report,) = collapse(network, cost=cost).regions
    return report


def linear_nodes(network: Network) -> list[str]:
    """What stands between the two ReLUs of a `sequence`, weights left out."""
    nodes = [node.name for node in network.module.graph.nodes if node.op != "get_attr"]
    places = [index for index, name in enumerate(nodes) if name in {site.node for site in network.sites}]
    return nodes[places[0] + 1 : places[1]]
