#!/usr/bin/env python3
"""Measure the images per second of a training step, for each arithmetic and thread count (docs/training.md).

python scripts/bench_step.py [--threads 1 2] [--steps 8]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from deepreduce.models import build_model, resolve_spec

SETTINGS = [  # width, image size, channels, batch
    (16, 32, 3, 128),
    (64, 32, 3, 64),
    (64, 8, 1, 64),
]
VARIANTS = [(bf16, channels_last) for bf16 in (False, True) for channels_last in (False, True)]


def step_of(width: int, size: int, channels: int, batch: int, bf16: bool, channels_last: bool) -> Callable[[], float]:
    """Return a function that takes one training step and returns its seconds."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = build_model(resolve_spec("resnet18", width=width, in_channels=channels)).to(memory_format=form).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
    images = torch.randn(batch, channels, size, size).contiguous(memory_format=form)
    labels = torch.randint(0, 10, (batch,))

    def step() -> float:
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        return time.perf_counter() - begin

    return step


def summary(rates: list[float]) -> str:
    """Return the median, and half the distance between the quartiles as a share of the median."""
    low, median, high = statistics.quantiles(rates, n=4)
    return f"{median:5.0f} ±{(high - low) / 2 / median:4.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=8, help="rounds; the first is not counted")
    parser.add_argument("--networks", type=int, default=len(SETTINGS), help="measure only this many of the networks")
    options = parser.parse_args()
    print(
        "width size threads  " + "  ".join(f"{'bf16' if b else 'fp32'}{'+cl' if c else '':<7}" for b, c in VARIANTS)
    )
    for threads in options.threads:
        torch.set_num_threads(threads)
        for width, size, channels, batch in SETTINGS[: options.networks]:
            steps = [step_of(width, size, channels, batch, *variant) for variant in VARIANTS]
            # interleaved, so that other load on the machine slows all variants alike
            seconds = [[step() for step in steps] for _ in range(options.steps)][1:]
            cells = [summary([batch / taken for taken in column]) for column in zip(*seconds, strict=True)]
            print(f"{width:>5} {size:>4} {threads:>7}  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
