#!/usr/bin/env python3
"""Measure queries of several images under secure computation and print a table, such as the one of docs/private.md.

The network is one of the zoo with random weights and batch-norm statistics of random images, which cost what trained
ones do; the images are random too. Beside what was measured stands what the protocol's cost model estimates.

python scripts/bench_batch.py [--model resnet18] [--width 64] [--protocol semi2k] [--batches 1 4 16] [--repeats 3]
"""

import argparse
from collections.abc import Sequence

import torch

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.link import LINKS
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.private import PrivateRun, measure
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.transforms.collapse.costs import collapse_cost

SHAPE = (3, 32, 32)


def random_network(model: str, *, width: int | None, seed: int) -> Network:
    """Return a network of the zoo for CIFAR-100 in evaluation mode."""
    spec = resolve_spec(model, num_classes=100, width=width)
    module = build_model(spec, seed=seed).train()
    torch.manual_seed(seed)
    with torch.no_grad():
        for _ in range(5):
            module(torch.randn(16, *SHAPE))
    return trace_network(module.eval(), SHAPE, spec=spec)


def row_of(network: Network, run: PrivateRun) -> list[str]:
    """Return a row of the table: what was measured, and the bytes and seconds that were estimated."""
    batch, protocol, loopback = run.batch, run.protocol.name, LINKS["loopback"]
    seconds, found = run.seconds, run.agreement
    layers = layers_of(prepare(network, cost=collapse_cost(protocol, loopback, batch=batch)))
    estimated = MODELS[protocol].estimate(layers, loopback, batch=batch)
    spread = f"{seconds.median:.3g} ({seconds.low:.3g} to {seconds.high:.3g})"
    over = [f"{run.seconds_over(LINKS[name]) / batch:.3g}" for name in ("lan", "wan")]
    return [
        str(batch),
        spread,
        f"{seconds.median / batch:.3g}",
        *over,
        f"{run.bytes / 1e6:.1f}",
        f"{run.bytes / batch / 1e6:.2f}",
        f"{estimated.bytes / 1e6:.2f}",
        f"{estimated.latency:.3g}",
        str(run.messages),
        f"{found.same_argmax} of {found.images}, {found.max_abs_error:.2g} of {found.max_abs_logit:.3g}",
    ]


HEADS = (
    "images a query", "seconds a query", "s an image", "over LAN", "over WAN", "MB a query", "MB an image",
    "estimated MB", "estimated s", "messages a query", "predictions as PyTorch's, largest error of a logit",
)  # fmt: skip


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table of Markdown."""
    for row in (HEADS, ["---"] * len(HEADS), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--width", type=int)
    parser.add_argument("--protocol", default="semi2k", choices=sorted({"semi2k", "cheetah"}))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3, help="timed queries of each batch")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    network = random_network(options.model, width=options.width, seed=options.seed)
    rows = []
    for batch in options.batches:
        images = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(options.seed))
        run = measure(
            network,
            images,
            protocol=options.protocol,
            repeats=options.repeats,
            batch=batch,
            cost=collapse_cost(options.protocol, LINKS["loopback"], batch=batch),
            timeout_s=3600,
        )
        rows.append(row_of(network, run))
        print(" ".join(rows[-1]), flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
