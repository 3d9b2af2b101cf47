"""The networks of the private-inference literature, with named stages.

Every network has the modules `stem`, `stage1`, `stage2`, ... and `head`. The ReLUs of `stageK` are stage SK; the
stem's ReLUs belong to S1, the head's to the last stage. ResNets have the 3x3 stem without max-pool that the
literature uses on small images, so ResNet-18 has 557,056 ReLUs at 32x32 (SNL's count of 491,520 leaves out the
stem's). In all networks, residual shortcuts that change shape are 1x1 convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


def _conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def _conv1x1(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


class Stem(nn.Module):
    """A 3x3 convolution, batch-norm and ReLU at the input's resolution."""

    def __init__(self, in_channels: int, out_channels: int, relu: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv = _conv3x3(in_channels, out_channels)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class Head(nn.Module):
    """A global average pool and a linear classifier."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(x)))  # type: ignore[no-any-return]


class StagedNetwork(nn.Module):
    """A stem, stages in sequence and a head."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"stage{number}", stage)
        self.head = head
        self._num_stages = len(stages)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number in range(1, self._num_stages + 1):
            x = self.get_submodule(f"stage{number}")(x)
        return self.head(x)  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions; `relu2` comes after the residual addition."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(_conv1x1(in_channels, channels, stride=stride), nn.BatchNorm2d(channels))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))  # type: ignore[no-any-return]


class PreActivationBlock(nn.Module):
    """Wide ResNet's block: batch-norm and ReLU come before each convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = _conv3x3(in_channels, channels, stride=stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = _conv3x3(channels, channels)
        self.shortcut = (
            _conv1x1(in_channels, channels, stride=stride) if stride != 1 or in_channels != channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        # the shortcut is the input itself, or a projection of the activated input if the shape changes
        return out + (x if self.shortcut is None else self.shortcut(activated))  # type: ignore[no-any-return]


class PreActivationHead(Head):
    """A pre-activation network's last batch-norm and ReLU, then pool and classifier."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.relu(self.bn(x)))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, 3x3 depthwise, linear 1x1 projection."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion != 1:
            self.expand = nn.Sequential(_conv1x1(in_channels, hidden), nn.BatchNorm2d(hidden), nn.ReLU6())
        self.depthwise = nn.Sequential(
            _conv3x3(hidden, hidden, stride=stride, groups=hidden), nn.BatchNorm2d(hidden), nn.ReLU6()
        )
        self.project = nn.Sequential(_conv1x1(hidden, channels), nn.BatchNorm2d(channels))
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.is_residual else out  # type: ignore[no-any-return]


class MobileHead(Head):
    """MobileNetV2's last 1x1 convolution, then pool and classifier."""

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes)
        self.conv = nn.Sequential(_conv1x1(in_channels, channels), nn.BatchNorm2d(channels), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A zoo builder's arguments: channels of the stem, blocks per stage, input channels, classes."""

    width: int
    blocks: tuple[int, ...]
    in_channels: int
    num_classes: int


def _residual_stage(
    block: Callable[[int, int, int], nn.Module], in_channels: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(blocks - 1)))


def _resnet(layout: Layout) -> nn.Module:
    stages, channels = [], layout.width
    for index, blocks in enumerate(layout.blocks):
        out_channels = layout.width * 2**index
        stages.append(_residual_stage(BasicBlock, channels, out_channels, blocks, 1 if index == 0 else 2))
        channels = out_channels
    return StagedNetwork(Stem(layout.in_channels, layout.width), stages, Head(channels, layout.num_classes))


WIDENING = 8
"""Widening factor of WRN-22-8, whose stages are 8, 16 and 32 times as wide as the stem."""


def _wide_resnet(layout: Layout) -> nn.Module:
    stages, channels = [], layout.width
    for index, blocks in enumerate(layout.blocks):
        out_channels = layout.width * WIDENING * 2**index
        stages.append(_residual_stage(PreActivationBlock, channels, out_channels, blocks, 1 if index == 0 else 2))
        channels = out_channels
    stem = _conv3x3(layout.in_channels, layout.width)  # the first block has the stem's ReLU
    return StagedNetwork(stem, stages, PreActivationHead(channels, layout.num_classes))


VGG_MULTIPLIERS = (1, 2, 4, 8, 8)


def _vgg(layout: Layout) -> nn.Module:
    stages, channels = [], layout.in_channels
    for blocks, multiplier in zip(layout.blocks, VGG_MULTIPLIERS, strict=True):
        out_channels = layout.width * multiplier
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers += [_conv3x3(channels, out_channels), nn.BatchNorm2d(out_channels), nn.ReLU()]
            channels = out_channels
        stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
    return StagedNetwork(nn.Identity(), stages, Head(channels, layout.num_classes))


MOBILE_GROUPS = (
    # stage, expansion, channels at width 32, stride of the first block; blocks per group come from the spec
    (1, 1, 16, 1),
    (1, 6, 24, 1),
    (2, 6, 32, 2),
    (3, 6, 64, 2),
    (3, 6, 96, 1),
    (4, 6, 160, 2),
    (4, 6, 320, 1),
)
"""Block groups of MobileNetV2 for small images: the first two strides are 1, so that 32x32 ends at 4x4."""


def _mobilenet_v2(layout: Layout) -> nn.Module:
    def scale(channels: int) -> int:
        return max(1, round(channels * layout.width / 32))

    stages: list[list[nn.Module]] = [[], [], [], []]
    channels = layout.width
    for (stage, expansion, base, stride), blocks in zip(MOBILE_GROUPS, layout.blocks, strict=True):
        group = []
        for index in range(blocks):
            group.append(InvertedResidual(channels, scale(base), stride if index == 0 else 1, expansion))
            channels = scale(base)
        # a container per group, so that a block has the same name in a network of fewer blocks
        stages[stage - 1].append(nn.Sequential(*group))
    return StagedNetwork(
        Stem(layout.in_channels, layout.width, nn.ReLU6),
        [nn.Sequential(*groups) for groups in stages],
        MobileHead(channels, scale(1280), layout.num_classes),
    )


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One network of the zoo: its builder and its published width and depth."""

    build: Callable[[Layout], nn.Module]
    width: int
    blocks: tuple[int, ...]
    num_stages: int
    description: str


ZOO: dict[str, ZooEntry] = {
    "resnet18": ZooEntry(
        build=_resnet, width=64, blocks=(2, 2, 2, 2), num_stages=4,
        description="ResNet-18, 3x3 stem, no max-pool (557,056 ReLUs at 32x32)",
    ),
    "resnet34": ZooEntry(
        build=_resnet, width=64, blocks=(3, 4, 6, 3), num_stages=4,
        description="ResNet-34, 3x3 stem, no max-pool",
    ),
    "resnet20": ZooEntry(
        build=_resnet, width=16, blocks=(3, 3, 3), num_stages=3, description="CIFAR ResNet-20, 16-32-64 channels"
    ),
    "resnet32": ZooEntry(
        build=_resnet, width=16, blocks=(5, 5, 5), num_stages=3, description="CIFAR ResNet-32, 16-32-64 channels"
    ),
    "resnet56": ZooEntry(
        build=_resnet, width=16, blocks=(9, 9, 9), num_stages=3, description="CIFAR ResNet-56, 16-32-64 channels"
    ),
    "wrn22_8": ZooEntry(
        build=_wide_resnet, width=16, blocks=(3, 3, 3), num_stages=3,
        description="Wide ResNet 22-8, pre-activation blocks",
    ),
    "vgg16_bn": ZooEntry(
        build=_vgg, width=64, blocks=(2, 2, 3, 3, 3), num_stages=5,
        description="VGG-16 with batch-norm and one linear layer (13 ReLU layers)",
    ),
    "mobilenet_v2": ZooEntry(
        build=_mobilenet_v2, width=32, blocks=(1, 2, 3, 4, 3, 3, 1), num_stages=4,
        description="MobileNetV2 with strides for small images, ReLU6",
    ),
}  # fmt: skip
