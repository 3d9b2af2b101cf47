"""Print how closely the engine computes activations: the largest error against PyTorch over inputs of several ranges.

    python scripts/private_approximations.py semi2k aby3
    python scripts/private_approximations.py cheetah --inputs 1000 --limits 8 1000

The parties are threads of this process (SPU's own simulation), with the settings of `deepreduce private run`. Errors
of SiLU, GELU, ELU, hardswish and leaky ReLU are relative to the larger of |x| and 1; all others are absolute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deepreduce.private.protocol import protocol_named
from deepreduce.private.spu.kernels import KERNELS

FUNCTIONS: dict[str, tuple[str, tuple[Any, ...], Callable[[Tensor], Tensor], bool]] = {
    "relu": ("relu", (), F.relu, False),
    "leaky ReLU": ("leaky_relu", (0.01,), F.leaky_relu, True),
    "hardsigmoid": ("hardsigmoid", (), F.hardsigmoid, False),
    "hardswish": ("hardswish", (), F.hardswish, True),
    "sigmoid": ("sigmoid", (), torch.sigmoid, False),
    "SiLU": ("silu", (), F.silu, True),
    "tanh": ("tanh", (), torch.tanh, False),
    "GELU": ("gelu", ("none",), F.gelu, True),
    "GELU, tanh": ("gelu", ("tanh",), lambda x: F.gelu(x, approximate="tanh"), True),
    "ELU": ("elu", (1.0, 1.0, 1.0), F.elu, True),
    "softmax of 10": ("_softmax", (-1,), lambda x: F.softmax(x, -1), False),
    "softmax of 100": ("_softmax", (-1,), lambda x: F.softmax(x, -1), False),
}
"""Name -> kernel, its arguments, PyTorch's function, and whether errors are relative to |x| where that exceeds 1."""


def inputs(name: str, limit: float, count: int) -> np.ndarray[Any, Any]:
    """Return inputs in [-limit, limit]: evenly spaced, for a softmax random and in rows."""
    if not name.startswith("softmax"):
        return np.linspace(-limit, limit, count, dtype=np.float32)
    classes = int(name.rpartition(" ")[2])
    return np.random.default_rng(0).uniform(-limit, limit, (count // classes, classes)).astype(np.float32)


def largest_error(simulator: Any, name: str, limit: float, *, count: int) -> float:
    """Return the largest error of a function on inputs in [-limit, limit]."""
    from spu.utils.simulation import sim_jax

    kernel, args, function, relative = FUNCTIONS[name]
    x = inputs(name, limit, count)

    def run(given: Any) -> Any:
        return KERNELS[kernel](given, *args, shape=given.shape)

    error = np.abs(np.asarray(sim_jax(simulator, run)(x)) - function(torch.from_numpy(x)).numpy())
    return float((error / np.maximum(np.abs(x), 1) if relative else error).max())


def main() -> None:
    """Print a table for each protocol."""
    from spu.utils.simulation import Simulator

    from deepreduce.private.spu.engine import runtime_config

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocols", nargs="+", type=protocol_named)
    parser.add_argument("--inputs", type=int, default=4_000)
    parser.add_argument("--limits", type=float, nargs="+", default=[1, 8, 64, 1_000, 30_000])
    given = parser.parse_args()
    for protocol in given.protocols:
        simulator = Simulator(protocol.parties, runtime_config(protocol))
        print(f"| {protocol.name} | " + " | ".join(f"{limit:,g}" for limit in given.limits) + " |")
        for name in FUNCTIONS:
            errors = [largest_error(simulator, name, limit, count=given.inputs) for limit in given.limits]
            print(f"| {name} | " + " | ".join(f"{error:.1e}" for error in errors) + " |", flush=True)


if __name__ == "__main__":
    main()
