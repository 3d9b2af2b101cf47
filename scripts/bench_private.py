#!/usr/bin/env python3
"""Measure networks of runs under secure computation and print a table, such as the one of docs/private.md.

FOLDER is the folder of a network. Speeds are relative to the first network, which should be the full one, and to the
second, which has fewer ReLUs and is the baseline for the others. Networks are measured in turns, `--rounds` times, by
the queries of `deepreduce private run`.

python scripts/bench_private.py FOLDER FOLDER ... [--protocols semi2k cheetah] [--images 5 1] [--rounds 2]
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepreduce.api import private_run
from deepreduce.cost.link import LINKS, Link
from deepreduce.private import PrivateRun
from deepreduce.private.result import Spread


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network under a protocol, measured in all rounds."""

    runs: tuple[PrivateRun, ...]

    def seconds(self, link: Link = LINKS["loopback"]) -> Spread:
        """Return the seconds of all queries over a link."""
        queries = [query for run in self.runs for query in run.queries]
        return Spread.of(
            [link.seconds(compute=q.seconds, sent_bytes=q.serial_bytes, messages=q.messages) for q in queries]
        )

    def median(self, amount: str) -> float:
        """Return the median of a query's `amount`: bytes or messages."""
        return statistics.median(getattr(query, amount) for run in self.runs for query in run.queries)

    @property
    def agreement(self) -> str:
        """Return how well the predictions and logits agree with PyTorch's."""
        found = self.runs[0].agreement
        return f"{found.same_argmax} of {found.images}, {found.max_abs_error:.2g} of {found.max_abs_logit:.3g}"


def measure_in_turn(
    folders: Sequence[Path], protocol: str, *, images: int, rounds: int, repeats: int
) -> list[Measured]:
    """Measure every network once per round, the networks in turns."""
    found: list[list[PrivateRun]] = [[] for _ in folders]
    for _ in range(rounds):
        for folder, runs in zip(folders, found, strict=True):
            runs.append(private_run(folder, protocol=protocol, images=images, repeats=repeats))
            print(f"{protocol} {folder}: {runs[-1].seconds.median:.2f} s", flush=True)
    return [Measured(runs=tuple(runs)) for runs in found]


def rows_of(protocol: str, found: Sequence[Measured]) -> list[list[str]]:
    """Return the table's rows for one protocol."""
    label = found[0].runs[0].protocol.label
    rows = [[f"**{label}**, seconds"], ["over lan, computed"], ["over wan, computed"]]
    for one in found:
        seconds = one.seconds()
        rows[0].append(f"{seconds.median:.3g} ({seconds.low:.3g} to {seconds.high:.3g})")
        rows[1].append(f"{one.seconds(LINKS['lan']).median:.3g}")
        rows[2].append(f"{one.seconds(LINKS['wan']).median:.3g}")
    rows.append([f"{protocol}, MB", *(f"{one.median('bytes') / 1e6:.3g}" for one in found)])
    rows.append([f"{protocol}, messages", *(f"{one.median('messages'):,.0f}" for one in found)])
    rows.append(
        [f"{protocol}, predictions as PyTorch's, largest error of a logit", *(one.agreement for one in found)]
    )
    for place, name in ((0, "the first"), (1, "the second"))[: len(found)]:
        base = found[place].seconds().median
        speeds = [f"{base / one.seconds().median:.3g}x" for one in found]
        rows.append([f"{protocol}, times as fast as {name}", *speeds])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="RUN/teacher or RUN/candidates/HASH")
    parser.add_argument("--protocols", nargs="+", default=["semi2k", "cheetah"])
    parser.add_argument("--images", type=int, nargs="+", default=[5, 1], help="test images for each protocol")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="minimum number of queries in a round")
    options = parser.parse_args()
    if len(options.images) != len(options.protocols):
        parser.error("give a number of --images for each of --protocols")
    plans = [json.loads((folder / "plan.json").read_text()) for folder in options.folders]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in options.folders]
    rows = [
        ["", *(plan["label"] for plan in plans)],
        ["---"] * (1 + len(plans)),
        ["ReLUs", *(f"{each['relu_count']:,}" for each in metrics)],
        ["test accuracy", *(f"{100 * each['test_accuracy']:.2f} %" for each in metrics)],
    ]
    for protocol, images in zip(options.protocols, options.images, strict=True):
        found = measure_in_turn(
            options.folders, protocol, images=images, rounds=options.rounds, repeats=options.repeats
        )
        rows += rows_of(protocol, found)
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
