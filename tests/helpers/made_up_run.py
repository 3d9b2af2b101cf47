"""A run folder to show, with made-up accuracies: what `optimize` leaves, without hours of training."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deepreduce.candidate import TEACHER_ID, Candidate, Measurement
from deepreduce.config.load import dump_config, load_config
from deepreduce.config.schema import OptimizeConfig
from deepreduce.models import resolve_spec
from deepreduce.plan import ReductionPlan
from deepreduce.run.outputs import write_tables
from deepreduce.store.config_file import CONFIG_DIGEST, text_digest
from deepreduce.store.records import RunCosts
from deepreduce.utils.files import write_text
from deepreduce.utils.records import write_record
from tests.helpers.report_examples import random_estimate

# ResNet-18 at 32 by 32 pixels
STAGES = {"S1": (16_384 * 4, 5), "S2": (8192 * 4, 4), "S3": (4096 * 4, 4), "S4": (2048 * 4, 4)}

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def sites_of(stages: Mapping[str, tuple[int, int]] = STAGES) -> list[tuple[str, str, int]]:
    """(name, stage, ReLUs) of the teacher's sites."""
    return [
        (f"stage{number}.{site // 2}.relu{site % 2 + 1}", stage, count)
        for number, (stage, (count, sites)) in enumerate(stages.items(), start=1)
        for site in range(sites)
    ]


def write_run(
    folder: Path,
    *,
    model: str = "resnet18",
    size: int = 18,
    epochs: int = 40,
    complete: bool = True,
    with_criticality: bool = True,
    stages: Mapping[str, tuple[int, int]] = STAGES,
    presets: Sequence[str] = (),
    seed: int = 0,
) -> list[Candidate]:
    """Write a run of a teacher, `size` reductions, one without ReLUs, one that failed and one that was dropped.

    Under each of `presets` they have made-up costs. Returns all of them.
    """
    draw = random.Random(seed)
    config = load_config(None, values={"model": {"name": model}, "data": {"name": "cifar100"}})
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", dump_config(config))
    digest = text_digest(dump_config(config))
    write_record(folder / "environment.json", {**environment(config), CONFIG_DIGEST: digest})
    sites = sites_of(stages)
    found = [_candidate(folder, sites, set(), TEACHER_ID, "full network", 0.7805, epochs, draw)]
    for i in range(size):
        label, gone, alpha = _reduction(list(stages), sites, draw)
        kept = sum(count for name, _, count in sites if name not in gone) * alpha
        full = sum(count for _, _, count in sites)
        accuracy = 0.79 - 0.012 * math.log2(full / max(kept, 1)) ** 1.4 - draw.choice([0, 0, 0.02]) * draw.random()
        found.append(_candidate(folder, sites, gone, f"plan{i:02}", label, accuracy, epochs, draw, alpha=alpha))
    everything = {name for name, _, _ in sites}
    label = f"cull {' '.join(stages)}"
    found.append(_candidate(folder, sites, everything, "linear", label, 0.31, epochs, draw))
    found.append(_failed(folder, sites, "broken"))
    found.append(_dropped(folder, sites, "beaten"))
    if with_criticality:
        worth = {stage: 0.7 + 0.4 * draw.random() for stage in stages}
        order = sorted(worth, key=lambda stage: worth[stage])[:-1]
        accuracies = {stage: 0.55 + 0.2 * draw.random() for stage in stages}
        write_record(
            folder / "criticality.json", {"cull_order": order, "criticality": worth, "val_accuracy": accuracies}
        )
    found = [replace(c, cost_estimates={p: random_estimate(draw.randrange(10**6)) for p in presets}) for c in found]
    if presets:
        RunCosts(models={}, cost_estimates={c.plan_id: c.cost_estimates for c in found}).write(folder)
    write_tables(folder, found, stages=list(stages), complete=complete)
    return found


def environment(config: OptimizeConfig) -> dict[str, object]:
    return {
        "versions": {"python": "3.11.7", "machine": "Linux x86_64", "deepreduce": "0.1.0", "torch": "2.14.1"},
        "processor": "",
        "command": ["/opt/somewhere/bin/deepreduce", "optimize", "--model", config.model.name, "--data", "cifar100"],
        "started": "2026-11-24T21:52:11+0000",
        "identity": {"model": "34c04aa9ec970a55", "data": "222f6712fee1c8d7", "device": "cuda", "threads": 0},
    }


def _reduction(
    stages: list[str], sites: list[tuple[str, str, int]], draw: random.Random
) -> tuple[str, set[str], float]:
    culled = draw.sample(stages, draw.randint(1, len(stages) - 1))
    parts = [f"cull {' '.join(culled)}"]
    gone = {name for name, stage, _ in sites if stage in culled}
    if draw.random() < 0.6:
        parts.append("thin")
        gone |= {name for name, _, _ in sites if name.endswith("relu2")}
    alpha = draw.choice([1.0, 0.5])
    if alpha != 1:
        parts.append(f"alpha {alpha}")
    return ", ".join(parts), gone, alpha


def _candidate(
    folder: Path,
    sites: list[tuple[str, str, int]],
    gone: set[str],
    plan_id: str,
    label: str,
    accuracy: float,
    epochs: int,
    draw: random.Random,
    *,
    alpha: float = 1.0,
) -> Candidate:
    kept = [(name, stage, round(count * alpha)) for name, stage, count in sites if name not in gone]
    plan = ReductionPlan(sites=tuple((name, "identity") for name in gone), alpha=alpha)
    path = "teacher" if plan_id == TEACHER_ID else f"candidates/{plan_id}"
    counts = dict.fromkeys((stage for _, stage, _ in sites), 0)
    for _, stage, count in kept:
        counts[stage] += count
    history = ["epoch,learning_rate,train_loss,val_accuracy,seconds"]
    for epoch in range(1, epochs + 1):
        reached = accuracy * (1 - math.exp(-5 * epoch / epochs)) + draw.gauss(0, 0.006)
        # every other epoch is validated, as a long run does
        shown = f"{min(max(reached, 0.0), 1.0)}" if epoch % 2 == 0 or epoch == epochs else ""
        history.append(f"{epoch},0.05,{4.2 * math.exp(-3 * epoch / epochs) + 0.1 * draw.random()},{shown},{epoch}.00")
    _write_network(folder / path, label, plan, kept, "\n".join(history) + "\n")
    return Candidate(
        plan_id=plan_id,
        plan=plan,
        label=label,
        relu_count=sum(count for _, _, count in kept),
        folder=path,
        measurement=Measurement(
            relu_count=sum(count for _, _, count in kept),
            stage_relu_counts=counts,
            macs=round(555_422_720 * alpha * alpha),
            val_accuracy=accuracy,
            test_accuracy=accuracy + draw.gauss(0, 0.003),
            churn=0.0 if plan_id == TEACHER_ID else 0.1 + 0.1 * draw.random(),
            train_seconds=3000 + 900 * draw.random(),
        ),
    )


def _failed(folder: Path, sites: list[tuple[str, str, int]], plan_id: str) -> Candidate:
    failure = "the loss is not finite: nan in epoch 3"
    return _unmeasured(folder, sites, plan_id, kind="candidates", divisor=4, failure=failure)


def _dropped(folder: Path, sites: list[tuple[str, str, int]], plan_id: str) -> Candidate:
    reason = "its draft has 30.00 % validation accuracy, that of cull S1 (65,536 ReLUs) 60.00 %"
    return replace(_unmeasured(folder, sites, plan_id, kind="drafts", divisor=8, failure=reason), is_dropped=True)


def _unmeasured(
    folder: Path, sites: list[tuple[str, str, int]], plan_id: str, *, kind: str, divisor: int, failure: str
) -> Candidate:
    plan, path, label = ReductionPlan(alpha=1 / divisor), f"{kind}/{plan_id}", f"alpha {1 / divisor:g}"
    kept = [(name, stage, count // divisor) for name, stage, count in sites]
    _write_network(folder / path, label, plan, kept, "epoch,learning_rate,train_loss,val_accuracy,seconds\n")
    return Candidate(
        plan_id=plan_id,
        plan=plan,
        label=label,
        relu_count=sum(count for _, _, count in kept),
        folder=path,
        failure=failure,
    )


def _write_network(
    folder: Path, label: str, plan: ReductionPlan, kept: list[tuple[str, str, int]], history: str
) -> None:
    folder.mkdir(parents=True)
    described = {
        "label": label,
        "plan_id": plan.plan_id,
        "plan": plan.to_json(),
        "model": resolve_spec("resnet18").to_json(),
        "model_name": "resnet18",
        "input_shape": [3, 32, 32],
        "sites": [{"name": name, "stage": stage, "relu_count": count} for name, stage, count in kept],
    }
    write_record(folder / "plan.json", described)
    write_text(folder / "history.csv", history)
