"""The operations that the engine approximates, and by how much."""

from __future__ import annotations

from collections.abc import Mapping

from deepreduce.private.lowering.program import Program

ERRORS: Mapping[str, str] = {
    "sigmoid": "0.0001",
    "silu": "0.0001 * max(|x|, 1)",
    "tanh": "0.0002",
    "gelu": "0.0003 * max(|x|, 1)",
    "elu": "0.0002 * max(|x|, 1)",
    "_softmax": "0.0003",
}
"""Operation -> the largest error, for inputs x of any size, of its measurements in docs/private.md, rounded up."""


def approximated(program: Program) -> dict[str, tuple[str, ...]]:
    """Return the layers that compute each approximated operation, by the operation's name."""
    found: dict[str, list[str]] = {}
    for layer in program.layers:
        for name in dict.fromkeys(op.name for op in layer.ops if op.name in ERRORS):
            found.setdefault(name, []).append(layer.name)
    return {name: tuple(layers) for name, layers in found.items()}


def describe(found: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return a line for each approximated operation: its layers and its largest error."""
    lines = []
    for name, layers in found.items():
        named = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
        lines.append(f"approximated by the engine: {name.lstrip('_')} in {named}, off by up to {ERRORS[name]}")
    return lines
