"""Candidates and the frontier as CSV text, read back from it, and as a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from deepreduce.candidate import MEASURED, Candidate, Column, Measurement
from deepreduce.cost.objective import COUNT_OF_RELUS, Objective
from deepreduce.errors import UserError
from deepreduce.frontier import measurement_of
from deepreduce.plan import ReductionPlan
from deepreduce.utils.printable import printable

_FIRST = (
    "plan_id",
    "relu_count",
    "val_accuracy",
    "test_accuracy",
    "train_seconds",
    "label",
    "status",
    "failure",
)
_LAST = (*(name for name in MEASURED if name not in _FIRST), "folder", "plan")
_STAGE = "relus_"
_COSTS = ("latency", "online_bytes", "offline_seconds", "offline_bytes", "rounds")
"""Columns of each preset, named as in latency_cheetah-lan."""
_OK, _FAILED, _DROPPED = "ok", "failed", "dropped"
_STATUSES = (_OK, _FAILED, _DROPPED)

_TABLE_WIDTH = 100


def candidates_csv(candidates: Iterable[Candidate], *, stages: Sequence[str]) -> str:
    """Return all candidates as CSV, by ReLU count descending, then by plan_id.

    Columns: plan_id (`teacher` for the full network), relu_count, val_accuracy, test_accuracy (fractions),
    train_seconds, label, status (`ok`, `failed`, or `dropped` in runs of earlier versions), failure (the reason),
    one `relus_<stage>` for each of `stages`, macs, churn (a fraction), folder, and plan (compact JSON). For each
    preset with cost estimates, sorted, the costs of one image follow: `latency_<preset>` (seconds), `online_bytes_`,
    `offline_seconds_`, `offline_bytes_` and `rounds_<preset>`; unknown costs are empty. The measured cells of a
    failed or dropped candidate are empty. Label and failure are joined to one line. Raises `UserError` if a
    measurement has ReLUs in a stage that `stages` does not list.
    """
    ordered = sorted(candidates, key=lambda c: (-c.relu_count, c.plan_id))
    presets = sorted({preset for candidate in ordered for preset in candidate.cost_estimates})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = [f"{name}_{preset}" for preset in presets for name in _COSTS]
    writer.writerow([*_FIRST, *(_STAGE + stage for stage in stages), *_LAST, *costs])
    for candidate in ordered:
        writer.writerow([*_cells(candidate, stages), *_cost_cells(candidate, presets)])
    return text.getvalue()


def _cost_cells(candidate: Candidate, presets: Sequence[str]) -> list[str]:
    cells: list[str] = []
    for preset in presets:
        estimate = candidate.cost_estimates.get(preset)
        if estimate is None:
            cells += [""] * len(_COSTS)
            continue
        cells += [
            f"{estimate.latency:.6g}", f"{estimate.online_bytes:.0f}", f"{estimate.offline_seconds:.6g}",
            f"{estimate.offline_bytes:.0f}", f"{estimate.rounds:g}",
        ]  # fmt: skip
    return cells


def frontier_csv(front: Iterable[Candidate], *, stages: Sequence[str]) -> str:
    """Return the frontier as CSV, in the columns and the order of `candidates_csv`.

    Raises `UserError` as `candidates_csv` does, and for a candidate without a measurement.
    """
    points = list(front)
    for candidate in points:
        measurement_of(candidate)
    return candidates_csv(points, stages=stages)


def _cells(candidate: Candidate, stages: Sequence[str]) -> list[object]:
    measured = candidate.measurement
    plan = json.dumps(candidate.plan.to_json(), sort_keys=True, separators=(",", ":"))
    row: dict[str, object] = {
        "plan_id": candidate.plan_id,
        "relu_count": candidate.relu_count,
        "label": _one_line(candidate.label),
        "status": _OK if measured is not None else _DROPPED if candidate.is_dropped else _FAILED,
        "failure": _one_line(candidate.failure or ""),
        "folder": candidate.folder,
        "plan": plan,
    }
    columns = (*_FIRST, *(_STAGE + stage for stage in stages), *_LAST)
    if measured is not None:
        unlisted = sorted(set(measured.stage_relu_counts) - set(stages))
        if unlisted:
            raise UserError(
                f"candidate {candidate.plan_id} has ReLUs in {', '.join(unlisted)}; "
                f"the table's stages are {', '.join(stages) or 'none'}"
            )
        row |= {name: format(getattr(measured, name), column.value) for name, column in MEASURED.items()}
        row |= {_STAGE + stage: measured.stage_relu_counts.get(stage, 0) for stage in stages}
    return [row.get(name, "") for name in columns]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read_candidates_csv(text: str) -> list[Candidate]:
    """Read the candidates of `candidates_csv` or `frontier_csv`, in the text's order and to its decimals.

    Their cost estimates are not read: a run's costs.json has them in full. Raises `UserError` with the line's number
    for a missing column or a malformed cell.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    found: list[Candidate] = []
    header: list[str] = []
    try:
        for cells in reader:
            if not header:
                header = _check_header(cells)
            elif cells:
                found.append(_candidate(header, cells))
                if any(c.plan_id == found[-1].plan_id for c in found[:-1]):
                    raise UserError(f"a second row for plan_id {found[-1].plan_id!r}")
    except (csv.Error, UserError) as error:
        raise UserError(f"candidates CSV, line {reader.line_num}: {error}") from error
    if not header:
        raise UserError("candidates CSV, line 1: the file is empty; its first line names the columns")
    return found


def _check_header(cells: list[str]) -> list[str]:
    missing = [name for name in (*_FIRST, *_LAST) if name not in cells]
    if missing:
        raise UserError(f"the header lacks the columns {', '.join(missing)}")
    return cells


def _candidate(header: list[str], cells: list[str]) -> Candidate:
    if len(cells) != len(header):
        raise UserError(f"the row has {len(cells)} cells, the header {len(header)}; give a cell for each column")
    row = dict(zip(header, cells, strict=True))
    if row["status"] not in _STATUSES:
        raise UserError(f"status is {row['status']!r}; give one of {', '.join(_STATUSES)}")
    if not row["plan_id"]:
        raise UserError("plan_id is empty")
    try:
        plan = ReductionPlan.from_json(json.loads(row["plan"]))
    except json.JSONDecodeError as error:
        raise UserError(f"plan is not JSON: {error}") from error
    relu_count = _whole_number(row, "relu_count")
    measurement = None
    if row["status"] == _OK:
        stages = [name for name in header if name.startswith(_STAGE)]
        values: dict[str, Any] = {name: _READERS[column](row, name) for name, column in MEASURED.items()}
        measurement = Measurement(
            relu_count=relu_count,
            stage_relu_counts={name.removeprefix(_STAGE): _whole_number(row, name) for name in stages},
            **values,
        )
    return Candidate(
        plan_id=row["plan_id"],
        plan=plan,
        label=row["label"],
        relu_count=relu_count,
        folder=row["folder"],
        measurement=measurement,
        failure=row["failure"] or None,
        is_dropped=row["status"] == _DROPPED,
    )


def _whole_number(row: dict[str, str], name: str) -> int:
    # int() would also accept "1_000" and " 7", which `candidates_csv` never writes
    if not (row[name].isascii() and row[name].isdigit()):
        raise UserError(f"{name} is {row[name]!r}; give a whole number, 0 or more")
    return int(row[name])


def _number(row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{name} is {row[name]!r}; give a finite number, 0 or more")
    return value


def _fraction(row: dict[str, str], name: str) -> float:
    value = _number(row, name)
    if value > 1:
        raise UserError(f"{name} is {row[name]!r}; give a fraction in [0, 1], not a percentage")
    return value


_READERS: Mapping[Column, Callable[[dict[str, str], str], float]] = {
    Column.COUNT: _whole_number,
    Column.FRACTION: _fraction,
    Column.SECONDS: _number,
}


def frontier_table(front: Iterable[Candidate], *, teacher: Candidate, objective: Objective = COUNT_OF_RELUS) -> str:
    """Return the frontier as an aligned text table of at most 100 columns, without a final newline.

    Rows are sorted by cost descending. Columns: the cost by the objective (ReLUs, latency or bytes); the teacher's
    cost divided by it; ReLUs for one image if the cost is another; validation and test accuracy in percent; test
    accuracy minus the teacher's, in points; seconds of training; label and plan_id. A teacher that is not on the
    frontier comes last. Raises `UserError` for a candidate or teacher without a measurement or without that cost.
    """
    heads, rows = frontier_rows(front, teacher=teacher, objective=objective)
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    network = heads.index("network")
    spare = _TABLE_WIDTH - sum(widths) - 2 * (len(heads) - 1)
    widths[network] = max(widths[network] + min(spare, 0), len("network"))
    lines = []
    for row in [heads, *rows]:
        row[network] = _shorten(row[network], widths[network])
        cells = [
            cell.ljust(width) if i >= network else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def frontier_rows(
    front: Iterable[Candidate], *, teacher: Candidate, objective: Objective = COUNT_OF_RELUS
) -> tuple[list[str], list[list[str]]]:
    """Return the column heads and the rows of cells of `frontier_table`, with its errors."""
    points = sorted(front, key=lambda c: (-objective.cost(c), -c.relu_count, c.plan_id))
    rows = [_table_row(candidate, teacher, objective) for candidate in points]
    if not any(candidate.is_teacher for candidate in points):
        rows.append(_table_row(teacher, teacher, objective))
    costs = [objective.noun, objective.comparative, *([] if objective.counts_relus else ["ReLUs"])]
    return [*costs, "val %", "test %", "vs teacher", "seconds", "network", "plan_id"], rows


def _table_row(candidate: Candidate, teacher: Candidate, objective: Objective) -> list[str]:
    measured, full = measurement_of(candidate), measurement_of(teacher)
    cost, whole = objective.cost(candidate), objective.cost(teacher)
    times = f"{whole / cost:.1f}x" if cost else "-"
    points = 100 * (measured.test_accuracy - full.test_accuracy)
    return [
        objective.cell(cost),
        times,
        *([] if objective.counts_relus else [f"{candidate.relu_count:,}"]),
        f"{100 * measured.val_accuracy:.2f}",
        f"{100 * measured.test_accuracy:.2f}",
        "-" if candidate.is_teacher else f"{points:+.2f}",
        f"{measured.train_seconds:,.0f}",
        printable(_one_line(candidate.label)),
        candidate.plan_id,
    ]


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."
