"""Write docs/models.md: what can be done with each of torchvision's classification networks, each claim tried.

    python scripts/torchvision_table.py [--results FOLDER] [--only NAME ...]

One JSON file per network is kept in FOLDER (runs/torchvision by default) and not computed again, so a run that was
stopped goes on, and two may share the work. Takes about an hour on one core; `--write-only` writes the page from what
is there.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deepreduce.config.inputs import versions  # noqa: E402
from deepreduce.errors import DeepReduceError  # noqa: E402
from deepreduce.models import ModelSpec, build_model, default_input_size, resolve_spec  # noqa: E402
from deepreduce.network import Network, trace_network  # noqa: E402
from deepreduce.transforms import apply_plan, cull_plan, reshape_plan, thin_plan  # noqa: E402
from deepreduce.utils.files import read_json, write_json, write_text  # noqa: E402
from tests.helpers.independent import executed_relus  # noqa: E402

EDITS = {
    "cull": lambda network: cull_plan(network, [next(s for s, n in network.stage_relu_counts.items() if n)]),
    "thin": lambda network: thin_plan(network),
    "alpha": lambda network: reshape_plan(alpha=0.5),
    "rho": lambda network: reshape_plan(rho=0.5),
}
TRAINED_SIZES = (64, 96, 128, 224, 299)
"""Height and width at which an edited network is trained for a step: the first at which it runs."""

BATCH = 2


def counted(name: str, spec: ModelSpec) -> dict[str, Any]:
    """Counts at the network's own size and after every edit there, without weights; each counted twice."""
    size = default_input_size(spec)
    module = build_model(spec, device="meta")
    network = trace_network(module, (3, size, size), name=name, spec=spec)
    edits = {}
    for edit, make in EDITS.items():
        edits[edit] = _edited(network, make)
    return {
        "size": size,
        "relu_count": network.relu_count,
        "stages": network.stage_relu_counts,
        "kinds": sorted({site.kind for site in network.sites}),
        "unsupported": dict(network.unsupported),
        "agrees": [s.relu_count for s in network.sites] == executed_relus(module, network.input_shape, device="meta"),
        "macs": network.macs,
        "edits": edits,
    }


def _edited(network: Network, make: Any) -> dict[str, Any]:
    if make in (EDITS["cull"], EDITS["thin"]) and not network.relu_count:
        return {"refused": "it has no ReLU"}
    try:
        reduced = apply_plan(network, make(network))
    except DeepReduceError as error:
        return {"refused": str(error)}
    executed = sum(executed_relus(reduced.as_module(), network.input_shape, device="meta"))
    return {"relu_count": reduced.relu_count, "macs": reduced.macs, "notes": list(reduced.notes),
            "agrees": executed == reduced.relu_count}  # fmt: skip


def trained(name: str, spec: ModelSpec, edits: dict[str, Any]) -> dict[str, Any]:
    """One real training step of every edited network: forward, backward, SGD; at the smallest size that runs."""
    module = build_model(spec)
    module.requires_grad_(True)
    steps: dict[str, Any] = {}
    for edit, make in EDITS.items():
        if "refused" in edits[edit]:
            continue
        steps[edit] = _first_step(name, module, spec, make)
        gc.collect()
    return steps


def _first_step(name: str, module: torch.nn.Module, spec: ModelSpec, make: Any) -> dict[str, Any]:
    failure = ""
    for size in (s for s in TRAINED_SIZES if s <= default_input_size(spec)):
        try:
            network = trace_network(module, (3, size, size), name=name, spec=spec)
            reduced = apply_plan(network, make(network))
            if reduced.starved_layers:
                failure = f"{reduced.starved_layers[0]} starves"
                continue
            return {"size": size} | _step(reduced)
        except (DeepReduceError, RuntimeError, ValueError) as error:
            failure = " ".join(str(error).split())[:200]
    return {"failed": failure}


def _step(network: Network) -> dict[str, Any]:
    torch.manual_seed(0)
    module = network.as_module().train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    images, labels = torch.randn(BATCH, *network.input_shape), torch.arange(BATCH)
    loss = F.cross_entropy(module(images), labels)
    loss.backward()
    unreached = [key for key, p in module.named_parameters() if p.grad is None]
    finite = all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)
    optimizer.step()
    return {"loss": float(loss.detach()), "finite": finite, "without_gradient": unreached}


def measure(name: str) -> dict[str, Any]:
    """Everything that the table says of one network."""
    begin = time.perf_counter()
    spec = resolve_spec(f"torchvision:{name}")
    found = counted(name, spec)
    found["steps"] = trained(name, spec, found["edits"])
    return found | {"name": name, "seconds": round(time.perf_counter() - begin, 1)}


# -- the page -----------------------------------------------------------------------------------------------


def _verdict(found: dict[str, Any], edit: str) -> str:
    """The share of ReLUs (MACs where there is none) that is left, or why it does not work."""
    edited, step = found["edits"][edit], found["steps"].get(edit, {})
    if "refused" in edited:
        return "-" if edited["refused"] == "it has no ReLU" or "drops no ReLU" in edited["refused"] else "no"
    works = edited["agrees"] and step.get("finite") and not step["without_gradient"]
    if not works:
        return "fails"
    whole, left = (
        (found["relu_count"], edited["relu_count"]) if found["relu_count"] else (found["macs"], edited["macs"])
    )
    unit = "" if found["relu_count"] else " MACs"
    return f"{left / whole:.0%}{unit}" + ("*" if edited["notes"] else "")


def _failure(edited: dict[str, Any], step: dict[str, Any]) -> str:
    if step.get("without_gradient"):
        return f"no gradient reaches {', '.join(step['without_gradient'][:3])}"
    return step.get("failed") or ("the gradient is infinite" if edited["agrees"] else "the counts disagree")


def _row(found: dict[str, Any]) -> str:
    stages = " · ".join(f"{count:,}" for count in found["stages"].values()) or "-"
    caps = " (ReLU6)" if found["kinds"] == ["relu6"] else ""
    others = ", ".join(f"{kind} x{count}" for kind, count in found["unsupported"].items()) or "-"
    sizes = sorted({step["size"] for step in found["steps"].values() if "size" in step})
    cells = [
        found["name"],
        f"{found['size']}",
        f"{found['relu_count']:,}{caps}",
        stages,
        others,
        *(_verdict(found, edit) for edit in EDITS),
        "/".join(map(str, sizes)) or "-",
    ]
    return "| " + " | ".join(cells) + " |"


def page(results: list[dict[str, Any]], missing: list[str]) -> str:
    """docs/models.md."""
    known, today = versions(), datetime.date.today().isoformat()
    agree = sum(r["agrees"] and all(e.get("agrees", True) for e in r["edits"].values()) for r in results)
    refusals = [f"- **{r['name']}**, {edit}: {_short(r['edits'][edit].get('refused') or '')}"
                for r in results for edit in EDITS if _verdict(r, edit) == "no"]  # fmt: skip
    failures = [f"- **{r['name']}**, {edit}: {_failure(r['edits'][edit], r['steps'].get(edit, {}))}"
                for r in results for edit in EDITS if _verdict(r, edit) == "fails"]  # fmt: skip
    unscaled = [f"- **{r['name']}**: {'; '.join(r['edits']['alpha']['notes'])}"
                for r in results if r["edits"]["alpha"].get("notes")]  # fmt: skip
    lines = [
        "# torchvision's networks",
        "",
        f"Every classification network of torchvision ({len(results)}), by `python scripts/torchvision_table.py`;"
        f" torch {known['torch']}, torchvision {known['torchvision']}, {today}, one thread of a shared two-core CPU.",
        "",
        INTRODUCTION,
        "",
        "Counted a second time by watching the operations that execute, original and every edited network:"
        f" {agree} of {len(results)} agree to the ReLU.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(_row(found) for found in results),
    ]
    if missing:
        lines += ["", f"Not measured: {', '.join(missing)}."]
    for heading, listed in (
        ("What alpha could not scale", unscaled),
        ("What is refused", refusals),
        ("What fails", failures),
    ):
        if listed:
            lines += ["", f"## {heading}", "", *listed]
    return "\n".join(lines) + "\n"


COLUMNS = ("network", "size", "ReLUs", "per stage", "what else it holds", "cull S1", "thin", "alpha 1/2", "rho 1/2",
           "step at")  # fmt: skip

INTRODUCTION = """\
ReLUs are those of one image at the network's own size, in its stages S1, S2, ... from left to right (runs of one
resolution). *What else it holds* is every other non-linearity, by name and number of calls; it stays as it is. Each
percentage is the share of the ReLUs that is left by the edit (of the MACs, where there are no ReLUs). It stands there
only if the edit was applied, the edited network at its own size executes as many ReLUs as are counted, and an edited
network with random weights took a training step: forward, backward and SGD on two images, with a finite gradient. To
keep that affordable on two slow cores, the step is taken at the smallest of 64, 96, 128, 224 and 299 pixels at which
the network runs, given in the last column. `-`: nothing to drop. `no`: refused, with the reason below. `*`: alpha
could not scale every layer; which, and why, stands below. A classifier's outputs are always kept.

Alpha cuts channels out: of every set of interchangeable channels the most important ones stay, by the sum of squares
of the weights that make, scale and read them (`deepreduce/transforms/width.py`). A grouped convolution keeps its
groups and loses the same positions in each; a depthwise one loses groups. Behind a channel shuffle (ShuffleNet)
weights are inherited by position. Rho multiplies the stride of the convolutions that the image reaches first, or
pools the image where there is none."""


def _short(text: str) -> str:
    return text if len(text) <= 220 else text[:217] + "..."


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "torchvision")
    parser.add_argument("--only", nargs="*", default=None, metavar="NAME")
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = torchvision.models.list_models(module=torchvision.models)
    for number, name in enumerate(names, start=1):
        path = options.results / f"{name}.json"
        if options.write_only or path.exists() or (options.only is not None and name not in options.only):
            continue
        found = measure(name)
        options.results.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        verdicts = ", ".join(f"{edit} {_verdict(found, edit)}" for edit in EDITS)
        print(
            f"[{number}/{len(names)}] {name}: {found['relu_count']:,} ReLUs, {verdicts} ({found['seconds']} s)",
            flush=True,
        )
        gc.collect()
    results = [read_json(path) for name in names if (path := options.results / f"{name}.json").exists()]
    missing = [name for name in names if name not in {r["name"] for r in results}]
    write_text(ROOT / "docs" / "models.md", page(results, missing))
    print(f"docs/models.md: {len(results)} networks, {len(missing)} missing")


if __name__ == "__main__":
    main()
