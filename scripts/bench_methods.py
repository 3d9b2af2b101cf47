#!/usr/bin/env python3
"""Compare methods: all from one teacher, at equal ReLU counts, epochs and data, with several seeds.

python scripts/bench_methods.py OUT --data npz:FILE [--parts frontier equal alone paper] [--seeds 0 1 2]
    [--epochs 2 12] [--budgets 12288 7168] [--methods taylor whole-sites snl ...] [--hours 2]

Every training is a run of `deepreduce optimize` in OUT, so the command resumes where it was stopped; it prints the
table of what is there, and writes OUT/results.csv and OUT/methods.png. Networks are chosen on validation images;
the accuracies are those of the test images.

The parts, for each seed:
  frontier  the path of shrinking masks for price 1.0 and 0.5, and DeepReDuce's plans for price 1.0 (recipe fast)
  equal     each method at each budget for the same number of epochs, from the teacher's weights (recipe full)
  alone     the networks of the path of price 1.0, each trained alone by the full recipe from the teacher's weights
  paper     DeepReDuce's plans, each from scratch by the full recipe: the price is what it comes to
"""

import argparse
import csv
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepreduce
from deepreduce.frontier import Point, hypervolume

BUDGETS = (57_344, 28_672, 12_288, 7_168, 3_072, 1_792, 1_024, 512)
"""ReLU counts of the path, which whole-site plans of the network have too, as far as they go."""

SETTING: dict[str, Any] = {
    "model": {"name": "resnet18", "width": 16},
    "training": {"epochs": 12, "batch_size": 128, "learning_rate": 0.2},
    "threads": 1,
    "side_by_side": 1,
}
DATA = {"train_limit": 20_000, "pad": 4, "flip": True}

WHOLE_SITES = {
    "cull S1": (["S1"], False, 1.0, 1.0),
    "cull S1, thin": (["S1"], True, 1.0, 1.0),
    "cull S1 S2": (["S1", "S2"], False, 1.0, 1.0),
    "cull S1 S2, thin": (["S1", "S2"], True, 1.0, 1.0),
    "cull S1 S2 S3": (["S1", "S2", "S3"], False, 1.0, 1.0),
    "cull S1, thin, rho 0.5": (["S1"], True, 1.0, 0.5),
    "cull S1 S2, thin, alpha 0.5": (["S1", "S2"], True, 0.5, 1.0),
}
"""Plans of DeepReDuce: stages culled, whether the rest is thinned, alpha, rho."""

METHODS: dict[str, dict[str, Any]] = {
    "taylor": {"name": "taylor"},
    "taylor, pixels": {"name": "taylor", "unit": "pixel"},
    "snl": {"name": "snl"},
    "snl, channels": {"name": "snl", "unit": "channel"},
    "senet": {"name": "senet"},
    "autorep": {"name": "autorep"},
    "relupruner": {"name": "relupruner"},
}
"""Methods that are given a budget; whole-site plans and bcd, which polishes masks, are set up on their own."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trained network: what part of the comparison it belongs to, and its accuracies in percent."""

    part: str
    method: str
    seed: int
    epochs: float
    budget: int
    relus: int
    val: float
    test: float
    teacher_test: float


class Bench:
    """The runs of one comparison, below one folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        self.deadline = time.monotonic() + 3600 * options.hours

    def rows(self) -> Iterator[Row]:
        """Train what is missing, part by part, all seeds of a part before the next one."""
        for part in self.options.parts:
            for seed in self.options.seeds:
                yield from getattr(self, part)(seed)

    # -- parts ------------------------------------------------------------------------------------------------

    def frontier(self, seed: int) -> Iterator[Row]:
        """Train the frontiers of recipe `fast`, for one price each."""
        path = {"name": "taylor", "budgets": BUDGETS}
        for name, method, price in (
            ("taylor", path, 1.0), ("taylor", path, 0.5), ("deepreduce", {"name": "deepreduce"}, 1.0),
        ):  # fmt: skip
            result = self.run(seed, f"{name}-{price}", method=method, fast={"price": price})
            yield from rows_of(result, f"frontier, price {price}", name, seed, epochs=12 * price)

    def paper(self, seed: int) -> Iterator[Row]:
        """Train DeepReDuce's plans from scratch."""
        result = self.run(seed, "deepreduce-paper", method={"name": "deepreduce"}, recipe="paper")
        yield from rows_of(result, "frontier, paper", "deepreduce", seed, epochs=12)

    def alone(self, seed: int) -> Iterator[Row]:
        """Train the networks of the path again, each alone."""
        folder = self.folder(seed, "taylor-1.0")
        networks = deepreduce.load_result(folder).candidates
        for network in networks[: self.options.networks]:
            given = {"name": "given", "of": [str(folder)], "ids": [network.plan_id]}
            result = self.run(seed, f"alone-{network.relu_count}", method=given, recipe="full")
            yield from rows_of(result, "alone", "taylor", seed, epochs=12)

    def equal(self, seed: int) -> Iterator[Row]:
        """Train each method at each budget for the same number of epochs."""
        for epochs in self.options.epochs:
            for budget in self.options.budgets:
                for name in self.options.methods:
                    folder = f"equal-{epochs}-{budget}-{name.replace(', ', '-')}"
                    training = SETTING["training"] | {"epochs": epochs}
                    result = self.run(
                        seed, folder, method=self.method(name, budget, seed), recipe="full", training=training
                    )
                    yield from rows_of(result, "equal", name, seed, epochs=epochs, budget=budget)

    def method(self, name: str, budget: int, seed: int) -> dict[str, Any]:
        """Return the config of a method for one budget."""
        if name == "whole-sites":
            return {"name": "given", "plans": whole_sites(budget)}
        if name == "bcd":
            start = self.folder(seed, "taylor-1.0")
            network = next(n for n in deepreduce.load_result(start).candidates if n.relu_count <= budget)
            return {"name": "bcd", "start": [str(network.folder)]}
        return METHODS[name] | {"budgets": [budget]}

    # -- runs -------------------------------------------------------------------------------------------------

    def folder(self, seed: int, name: str) -> Path:
        """Return the folder of a run."""
        return self.out / f"seed{seed}" / name

    def run(self, seed: int, name: str, **values: Any) -> deepreduce.Result:
        """Run `optimize` in its folder, or finish it, with the seed's teacher; the first run trains it."""
        if time.monotonic() > self.deadline:
            raise TimeoutError
        teacher = self.folder(seed, "taylor-1.0") / "teacher" / "model.safetensors"
        config = SETTING | {"seed": seed, "data": DATA | {"name": self.options.data}} | values
        if name != "taylor-1.0":
            config["model"] = {**config["model"], "weights": str(teacher)}
            config["training"] = {**config["training"], "teacher_epochs": 0}
        folder = self.folder(seed, name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"{time.strftime('%H:%M:%S')} seed {seed}, {name}", flush=True)
        return deepreduce.optimize(out=folder, **config)


def whole_sites(budget: int) -> list[dict[str, Any]]:
    """Return the whole-site plans of at least 0.8 times the budget, and no more than it."""
    network = deepreduce.trace("resnet18", (3, 32, 32), width=16, num_classes=100)
    plans = []
    for culled, thinned, alpha, rho in WHOLE_SITES.values():
        plan = deepreduce.cull_plan(network, culled).merge(deepreduce.reshape_plan(alpha=alpha, rho=rho))
        if thinned:
            kept = [stage for stage in network.stages if stage not in culled]
            plan = plan.merge(deepreduce.thin_plan(network, stages=kept))
        if 0.8 * budget <= deepreduce.apply_plan(network, plan).relu_count <= budget:
            plans.append(plan.to_json())
    return plans


def rows_of(
    result: deepreduce.Result, part: str, method: str, seed: int, *, epochs: float, budget: int = 0
) -> Iterator[Row]:
    """Return the networks of a run; of one budget, the network with the highest validation accuracy."""
    measured = [c for c in result.candidates if c.measurement is not None]
    if budget:
        measured = [max(measured, key=lambda c: c.measurement.val_accuracy)] if measured else []
    for network in measured:
        yield Row(
            part=part, method=method, seed=seed, epochs=epochs, budget=budget or nearest_budget(network.relu_count),
            relus=network.relu_count, val=100 * network.measurement.val_accuracy,
            test=100 * network.measurement.test_accuracy, teacher_test=100 * result.teacher.measurement.test_accuracy,
        )  # fmt: skip


def nearest_budget(relus: int) -> int:
    """Return the smallest budget that the network is within; its own count beyond all."""
    return min((b for b in BUDGETS if b >= relus), default=relus)


# -- what came of it --------------------------------------------------------------------------------------------


def write_csv(rows: list[Row], path: Path) -> None:
    """Write all networks."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)


def table(rows: list[Row]) -> str:
    """Return test accuracies less the teacher's: mean over the seeds, standard error, number of seeds."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.part, row.epochs, row.budget, row.method].append(row)
    lines = [
        f"{'part':24} {'epochs':>6} {'budget':>8} {'method':16} {'ReLUs':>8} {'test %':>14} {'to teacher':>14}  n"
    ]
    for (part, epochs, budget, method), group in sorted(groups.items(), key=lambda i: (*i[0][:2], -i[0][2], i[0][3])):
        best = {row.seed: row for row in sorted(group, key=lambda r: r.val)}.values()  # one for each seed
        relus = round(statistics.mean(row.relus for row in best))
        test = mean_and_error([row.test for row in best])
        gap = mean_and_error([row.test - row.teacher_test for row in best])
        lines.append(f"{part:24} {epochs:6g} {budget:8,} {method:16} {relus:8,} {test:>14} {gap:>14}  {len(best)}")
    return "\n".join([*lines, "", *volumes(rows)])


def mean_and_error(values: list[float]) -> str:
    """Return mean and standard error, as in 41.25 +- 0.31."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def volumes(rows: list[Row]) -> Iterator[str]:
    """Return the hypervolume of each whole frontier: of log10(ReLUs) and test accuracy, up to twice the whole."""
    full = 139_264
    groups: dict[tuple[str, str], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.part.startswith("frontier"):
            groups[row.part, row.method][row.seed].append(row)
    for (part, method), seeds in groups.items():
        found = []
        for networks in seeds.values():
            points = [Point(cost=math.log10(row.relus), accuracy=row.test / 100) for row in networks]
            points.append(Point(cost=math.log10(full), accuracy=networks[0].teacher_test / 100))
            found.append(hypervolume(points, reference=Point(cost=math.log10(2 * full), accuracy=0.0)))
        yield f"hypervolume of {part}, {method}: {mean_and_error(found)} (n = {len(found)})"


def draw(rows: list[Row], path: Path) -> None:
    """Draw mean test accuracy against ReLUs, a line for each frontier and method, bars of one standard error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[f"{row.method}, {row.part}" + f", {row.epochs:g} epochs" * (row.part == "equal")][row.budget].append(
            row
        )
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for name, budgets in sorted(groups.items()):
        points = []
        for budget, found in sorted(budgets.items()):
            tests = [row.test for row in found]
            error = statistics.stdev(tests) / math.sqrt(len(tests)) if len(tests) > 1 else 0.0
            points.append((budget, statistics.mean(tests), error))
        x, y, errors = zip(*points, strict=True)
        axes.errorbar(x, y, yerr=errors, marker="o", markersize=4, capsize=2, linewidth=1, label=name)
    axes.set(xscale="log", xlabel="ReLUs", ylabel="test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train what is missing, print the table, write results.csv and methods.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--data", required=True)
    parser.add_argument("--parts", nargs="+", default=["frontier", "equal", "alone", "paper"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", nargs="+", type=int, default=[2, 12])
    parser.add_argument("--budgets", nargs="+", type=int, default=[12_288, 7_168])
    parser.add_argument("--methods", nargs="+", default=["whole-sites", *METHODS, "bcd"])
    parser.add_argument(
        "--networks", type=int, default=4, help="of the path, most ReLUs first, that part alone trains"
    )
    parser.add_argument("--hours", type=float, default=math.inf, help="begin no run after this")
    bench = Bench(parser.parse_args())
    rows: list[Row] = []
    try:
        rows.extend(bench.rows())
    except TimeoutError:
        print("time is up; give the command again to go on")
    except KeyboardInterrupt:
        print("stopped; give the command again to go on")
    write_csv(rows, bench.out / "results.csv")
    print(table(rows))
    draw(rows, bench.out / "methods.png")


if __name__ == "__main__":
    main()
