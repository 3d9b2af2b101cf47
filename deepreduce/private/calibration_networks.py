"""Build the small networks that `deepreduce private calibrate` fits to, and those that it judges the fit on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, collapse, cull_plan, thin_plan


def calibration_networks(*, seed: int = 0) -> list[Network]:
    """Return four networks with random weights from `seed`.

    Their convolutions cover feature maps of 4x4 to 32x32, kernels of 1x1 to 11x11, 3 to 256 channels, strides and
    groups. Each dimension of the matrix product (positions x window, window x filters) is the largest in some layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [
            trace_network(build().eval(), shape, name=name)
            for name, build, shape in (
                ("calibration: narrowing", _narrowing, (3, 32, 32)),
                ("calibration: kernels", _kernels, (3, 32, 32)),
                ("calibration: odd sizes", _odd_sizes, (3, 24, 24)),
                ("calibration: scales", _scales, (3, 16, 16)),
            )
        ]


def _conv(in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups)
    return nn.Sequential(convolution, nn.ReLU())


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _narrowing() -> nn.Module:
    """Build a network with fewer positions and more channels from stage to stage, as a ResNet has."""
    return nn.Sequential(
        _conv(3, 8), _conv(8, 16, 1), _conv(16, 16), _conv(16, 32, stride=2), _conv(32, 32), _conv(32, 64, 1),
        _conv(64, 32, stride=2), _conv(32, 64), _conv(64, 64), _conv(64, 128, stride=2), _conv(128, 128),
        _conv(128, 256, 1), *_head(256, 10),
    )  # fmt: skip


def _kernels() -> nn.Module:
    """Build a network with large kernels over few channels, as collapsed regions have, and with groups."""
    return nn.Sequential(
        _conv(3, 16, 11), nn.AvgPool2d(2), _conv(16, 16, 5), _conv(16, 16, groups=16), _conv(16, 48, 1),
        nn.MaxPool2d(2), _conv(48, 24, 7, stride=2), _conv(24, 96), _conv(96, 96, 1), *_head(96, 200),
    )  # fmt: skip


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.relu = _conv(channels, channels), nn.Conv2d(channels, channels, 1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x + self.conv2(self.conv1(x)))  # type: ignore[no-any-return]


def _odd_sizes() -> nn.Module:
    """Build a network with sizes that fill no ciphertext packing, and with residual additions."""
    return nn.Sequential(
        _conv(3, 20), _Residual(20), _conv(20, 40, stride=2), _Residual(40), _conv(40, 80, stride=2), _Residual(80),
        _conv(80, 160, stride=2), _conv(160, 40), *_head(40, 100),
    )  # fmt: skip


def _scales() -> nn.Module:
    """Build a network with batch-norms that can't be folded into a convolution, and with a ReLU6."""
    return nn.Sequential(
        _conv(3, 12), nn.BatchNorm2d(12), nn.ReLU(), _conv(12, 24, stride=2), nn.BatchNorm2d(24), nn.ReLU6(),
        _conv(24, 48, 1), nn.BatchNorm2d(48), nn.ReLU(), *_head(48, 10),
    )  # fmt: skip


def judging_networks(*, seed: int = 0) -> list[Network]:
    """Return six narrow networks of the zoo, full and reduced, on which a calibration is judged."""
    resnet18 = _zoo("resnet18", width=16, seed=seed)
    culled = cull_plan(resnet18, ["S1"])
    collapsed = collapse(apply_plan(resnet18, culled.merge(ReductionPlan(pad_once=True)))).network
    thinned = apply_plan(resnet18, cull_plan(resnet18, ["S1", "S4"]).merge(thin_plan(resnet18, stages=["S2", "S3"])))
    return [
        resnet18,
        replace(collapsed, name="resnet18, S1 culled and collapsed"),
        replace(collapse(thinned).network, name="resnet18, S1 and S4 culled, thinned"),
        _zoo("resnet20", width=16, seed=seed),
        _zoo("vgg16_bn", width=16, seed=seed),
        _zoo("resnet32", width=12, size=16, seed=seed),
    ]


def _zoo(name: str, *, width: int, seed: int, size: int = 32) -> Network:
    spec = resolve_spec(name, width=width)
    return trace_network(
        build_model(spec, seed=seed).eval(), (3, size, size), spec=spec, name=f"{name} of width {width}"
    )
