"""Write docs/timm.md: timm's networks with ReLUs, each counted, checked, culled and trained for one step.

    pip install 'deepreduce[timm]'
    python scripts/timm_table.py [--results FOLDER] [--only NAME ...] [--minutes M] [--again refused]

Networks have random weights and run at the smallest size that they accept, since structure is what is checked; ReLUs
are counted at their own size. Each runs in a process of its own, which ends at a limit of memory or time. FOLDER
(runs/timm by default) keeps one line of JSON per network: the same command resumes where the last one stopped, with
the smallest networks first. `--again VERDICT` runs those of a verdict once more; `--write-only` writes the page from
what is there.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import platform
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deepreduce.errors import DeepReduceError  # noqa: E402
from deepreduce.network import Network, guard_network, trace_network  # noqa: E402
from deepreduce.network.trial import run_eval  # noqa: E402
from deepreduce.transforms import cull  # noqa: E402
from deepreduce.utils.files import write_text  # noqa: E402
from tests.helpers.independent import executed_relus  # noqa: E402

SIZES = (64, 96, 128, 160, 192, 224)
"""Heights and widths to try, before the network's own."""

RIGHT, REFUSED, FAILS, LIMIT, NO_RELU = "right", "refused", "fails", "limit", "no ReLU"
VERDICTS = {
    RIGHT: "counted, checked in evaluation and training mode, culled and trained for a step",
    REFUSED: "refused in one line",
    FAILS: "failed at one of the steps",
    LIMIT: "not finished within the limits of memory and time",
}


# -- one network, in a process of its own -----------------------------------------------------------------------


def build(name: str, device: str) -> nn.Module:
    """Return timm's network with random weights from a fixed seed."""
    import timm

    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def described(name: str) -> dict[str, Any]:
    """Return a network's own input shape, its number of parameters, and the ReLUs that execute for one image."""
    import timm

    device = "meta"
    try:
        model = build(name, device)
    except Exception:  # its constructor computes with values
        device = "cpu"
        model = build(name, device)
    shape = tuple(model.pretrained_cfg.get("input_size") or timm.models.get_pretrained_cfg(name).input_size)
    image = torch.empty((1, *shape), device=device) if device == "meta" else torch.zeros((1, *shape))
    relus = run_eval(model, image, count=True).relus
    return {"shape": list(shape), "parameters": sum(p.numel() for p in model.parameters()), "relus": relus}


def measured(name: str, shape: Sequence[int]) -> dict[str, Any]:
    """Return every value of the table for one network; `stopped` says at which step it was refused or failed."""
    own = (int(shape[0]), int(shape[1]), int(shape[2]))
    found: dict[str, Any] = {"steps": []}
    try:
        for step, values in _steps(name, own):
            found["steps"].append(step)
            found |= values
        found["verdict"] = RIGHT
    except DeepReduceError as error:
        found |= {"verdict": REFUSED, "reason": str(error)}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        found |= {"verdict": FAILS, "reason": " ".join(reason.split())[:400]}
    return found


def _steps(name: str, own: tuple[int, int, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    module = build(name, "cpu")
    network = trace_network(module, own, name=name)
    yield (
        "traced",
        {
            "relu_count": network.relu_count,
            "stages": list(network.stage_relu_counts.values()),
            "kinds": sorted({site.kind for site in network.sites}),
            "unsupported": dict(network.unsupported),
        },
    )
    size = _smallest(name, module, own)
    network = trace_network(module, (own[0], *size), name=name)
    report = guard_network(network, module)
    yield "ran", {"size": size[0], "guard": report.text(), "notes": list(report.notes)}
    if report.failure is not None or report.untrainable is not None:
        raise DeepReduceError(report.failure or report.untrainable)
    yield "guarded", {"guard_seconds": round(report.seconds, 2), "hidden": report.relu_count - network.relu_count}
    stage = next(stage for stage, count in network.stage_relu_counts.items() if count)
    culled = cull(network, [stage])
    left = network.relu_count - network.stage_relu_counts[stage]
    hidden = report.relu_count - network.relu_count
    executed = sum(executed_relus(culled.as_module(), culled.input_shape))
    if not culled.relu_count == left == executed - hidden:
        raise AssertionError(f"culling {stage} leaves {culled.relu_count} ReLUs; {left} expected, {executed} execute")
    yield "culled", {}
    _train(culled)
    yield "trained", {}


def _smallest(name: str, module: nn.Module, own: tuple[int, int, int]) -> tuple[int, int]:
    """Return the smallest height and width at which the network runs in both modes without starving a layer."""
    for size in (*((s, s) for s in SIZES if s < min(own[1:])), own[1:]):
        module.eval()
        try:
            with torch.no_grad():
                module(torch.zeros((1, own[0], *size)))
            if not trace_network(module, (own[0], *size), name=name).starved_layers:
                return size
        except Exception:
            if size == own[1:]:
                raise
    return own[1:]


def _train(network: Network) -> None:
    """Take one step of SGD; raise if a gradient is not finite, or a running statistic does not move."""
    torch.manual_seed(0)
    module = network.as_module().train()
    before = {key: b.clone() for key, b in module.named_buffers() if key.endswith(("running_mean", "running_var"))}
    images, labels = torch.randn(2, *network.input_shape), torch.arange(2)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    logits = module(images)
    F.cross_entropy(logits, labels).backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not gradients or not all(bool(g.isfinite().all()) for g in gradients):
        raise AssertionError("the gradient of the culled network is not finite")
    optimizer.step()
    after = dict(module.named_buffers())
    still = [key for key, value in before.items() if torch.equal(value, after[key])]
    if still:
        raise AssertionError(f"{len(still)} of {len(before)} running statistics do not move, as {still[0]}")


# -- processes ---------------------------------------------------------------------------------------------------


def forked(work: Callable[[], dict[str, Any]], *, gigabytes: float, seconds: float) -> dict[str, Any]:
    """Return what `work` returns in a process of its own, or which limit it passed."""
    begin, peak = time.perf_counter(), 0.0
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads; the child uses none
        child = os.fork()
    if child == 0:
        os.close(reader)
        warnings.simplefilter("ignore")
        try:
            value = work()
        except BaseException as error:  # anything a network raises
            value = {"verdict": FAILS, "reason": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
        with os.fdopen(writer, "w") as pipe:
            json.dump(value, pipe)
        os._exit(0)
    os.close(writer)
    limit = None
    while limit is None and os.waitpid(child, os.WNOHANG)[0] == 0:
        peak = max(peak, _resident_gigabytes(child))
        if peak > gigabytes:
            limit = f"more than {gigabytes:g} GB of memory"
        elif time.perf_counter() - begin > seconds:
            limit = f"more than {seconds:g} s"
        time.sleep(0.05)
    if limit is not None:
        os.kill(child, 9)
        os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    if limit is not None:
        found: dict[str, Any] = {"verdict": LIMIT, "reason": limit}
    else:
        found = json.loads(text) if text else {"verdict": FAILS, "reason": "the process died"}
    return found | {"seconds": round(time.perf_counter() - begin, 1), "peak_gb": round(peak, 2)}


def _resident_gigabytes(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found.group(1)) / 1e6 if found else 0.0


class Records:
    """Lines of JSON in a file, one per network; of several of one name the last counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.by_name: dict[str, dict[str, Any]] = {}
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # a line that a kill cut off
                continue
            self.by_name[record["name"]] = record

    def add(self, record: dict[str, Any]) -> None:
        """Append a record, which is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.by_name[record["name"]] = record


# -- the page ----------------------------------------------------------------------------------------------------

INTRODUCTION = """\
Each network of timm that executes ReLUs (or ReLU6s) is built with random weights and goes through five steps:

1. *counted*: it is traced, and the ReLUs of its sites at its own size are those in the table.
2. *checked*: the traced graph is compared with the network itself (`deepreduce/network/guard.py`) on two random
   images: equal logits in evaluation and in training mode, equal gradients of every parameter after one backward
   pass, running statistics that move alike, and as many ReLUs that execute as are counted.
3. *culled*: the ReLUs of its first stage are dropped; as many are left, and execute, as expected.
4. *trained*: the culled network takes one step of SGD with a finite gradient.
5. *statistics*: every running mean and variance moves in that step.

*per stage* are the ReLUs of S1, S2, ... at the network's own size; *others* are its other non-linearities.
*run at* is the smallest of 64, 96, 128, 160, 192 and 224 pixels, or else its own size, at which it runs; steps 2 to 5
are taken at that size. Networks that execute no ReLU are left out."""


def page(models: dict[str, dict[str, Any]], results: dict[str, dict[str, Any]], limits: str) -> str:
    """Return the text of docs/timm.md."""
    import timm

    with_relus = [name for name, m in models.items() if m.get("relus")]
    unknown = {name: m for name, m in models.items() if "relus" not in m}
    done = {name: results[name] for name in with_relus if name in results}
    counts = collections.Counter(found["verdict"] for found in done.values())
    lines = [
        "# timm's networks with ReLUs",
        "",
        f"Written by `python scripts/timm_table.py`; timm {timm.__version__}, torch {torch.__version__},"
        f" {datetime.date.today()}, one thread of {os.cpu_count()} shared cores ({platform.machine()}), {limits}.",
        "",
        INTRODUCTION,
        "",
        f"timm has {len(timm.list_models())} networks; {len(models)} were looked at, {len(with_relus)} of which"
        f" execute ReLUs. {len(done)} of those were run:",
        "",
        "| outcome | networks |",
        "|---|---|",
        *(f"| {text} | {counts[verdict]} |" for verdict, text in VERDICTS.items()),
        "",
        "| network | size | ReLUs | per stage | others | run at | check, s |",
        "|---|---|---|---|---|---|---|",
        *(_row(name, models[name], found) for name, found in sorted(done.items()) if found["verdict"] == RIGHT),
    ]
    for verdict, heading in ((REFUSED, "Refused"), (FAILS, "Failed"), (LIMIT, "Beyond the limits")):
        chosen = {name: found for name, found in done.items() if found["verdict"] == verdict}
        if chosen:
            lines += ["", f"## {heading}", "", *_by_reason(chosen)]
    waiting = [name for name in with_relus if name not in results]
    if waiting:
        lines += ["", f"## Not run yet ({len(waiting)})", "", ", ".join(sorted(waiting)) + "."]
    if unknown:
        lines += ["", f"## Could not be built or run by themselves ({len(unknown)})", "", *_by_reason(unknown)]
    return "\n".join(lines) + "\n"


def _row(name: str, model: dict[str, Any], found: dict[str, Any]) -> str:
    caps = " (ReLU6)" if found["kinds"] == ["relu6"] else ""
    cells = [
        name,
        "x".join(map(str, dict.fromkeys(model["shape"][1:]))),
        f"{found['relu_count']:,}{caps}",
        " · ".join(f"{count:,}" for count in found["stages"]),
        ", ".join(f"{kind} x{count}" for kind, count in found["unsupported"].items()) or "-",
        str(found["size"]),
        f"{found['guard_seconds']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _by_reason(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line per reason, with its networks; reasons that differ in names and numbers alone are one."""
    groups: dict[str, list[str]] = collections.defaultdict(list)
    texts: dict[str, str] = {}
    for name, record in sorted(found.items()):
        reason = record["reason"].replace(name, "NETWORK")
        key = re.sub(r"[\w.]*\d[\w.,]*", "#", reason)[:120]
        groups[key].append(name)
        texts.setdefault(key, reason)
    ordered = sorted(groups, key=lambda key: (-len(groups[key]), key))
    return [f"- {len(groups[key])}: {texts[key][:300]} ({', '.join(groups[key])})" for key in ordered]


# -- the campaign ------------------------------------------------------------------------------------------------


def _rarely_has_relus(name: str) -> bool:
    """Return True for a network whose source does not mention a ReLU; such networks are looked at last."""
    import timm

    source = sys.modules[timm.models.model_entrypoint(name).__module__].__file__
    return source is not None and "relu" not in Path(source).read_text(encoding="utf-8").lower()


def main() -> None:
    """Describe every network, run those with ReLUs, smallest first, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "timm")
    parser.add_argument("--only", nargs="*", default=None, metavar="NAME")
    parser.add_argument("--again", choices=list(VERDICTS), action="append", default=[])
    parser.add_argument(
        "--minutes",
        type=float,
        default=None,
        help="stop after this time, half of which at most goes into finding those with ReLUs",
    )
    parser.add_argument("--gigabytes", type=float, default=24.0, help="memory of one network")
    parser.add_argument("--seconds", type=float, default=600.0, help="time of one network")
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()
    import timm

    torch.set_num_threads(1)
    models, results = Records(options.results / "models.jsonl"), Records(options.results / "results.jsonl")
    end = time.monotonic() + 60 * options.minutes if options.minutes is not None else float("inf")
    names = options.only or sorted(timm.list_models(), key=_rarely_has_relus)
    limits = {"gigabytes": options.gigabytes, "seconds": options.seconds}
    half = end - 30 * options.minutes if options.minutes is not None else end
    for name in () if options.write_only else names:
        if name not in models.by_name and time.monotonic() < half:
            models.add({"name": name} | forked(lambda name=name: described(name), **limits))
    queue = [name for name in names if models.by_name.get(name, {}).get("relus")]
    queue.sort(key=lambda name: models.by_name[name]["parameters"] * models.by_name[name]["shape"][1] ** 2)
    for number, name in enumerate(() if options.write_only else queue, start=1):
        known = results.by_name.get(name)
        if (known is not None and known["verdict"] not in options.again) or time.monotonic() > end:
            continue
        shape = models.by_name[name]["shape"]
        found = {"name": name} | forked(lambda name=name, shape=shape: measured(name, shape), **limits)
        results.add(found)
        reason = f": {found['reason'][:150]}" if "reason" in found else ""
        print(f"[{number}/{len(queue)}] {name}: {found['verdict']} ({found['seconds']} s){reason}", flush=True)
    if options.only is None:
        text = page(
            models.by_name, results.by_name, f"at most {options.gigabytes:g} GB and {options.seconds:g} s each"
        )
        write_text(ROOT / "docs" / "timm.md", text)
        print("docs/timm.md:", dict(collections.Counter(r["verdict"] for r in results.by_name.values())))


if __name__ == "__main__":
    main()
