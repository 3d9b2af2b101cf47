"""Networks with every operation that can be lowered, for the lowering and for the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import Network, trace_network
from tests.helpers.zoo import TOYS

SUPPORTED = [name for name in TOYS if name not in ("others",)]


class MaskedPolynomials(nn.Module):
    """A network whose sites are a ReLU for some pixels, a polynomial, and a ReLU for some channels."""

    channels: Tensor
    pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(4))
        self.register_buffer("channels", torch.tensor([0, 2]))
        self.register_buffer("pixels", torch.arange(4 * 8 * 8).reshape(4, 8, 8) % 3 == 0)
        self.coefficients = nn.Parameter(torch.randn(3, 4, 1, 1))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs[0](x)
        x = torch.where(self.pixels, F.relu(x), x)
        x = self.convs[1](x)
        a, b, c = self.coefficients[0], self.coefficients[1], self.coefficients[2]
        x = a * x.pow(2) + b * x + c
        x = self.convs[2](x)
        x = torch.cat([F.relu(x[:, self.channels]), x], dim=1)
        return self.fc(x.mean(dim=(2, 3)))


class Between(nn.Module):
    """A convolution to feature maps (4, 6, 6), `call` with them and with the tensors below, a classifier."""

    def __init__(self, call: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.fc, self.call = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LazyLinear(3), call
        self.matrix, self.bias = nn.Parameter(torch.randn(144, 5)), nn.Parameter(torch.randn(5))
        self.alpha, self.scale = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.tensor(0.5))
        self.register_buffer("beta", torch.randn(4, 1, 1))
        self.register_buffer("four", torch.randn(2, 2, 6, 6))
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("wide", torch.rand(2, 2, 6, 6) > 0.5)
        self.register_buffer("places", torch.tensor([-1, 0, 2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.call(self.conv(x), self).flatten(1))


def between(call: Callable[[Tensor, Any], Tensor]) -> Network:
    """Return a network that computes `call` between two layers."""
    module = Between(call).eval()
    with torch.no_grad():
        module(torch.zeros(1, 3, 8, 8))
    return trace_network(module, (3, 8, 8))


def five(x: Tensor) -> Tensor:
    """Return feature maps as (batch, 2, 2, 6, 6)."""
    return x.view(-1, 2, 2, 6, 6)


ACTIVATIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "leaky_relu": lambda x, net: F.leaky_relu(x, 0.2),
    "prelu": lambda x, net: F.prelu(x, net.scale.reshape(1)) + F.prelu(x, net.alpha.reshape(4)),
    "hardsigmoid": lambda x, net: F.hardsigmoid(2 * x),
    "hardswish": lambda x, net: F.hardswish(2 * x),
    "softshrink": lambda x, net: F.softshrink(x, 0.3),
    "abs": lambda x, net: x.abs(),
    "maximum": lambda x, net: torch.maximum(x, 0.5 - x) + torch.minimum(x, net.alpha),
    "amax": lambda x, net: x.amax((2, 3)) + x.amax(1).flatten(1).amax(1, True),
    "adaptive max": lambda x, net: F.adaptive_max_pool2d(x, (4, 1)),
    "sigmoid": lambda x, net: torch.sigmoid(x),
    "silu": lambda x, net: F.silu(x),
    "tanh": lambda x, net: x.tanh(),
    "gelu": lambda x, net: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "elu": lambda x, net: F.elu(x) + F.selu(x) + F.celu(x, 0.5),
    "glu": lambda x, net: F.glu(x, 1),
    "softmax": lambda x, net: x.softmax(1) + F.softmax(x, -1) + F.softmin(x.flatten(1), 1).view(-1, 4, 6, 6),
}
"""Activations on feature maps (4, 6, 6), exact and approximated by the engine."""

MOVES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "nearest": lambda x, net: F.interpolate(x, scale_factor=2),
    "nearest, other sizes": lambda x, net: F.interpolate(x, size=(9, 4)),
    "nearest-exact": lambda x, net: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
    "bilinear": lambda x, net: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, aligned": lambda x, net: F.interpolate(x, size=(11, 7), mode="bilinear", align_corners=True),
    "bilinear, smaller": lambda x, net: F.interpolate(x, size=(3, 5), mode="bilinear", antialias=True),
    "bilinear, its factor kept": lambda x, net: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "bicubic": lambda x, net: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "pixel_shuffle": lambda x, net: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x, net: F.pixel_unshuffle(x, 3),
    "channel_shuffle": lambda x, net: F.channel_shuffle(x, 2),
    "flip": lambda x, net: x.flip(1, 3),
    "roll": lambda x, net: torch.roll(x, (1, -2), (1, 3)),
    "stack": lambda x, net: torch.stack([x, 2 * x], 2) + torch.stack([x, x + 1], -1).movedim(-1, 2),
    "repeat": lambda x, net: x.repeat(1, 2, 1, 3),
    "repeat, new dimension": lambda x, net: x.repeat(2, 1, 1, 1, 1).movedim(0, 1),
    "repeat_interleave": lambda x, net: x.repeat_interleave(2, dim=2),
    "reflect": lambda x, net: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "replicate": lambda x, net: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "circular": lambda x, net: F.pad(x, (1, 2, 3, 0), mode="circular") + F.pad(x, (2, 1, 0, 3), mode="circular"),
    "chunks": lambda x, net: torch.cat(x.chunk(2, 1)[::-1], 1) - torch.stack(x.unbind(1)[::-1], 1),
    "reversed channels": lambda x, net: x[:, [3, 2, 1, 0, 0, 2]],
}
"""Operations that move or mix positions of feature maps (4, 6, 6)."""

BETWEEN: list[Callable[[Tensor, Any], Tensor]] = [
    lambda x, net: five(x) * net.four,
    lambda x, net: net.four - five(x),
    lambda x, net: five(x) + five(x).sum(1, keepdim=True),
    lambda x, net: five(x).sum(2, keepdim=True),
    lambda x, net: five(x).mean((1, 4)),
    lambda x, net: torch.where(net.wide, F.relu(five(x)), five(x)),
    lambda x, net: torch.addmm(net.bias, x.flatten(1), net.matrix, beta=0.5, alpha=2),
    lambda x, net: torch.addmm(net.bias[None], x.flatten(1), net.matrix),
    lambda x, net: x.double().float(),
    lambda x, net: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(-1),
    lambda x, net: x.mean((2, 3), keepdim=True).squeeze((2, 3)),
    lambda x, net: x[:, net.mask],
    lambda x, net: x[:, net.places],
    lambda x, net: x[:, [3, 1]],
    lambda x, net: x / net.beta,
    lambda x, net: x[:, 1::2, ::3, 1:-1],
    lambda x, net: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
    lambda x, net: net.bn(net.bn(x).clone()),
    lambda x, net: x * (net.alpha > 0).float(),
    lambda x, net: (x + 0).copy_(F.relu(x)),
]

MIXING: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "a roll of all values": lambda x, net: torch.roll(x, 5),
    "a broadcast over images": lambda x, net: five(x) + five(x).sum(1),
    "a mean over images": lambda x, net: x - x.mean(0),
}
"""Operations that compute for one image what they do not compute for each of several."""
