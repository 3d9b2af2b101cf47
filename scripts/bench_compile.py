#!/usr/bin/env python3
"""Measure what torch.compile costs and gains for a training step on this CPU (docs/performance.md).

Steps of the plain and of the compiled network are taken in turns. "pays after" is the number of steps after which the
time saved equals the time of compiling.

python scripts/bench_compile.py [--threads 1] [--rounds 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from deepreduce.models import build_model, resolve_spec

SETTINGS = [  # width, image size, channels, batch
    (16, 32, 3, 128),
    (64, 8, 1, 64),
    (8, 8, 1, 64),
]


def step_of(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], float]:
    """Return a function that takes one training step and returns its seconds."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def step() -> float:
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        return time.perf_counter() - begin

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("width size  compiling s   plain ms  compiled/plain (quartiles)  pays after")
    for width, size, channels, batch in SETTINGS:
        plain, compiled = (
            build_model(resolve_spec("resnet18", width=width, in_channels=channels))
            .to(memory_format=torch.channels_last)
            .train()
            for _ in range(2)
        )
        images = torch.randn(batch, channels, size, size).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, 10, (batch,))
        steps = [step_of(network, images, labels) for network in (plain, torch.compile(compiled))]
        steps[0]()
        compiling = steps[1]()
        rounds = [(steps[0](), steps[1]()) for _ in range(1 + options.rounds)][1:]
        usual = statistics.median(p for p, _ in rounds)
        ratios = [c / p for p, c in rounds]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        after = f"{compiling / (usual * (1 - ratio)):.0f} steps" if ratio < 1 else "never"
        print(
            f"{width:>5} {size:>4} {compiling:>12.0f} {1000 * usual:>10.0f}  {ratio:.2f} ({low:.2f} to {high:.2f})"
            f"         {after}",
            flush=True,
        )


if __name__ == "__main__":
    main()
