#!/usr/bin/env python3
"""Compare the seconds of analyzing a network with those of one forward pass of an image (docs/performance.md).

python scripts/bench_analyzer.py [--rounds 5]
"""

import argparse
import statistics
import time

import torch
from torch import nn

import deepreduce
from deepreduce.models import build_model, resolve_spec

NETWORKS = ["torchvision:resnet18", "torchvision:resnet152", "torchvision:mobilenet_v2"]
SIZE = 224


@torch.inference_mode()
def measured(module: nn.Module) -> tuple[float, float]:
    """Return the seconds of a forward pass, and of analyzing the module."""
    image = torch.randn(1, 3, SIZE, SIZE)
    begin = time.perf_counter()
    module(image)
    between = time.perf_counter()
    deepreduce.analyze(module, input_size=SIZE)
    return between - begin, time.perf_counter() - between


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are counted; one more round comes first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':<28} {'forward s':>9}  {'analysis s':>10}  analysis / forward", flush=True)
    for name in NETWORKS:
        module = build_model(resolve_spec(name, num_classes=1000)).eval()
        rounds = [measured(module) for _ in range(options.rounds + 1)][1:]
        forward, analysis = (statistics.median(column) for column in zip(*rounds, strict=True))
        low, median, high = statistics.quantiles([a / f for f, a in rounds], n=4)
        print(f"{name:<28} {forward:>9.3f}  {analysis:>10.3f}  {median:.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
