"""Describe a network as the parties compute it: layers of tensor operations without weights. A program is public."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

REVEALED = "logits"
"""Name of the last step of a query, in which the client learns the logits."""


class UnsupportedError(Exception):
    """Raised for an operation or argument that can't be lowered; its text continues the layer's name."""


@dataclass(frozen=True)
class Ref:
    """A reference by name to an activation, one of the server's weights, or a public mask."""

    name: str


Argument = Ref | int | float | bool | str | None | tuple["Argument", ...]


@dataclass(frozen=True, kw_only=True)
class Op:
    """One tensor operation, with ATen's name and arguments; `shape` is that of its output in PyTorch."""

    name: str
    args: tuple[Argument, ...]
    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ProgramLayer:
    """Operations that run together. `inputs` are activations of earlier layers, `weights` the server's inputs."""

    name: str
    kind: str
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """The layers from `image` to `logits`, in order, and the `shapes` of activations and weights as stored.

    Activations of four dimensions are stored as (batch, height, width, channels), weights of convolutions as
    (height, width, input channels, output channels).
    """

    network: str
    image: str
    logits: str
    layers: tuple[ProgramLayer, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def batch(self) -> int:
        """Return the number of images of a query."""
        return self.shapes[self.image][0]

    @property
    def weights(self) -> tuple[str, ...]:
        """Return the names of the server's inputs."""
        return tuple(dict.fromkeys(name for layer in self.layers for name in layer.weights))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Program:
        """Return the program that `to_json` described."""
        return cls(
            network=value["network"],
            image=value["image"],
            logits=value["logits"],
            shapes={name: _read_shape(shape) for name, shape in value["shapes"].items()},
            layers=tuple(_read_layer(layer) for layer in value["layers"]),
        )


def _read_layer(value: Mapping[str, Any]) -> ProgramLayer:
    return ProgramLayer(
        name=value["name"],
        kind=value["kind"],
        ops=tuple(
            Op(name=op["name"], args=_read_arguments(op["args"]), output=op["output"], shape=_read_shape(op["shape"]))
            for op in value["ops"]
        ),
        inputs=tuple(value["inputs"]),
        weights=tuple(value["weights"]),
        outputs=tuple(value["outputs"]),
    )


def _read_shape(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in values)


def _read_arguments(values: Sequence[Any]) -> tuple[Argument, ...]:
    return tuple(_read_argument(value) for value in values)


def _read_argument(value: Any) -> Argument:
    if isinstance(value, dict):
        return Ref(**value)
    return _read_arguments(value) if isinstance(value, (list, tuple)) else value


def refs(argument: Argument) -> list[str]:
    """Return the names of the values that an argument refers to."""
    if isinstance(argument, Ref):
        return [argument.name]
    return [name for item in argument for name in refs(item)] if isinstance(argument, tuple) else []
