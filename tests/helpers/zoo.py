"""Tiny networks that know their own answers: `expected_relus` is arithmetic on the layers one can read below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.network import Network, trace_network

CLASSES = 3


def conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


class Classified(nn.Module):
    """Features (batch, channels, H, W) -> logits (batch, CLASSES)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))


class SharedModule(Classified):
    """One nn.ReLU called twice: two sites."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv1, self.conv2, self.relu = conv(3, 4), conv(4, 4), nn.ReLU()

    def features(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(x))))


class Functional(Classified):
    def __init__(self) -> None:
        super().__init__(4)
        self.conv1, self.conv2, self.conv3 = conv(3, 4), conv(4, 4), conv(4, 4)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        return torch.clamp(self.conv3(x), min=0)


class Method(Classified):
    def __init__(self) -> None:
        super().__init__(4)
        self.conv1, self.conv2 = conv(3, 4), conv(4, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu()).clamp_min(0)


class InPlace(Classified):
    """Every way to overwrite, and none of the results is used by its name."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv1, self.conv2, self.conv3, self.conv4 = conv(3, 4), conv(4, 4), conv(4, 4), conv(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        F.relu_(x)
        x = self.conv2(x)
        x.relu_()
        x = self.conv3(x)
        self.relu(x)
        return F.relu(self.conv4(x), inplace=True)


class InPlaceShared(Classified):
    """The tensor that an in-place ReLU overwrites is also read before it, after it, and through a view."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv1, self.conv2, self.conv3 = conv(3, 4), conv(4, 4), conv(4, 4)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        before = self.conv2(x)
        half = x[:, :2]
        activated = F.relu_(x)
        after = self.conv3(activated) + x
        return torch.cat([half, half], dim=1) + before + after


class Overwriting(Classified):
    """What follows an ordinary ReLU overwrites its output, and its input is used again."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv1, self.conv2 = conv(3, 4), conv(4, 4)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        activated = F.relu(x)
        activated += 1.0
        again = F.relu(x)
        again.mul_(2.0)
        last = F.relu(x)
        F.relu_(last)
        return self.conv2(activated) + again + last + x


class Capped(Classified):
    def __init__(self) -> None:
        super().__init__(4)
        self.conv1, self.conv2, self.relu = conv(3, 4), conv(4, 4), nn.ReLU6()

    def features(self, x: Tensor) -> Tensor:
        return F.relu6(self.conv2(self.relu(self.conv1(x))))


class Basic(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(in_channels, channels, stride=stride), conv(channels, channels)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(in_channels, channels // 2, 1), conv(channels // 2, channels // 2)
        self.conv3 = nn.Conv2d(channels // 2, channels, 1)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride)
        self.pool = nn.AvgPool2d(stride)
        self.relu = nn.ReLU(inplace=True)  # one module for all three, as in torchvision

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.conv1(self.pool(x)))
        out = self.relu(self.conv2(out))
        out = self.conv3(out)
        out += self.shortcut(x)
        return self.relu(out)


class Inverted(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        hidden = 2 * in_channels
        self.pool = nn.AvgPool2d(stride)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, channels, 1),
        )
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return x + self.layers(x) if self.is_residual else self.layers(x)


class PreActivation(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.pool = nn.AvgPool2d(stride)
        self.conv1, self.conv2 = conv(in_channels, channels), conv(channels, channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return self.conv2(self.relu2(self.conv1(self.relu1(x)))) + self.shortcut(x)


class Blocks(Classified):
    """A stem with a ReLU, then two blocks at each of two resolutions."""

    def __init__(self, block: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__(8)
        self.stem, self.relu = conv(3, 4), nn.ReLU()
        self.blocks = nn.Sequential(block(4, 4, 1), block(4, 4, 1), block(4, 8, 2), block(8, 8, 1))

    def features(self, x: Tensor) -> Tensor:
        return self.blocks(self.relu(self.stem(x)))


class Chain(Classified):
    """Five ReLUs at full resolution, two at half."""

    def __init__(self) -> None:
        super().__init__(8)
        layers: list[nn.Module] = [conv(3, 4), nn.ReLU()]
        for _ in range(4):
            layers += [conv(4, 4), nn.ReLU()]
        layers += [conv(4, 8, stride=2), nn.ReLU(), conv(8, 8), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def features(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Strided(Classified):
    """Resolution 8, 3, 2: a stride that does not divide, and one stage per ReLU."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv1, self.conv2, self.conv3 = conv(3, 4), conv(4, 4, stride=3), conv(4, 4, stride=2)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))


class NoRelu(Classified):
    def __init__(self) -> None:
        super().__init__(4)
        self.conv = conv(3, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Others(Classified):
    """One of each non-linearity that is no ReLU, and a ReLU that does."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv = conv(3, 4)
        self.layers = nn.Sequential(
            nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(), nn.PReLU(), nn.Softmax(dim=1), nn.MaxPool2d(2),
            nn.Sigmoid(), nn.Tanh(), nn.SELU(), nn.Mish(), nn.Hardsigmoid(), nn.Softplus(), nn.GroupNorm(2, 4),
            nn.Threshold(0.5, 0.0), nn.Hardtanh(),
        )  # fmt: skip

    def features(self, x: Tensor) -> Tensor:
        return F.relu(torch.atan(self.layers(self.conv(x))))


class Untraceable(Classified):
    """Its graph depends on its data."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv = conv(3, 4)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.mean() > 0:
            x = F.relu(x)
        return x


@torch.fx.wrap
def shifted_relu(x: Tensor) -> Tensor:
    return F.relu(x) + 1.0


class Wrapped(Classified):
    """A ReLU inside a function that tracing does not follow: it can't be taken out alone."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv = conv(3, 4)

    def features(self, x: Tensor) -> Tensor:
        return shifted_relu(F.relu(self.conv(x)))


class OwnDevice(Classified):
    """Makes a tensor on a device of its own choice, so it does not run on the meta device."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conv, self.bn = conv(3, 4), nn.BatchNorm2d(4)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)) + torch.arange(8.0, device="cpu"))


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A network, its image, and what analysis must find. `stages` are ReLUs per stage."""

    build: Callable[[], nn.Module]
    stages: Mapping[str, int]
    input_shape: tuple[int, int, int] = (3, 8, 8)
    unsupported: Mapping[str, int] = field(default_factory=dict)

    @property
    def expected_relus(self) -> int:
        return sum(self.stages.values())

    def network(self) -> Network:
        torch.manual_seed(0)
        return trace_network(self.build(), self.input_shape)


FULL, HALF = 8 * 8, 4 * 4  # positions of a feature map

TOYS: dict[str, Toy] = {
    "shared module": Toy(build=SharedModule, stages={"S1": 2 * 4 * FULL}),
    "functional": Toy(build=Functional, stages={"S1": 3 * 4 * FULL}),
    "method": Toy(build=Method, stages={"S1": 2 * 4 * FULL}),
    "in-place": Toy(build=InPlace, stages={"S1": 4 * 4 * FULL}),
    "in-place, shared": Toy(build=InPlaceShared, stages={"S1": 4 * FULL}),
    "overwriting": Toy(build=Overwriting, stages={"S1": 4 * 4 * FULL}),
    "capped": Toy(build=Capped, stages={"S1": 2 * 4 * FULL}),
    # stem, two blocks; two blocks
    "basic": Toy(build=lambda: Blocks(Basic), stages={"S1": (1 + 2 * 2) * 4 * FULL, "S2": 2 * 2 * 8 * HALF}),
    "bottleneck": Toy(
        build=lambda: Blocks(Bottleneck),
        stages={"S1": (4 + 2 * (2 + 2 + 4)) * FULL, "S2": 2 * (4 + 4 + 8) * HALF},
    ),
    # the hidden layer is twice as wide as the block's input
    "inverted": Toy(
        build=lambda: Blocks(Inverted),
        stages={"S1": (4 + 2 * 2 * 8) * FULL, "S2": (2 * 8 + 2 * 16) * HALF},
    ),
    "pre-activation": Toy(
        build=lambda: Blocks(PreActivation),
        stages={"S1": (1 + 2 * 2) * 4 * FULL, "S2": (4 + 8 + 8 + 8) * HALF},
    ),
    "chain": Toy(build=Chain, stages={"S1": 5 * 4 * FULL, "S2": 2 * 8 * HALF}),
    "strided": Toy(build=Strided, stages={"S1": 4 * 8 * 8, "S2": 4 * 3 * 3, "S3": 4 * 2 * 2}),
    "no ReLU": Toy(build=NoRelu, stages={}),
    "others": Toy(
        build=Others,
        stages={"S1": 4 * HALF},
        unsupported=dict.fromkeys(
            (
                "gelu", "silu", "hardswish", "leaky_relu", "prelu", "softmax", "max_pool", "sigmoid", "tanh", "elu",
                "mish", "hardsigmoid", "softplus", "group_norm", "threshold", "hardtanh", "atan",
            ),
            1,
        ),
    ),
    "wrapped": Toy(
        build=Wrapped, stages={"S1": 4 * FULL}, unsupported={"relu inside shifted_relu": 1}
    ),
    "own device": Toy(build=OwnDevice, stages={"S1": 4 * FULL}),
}  # fmt: skip

REDUCIBLE = [name for name, toy in TOYS.items() if toy.stages]


class RandomNet(Classified):
    """A chain of `layers`, each (kind, channels, stride), drawn by hypothesis; residual where shapes allow it."""

    def __init__(self, layers: list[tuple[str, int, int]]) -> None:
        super().__init__(layers[-1][1])
        self.kinds = [kind for kind, _, _ in layers]
        self.relu = nn.ReLU()
        in_channels = 3
        for index, (_, channels, stride) in enumerate(layers):
            self.add_module(f"conv{index}", conv(in_channels, channels, stride=stride))
            in_channels = channels

    def features(self, x: Tensor) -> Tensor:
        for index, kind in enumerate(self.kinds):
            out = self.get_submodule(f"conv{index}")(x)
            if kind == "module":
                x = self.relu(out)
            elif kind == "function":
                x = F.relu(out)
            elif kind == "in-place":
                x = out.relu_()
            elif kind == "capped":
                x = F.relu6(out)
            elif kind == "residual":
                x = F.relu(out) + out
            elif kind == "accumulated":
                x = F.relu(out)
                x += out
            else:
                x = out
        return x


STEPS = ("conv", "functional", "residual", "cat", "shared", "depthwise", "grouped", "chunk", "gate", "strided",
         "skip", "normed", "pooled", "linear")  # fmt: skip
"""What `RandomGraph` is made of; "shuffle" may be added, behind which channels are followed by position only."""


class RandomGraph(nn.Module):
    """A network of `steps` from STEPS, drawn by hypothesis: chains, residuals, concatenations, shared modules.

    A step that does not fit what came before is a plain convolution. The head flattens by a size in figures
    where `flat`, else pools.
    """

    def __init__(self, steps: list[tuple[str, int]], *, flat: bool = False, image: tuple[int, int, int] = (3, 8, 8)):
        super().__init__()
        self.steps, self.layers, self.relu, self.flat = [], nn.ModuleList(), nn.ReLU(), None
        channels, size, earlier = image[0], image[1], image[:2]
        self.far: list[bool] = []  # where a skip reaches back over several steps
        for kind, width in steps:
            if kind in ("grouped", "chunk", "shuffle") and channels % 2:
                kind = "conv"
            if kind in ("strided", "pooled") and size < 4:
                kind = "conv"
            self.steps.append(kind)
            self.layers.append(self._layer(kind, channels, width))
            size = (size + 1) // 2 if kind == "strided" else size // 2 if kind == "pooled" else size
            channels = {
                "conv": width, "functional": width, "cat": channels + width, "strided": width, "normed": width,
                "linear": width, "chunk": channels // 2 + width,
            }.get(kind, channels)  # fmt: skip
            self.far.append(kind == "skip" and earlier == (channels, size))
            earlier = (channels, size) if kind in ("normed", "strided") else earlier
        if flat:
            self.flat = channels * size * size
        self.fc = nn.Linear(self.flat or channels, CLASSES)

    @staticmethod
    def _layer(kind: str, channels: int, width: int) -> nn.Module:
        if kind in ("residual", "shared", "skip"):
            return conv(channels, channels)
        if kind in ("depthwise", "grouped"):
            groups = channels if kind == "depthwise" else 2
            return nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        if kind == "chunk":
            return conv(channels // 2, width)
        if kind == "gate":
            return nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, channels, 1))
        if kind == "normed":
            return nn.Sequential(conv(channels, width), nn.BatchNorm2d(width), nn.Dropout(0.1))
        if kind in ("shuffle", "pooled"):
            return nn.AvgPool2d(2) if kind == "pooled" else nn.Identity()
        if kind == "linear":
            return nn.Conv2d(channels, width, 1)
        return conv(channels, width, stride=2 if kind == "strided" else 1)

    def forward(self, x: Tensor) -> Tensor:
        earlier = x
        for kind, layer, far in zip(self.steps, self.layers, self.far, strict=True):
            x = self._step(kind, layer, x)
            if far:
                x = x + earlier
            if kind in ("normed", "strided"):
                earlier = x
        x = x.reshape(-1, self.flat) if self.flat else x.mean(dim=(2, 3))
        return self.fc(x)

    def _step(self, kind: str, layer: nn.Module, x: Tensor) -> Tensor:
        if kind in ("linear", "pooled"):
            return layer(x)
        if kind == "functional":
            return F.relu(layer(x), inplace=True)
        if kind == "residual":
            return x + self.relu(layer(x))
        if kind == "cat":
            return torch.cat([x, self.relu(layer(x))], dim=1)
        if kind == "shared":
            return self.relu(layer(self.relu(layer(x))))
        if kind == "chunk":
            first, second = x.chunk(2, dim=1)
            return torch.cat([F.relu(layer(second)), first], dim=1)
        if kind == "gate":
            return x * layer(x.mean(dim=(2, 3), keepdim=True))
        if kind == "skip":
            out = layer(x)
            out += x
            return self.relu(out)
        if kind == "shuffle":
            return F.relu(x.view(x.size(0), 2, x.size(1) // 2, x.size(2), x.size(3)).transpose(1, 2).flatten(1, 2))
        return self.relu(layer(x))


class OfModules(nn.Module):
    """Each kind of layer that has a function of the same meaning, as a module: convolutions, norm, pools, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, (3, 1), stride=2, padding=(1, 0), dilation=(2, 1), groups=2)
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU6()
        self.max_pool, self.avg_pool = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1)
        self.padded_pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.last_pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.max_pool(self.relu1(self.bn(self.conv1(x))))
        x = self.conv3(self.avg_pool(self.conv2(x)))
        x = self.relu2(self.padded_pool(x))
        return self.fc(self.last_pool(x).flatten(1))


class OfFunctions(OfModules):
    """The same, as functions."""

    def forward(self, x: Tensor) -> Tensor:
        x, bn, conv = F.conv2d(x, self.conv1.weight, padding=1), self.bn, self.conv2
        x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        x = F.max_pool2d(F.relu(x), 3, 2, 1)
        x = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=(1, 0), dilation=(2, 1), groups=2)
        x = torch.conv2d(F.avg_pool2d(x, 2, stride=1), self.conv3.weight, self.conv3.bias)
        x = F.relu6(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        return F.linear(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1), self.fc.weight, self.fc.bias)


class TwoConvolutions(nn.Module):
    """Conv, ReLU, max-pool, twice: pooling by modules, or by the functions that most tutorials use."""

    def __init__(self, *, functions: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = conv(3, 8), conv(8, 8), nn.Linear(8 * 4 * 4, CLASSES)
        self.relu1, self.relu2, self.pool1, self.pool2 = nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        if self.functions:
            x = F.max_pool2d(F.relu(self.conv1(x)), 2)
            return self.fc(torch.max_pool2d(self.conv2(x).relu(), 2).flatten(1))
        x = self.pool1(self.relu1(self.conv1(x)))
        return self.fc(self.pool2(self.relu2(self.conv2(x))).flatten(1))


WRITTEN: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "every kind": (OfModules, OfFunctions),
    "two convolutions": (lambda: TwoConvolutions(functions=False), lambda: TwoConvolutions(functions=True)),
}
"""Networks for images of (3, 16, 16), each made of modules and of functions."""


class OptionA(Classified):
    """A ResNet of CIFAR's: shortcuts that leave out every second row and column and pad channels with zeros."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.down, self.conv, self.last = conv(3, 4), conv(4, 8, stride=2), conv(8, 8), conv(4, 8)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.conv(F.relu(self.down(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return F.relu(self.last(x[:, 1::2]))
