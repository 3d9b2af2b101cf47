"""Write docs/models.md: which edits work on each of torchvision's classification networks. Every claim is tested.

    python scripts/torchvision_table.py [--results FOLDER] [--only NAME ...]

FOLDER (runs/torchvision by default) keeps one JSON file per network, which is not computed again. So a stopped run
can be resumed, and two runs can share the work. A whole run takes about an hour on one core; `--write-only` writes
the page from the files that exist.
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

from deepreduce.errors import DeepReduceError  # noqa: E402
from deepreduce.models import ModelSpec, build_model, default_input_size, resolve_spec  # noqa: E402
from deepreduce.network import Network, guard_network, trace_network  # noqa: E402
from deepreduce.run.environment import versions  # noqa: E402
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
"""Heights and widths to try for the training step of an edited network: the first at which it runs is taken."""

BATCH = 2


def counted(name: str, spec: ModelSpec) -> dict[str, Any]:
    """Return the counts of the network at its own size and after every edit, without weights, each counted twice."""
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
    """Take one training step (forward, backward, SGD) of every edited network, at the smallest size that runs."""
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


def checked(name: str, spec: ModelSpec) -> dict[str, Any]:
    """Compare the traced network with the module in evaluation and training mode, at the smallest size that runs."""
    module = build_model(spec)
    failure = ""
    for size in (s for s in TRAINED_SIZES if s <= default_input_size(spec)):
        try:
            network = trace_network(module, (3, size, size), name=name, spec=spec)
            if network.starved_layers:
                continue
            report = guard_network(network, module)
            return {
                "size": size,
                "failure": report.failure or report.untrainable,
                "seconds": round(report.seconds, 2),
            }
        except (DeepReduceError, RuntimeError, ValueError) as error:
            failure = " ".join(str(error).split())[:200]
    return {"failure": failure or "it runs at no size"}


def measure(name: str) -> dict[str, Any]:
    """Return all values of the table for one network."""
    begin = time.perf_counter()
    spec = resolve_spec(f"torchvision:{name}")
    found = counted(name, spec)
    found["steps"] = trained(name, spec, found["edits"])
    found["checked"] = checked(name, spec)
    return found | {"name": name, "seconds": round(time.perf_counter() - begin, 1)}


# -- the page -----------------------------------------------------------------------------------------------


def _verdict(found: dict[str, Any], edit: str) -> str:
    """Return the share of ReLUs (of MACs, if there are no ReLUs) that the edit leaves, or why it does not work."""
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
        _equality(found.get("checked")),
    ]
    return "| " + " | ".join(cells) + " |"


def _equality(checked: dict[str, Any] | None) -> str:
    return "not run" if checked is None else "differs" if checked["failure"] else "equal"


def page(results: list[dict[str, Any]], missing: list[str]) -> str:
    """Return the text of docs/models.md."""
    known, today = versions(), datetime.date.today().isoformat()
    agree = sum(r["agrees"] and all(e.get("agrees", True) for e in r["edits"].values()) for r in results)
    refusals = [f"- **{r['name']}**, {edit}: {_short(r['edits'][edit].get('refused') or '')}"
                for r in results for edit in EDITS if _verdict(r, edit) == "no"]  # fmt: skip
    differing = [
        f"- **{r['name']}**: {r['checked']['failure']}" for r in results if r.get("checked", {}).get("failure")
    ]
    failures = [f"- **{r['name']}**, {edit}: {_failure(r['edits'][edit], r['steps'].get(edit, {}))}"
                for r in results for edit in EDITS if _verdict(r, edit) == "fails"]  # fmt: skip
    unscaled = [f"- **{r['name']}**: {'; '.join(r['edits']['alpha']['notes'])}"
                for r in results if r["edits"]["alpha"].get("notes")]  # fmt: skip
    lines = [
        "# torchvision's networks",
        "",
        f"This page covers every classification network of torchvision ({len(results)}). It is written by"
        f" `python scripts/torchvision_table.py`; torch {known['torch']}, torchvision {known['torchvision']},"
        f" {today}, one thread of a shared two-core CPU.",
        "",
        INTRODUCTION,
        "",
        "The ReLUs of each original and each edited network were counted a second time, from the operations that"
        f" execute: for {agree} of {len(results)} networks all counts match exactly.",
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
        ("What differs from the network itself", differing),
    ):
        if listed:
            lines += ["", f"## {heading}", "", *listed]
    return "\n".join(lines) + "\n"


COLUMNS = ("network", "size", "ReLUs", "per stage", "other non-linear", "cull S1", "thin", "alpha 1/2", "rho 1/2",
           "step at", "in training")  # fmt: skip

INTRODUCTION = """\
The table counts the ReLUs of one image at the network's own size. *per stage* lists the stages S1, S2, ... from left
to right ([method.md](method.md#stages) says what a stage is). *other non-linear* lists every other non-linear
operation by name and number of calls; the edits do not change these operations.

The four columns of edits give the share of the ReLUs that the edit leaves (the share of the MACs, if the network has
no ReLUs). A percentage means that three checks passed: the edit was applied, the edited network at its own size
executes as many ReLUs as are counted, and the edited network with random weights took a training step (forward,
backward and SGD on two images) with a finite gradient. To make the training step affordable on two slow cores, it is
taken at the smallest of 64, 96, 128, 224 and 299 pixels at which the network runs; the last column gives this size.
`-`: there is nothing to drop. `no`: the edit was refused; the reason is below. `*`: alpha could not scale every
layer; the layers and reasons are below. The outputs of a classifier are always kept.

Alpha removes channels. Of every set of interchangeable channels it keeps the most important ones, by the sum of
squares of the weights that produce, scale and read them (`deepreduce/transforms/width/cut.py`). A grouped convolution
keeps its groups and loses the same positions in each group; a depthwise convolution loses groups. Behind a channel
shuffle (ShuffleNet), weights are inherited by position. Rho multiplies the stride of the convolutions that the image
reaches first; if there is no such convolution, the image is pooled.

*in training* is the outcome of the check that begins every run (`deepreduce/network/guard.py`), at the smallest of
the sizes above at which the network itself runs. `equal`: without edits, the traced network gives the same logits bit
by bit, in evaluation and in training mode, from the same random numbers; one backward pass gives every parameter the
same gradient; running statistics move alike; and it executes as many ReLUs."""


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
