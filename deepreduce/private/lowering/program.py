"""A network as the parties compute it: layers of tensor operations, without weights. This much is public."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("convolution", "linear", "relu", "relu6", "clamp", "max_pool", "avg_pool", "product", "scale", "add", "move")
"""What a layer is to the protocol.

`product` multiplies activations with each other (polynomials, gates), `scale` with the server's numbers (a batch-norm
that follows no convolution); `add` sums or scales by public numbers; `move` puts values elsewhere. The first that
an operation of the layer belongs to counts.
"""

COSTLY_KINDS = frozenset(KINDS) - {"add", "move"}
"""Those that multiply or compare, and so make the parties talk."""

REVEAL, REVEALED = "reveal", "logits"
"""Kind and name of the last message of a query, by which the client learns the logits."""


class UnsupportedError(Exception):
    """A way to use an operation that is not expressed; the text continues "LAYER ..."."""


@dataclass(frozen=True)
class Ref:
    """The name of a value: an activation, a weight of the server's, or a public mask."""

    name: str


Argument = Ref | int | float | bool | str | None | tuple["Argument", ...]


@dataclass(frozen=True, kw_only=True)
class Op:
    """One tensor operation, named and with arguments as in ATen. `shape` is its output's as PyTorch has it."""

    name: str
    args: tuple[Argument, ...]
    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Operations that run together. `inputs` are activations of earlier layers, `weights` the server's."""

    name: str
    kind: str
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """The layers from `image` to `logits`, in order. `shapes` holds each activation's and weight's, as stored.

    Activations of four dimensions are stored as (batch, height, width, channels), weights of convolutions as
    (height, width, input channels, output channels).
    """

    network: str
    image: str
    logits: str
    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the server's inputs."""
        return tuple(dict.fromkeys(name for layer in self.layers for name in layer.weights))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "network": self.network,
            "image": self.image,
            "logits": self.logits,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "ops": [
                        {"name": op.name, "args": _plain(op.args), "output": op.output, "shape": list(op.shape)}
                        for op in layer.ops
                    ],
                    "inputs": list(layer.inputs),
                    "weights": list(layer.weights),
                    "outputs": list(layer.outputs),
                }
                for layer in self.layers
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Program:
        """The program that `to_json` described."""
        return cls(
            network=value["network"],
            image=value["image"],
            logits=value["logits"],
            shapes={name: tuple(shape) for name, shape in value["shapes"].items()},
            layers=tuple(_layer(layer) for layer in value["layers"]),
        )


def _layer(value: Mapping[str, Any]) -> Layer:
    return Layer(
        name=value["name"],
        kind=value["kind"],
        ops=tuple(
            Op(name=op["name"], args=_arguments(op["args"]), output=op["output"], shape=tuple(op["shape"]))
            for op in value["ops"]
        ),
        inputs=tuple(value["inputs"]),
        weights=tuple(value["weights"]),
        outputs=tuple(value["outputs"]),
    )


def _plain(argument: Argument) -> Any:
    if isinstance(argument, Ref):
        return {"ref": argument.name}
    return [_plain(item) for item in argument] if isinstance(argument, tuple) else argument


def _arguments(values: list[Any]) -> tuple[Argument, ...]:
    return tuple(_argument(value) for value in values)


def _argument(value: Any) -> Argument:
    if isinstance(value, dict):
        return Ref(value["ref"])
    return _arguments(value) if isinstance(value, list) else value


def refs(argument: Argument) -> list[str]:
    """Names of the values that an argument refers to."""
    if isinstance(argument, Ref):
        return [argument.name]
    return [name for item in argument for name in refs(item)] if isinstance(argument, tuple) else []
