"""Published points of ReLU count and accuracy, to plot next to a frontier."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepreduce.errors import UserError, unknown_name

_COLUMNS = ("method", "year", "dataset", "backbone", "relu_count", "accuracy_pct", "latency_s", "source")


@dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """One network of a paper: ReLUs for one image, test accuracy (a fraction), latency in seconds if stated."""

    method: str
    year: int
    dataset: str
    backbone: str
    relu_count: int
    test_accuracy: float
    latency_s: float | None
    source: str


def read_published_csv(path: Path | str) -> list[PublishedPoint]:
    """Read the points of a CSV file, in the file's order.

    Its columns are method, year, dataset, backbone, relu_count, accuracy_pct (in percent), latency_s (may be
    empty) and source; others are ignored. Raises `UserError` for a file that can't be read, and with the line's
    number for a missing column or a malformed cell.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read the published points of {path}: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    points: list[PublishedPoint] = []
    try:
        for cells in reader:
            if not header:
                header = cells
                missing = [name for name in _COLUMNS if name not in header]
                if missing:
                    raise UserError(f"the header lacks the columns {', '.join(missing)}")
            elif cells:
                points.append(_point(header, cells))
    except (csv.Error, UserError) as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error
    if not header:
        raise UserError(f"{path}, line 1: the file is empty; its first line names the columns")
    return points


def _point(header: list[str], cells: list[str]) -> PublishedPoint:
    if len(cells) != len(header):
        raise UserError(f"the row has {len(cells)} cells, the header {len(header)}; give a cell for each column")
    row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    for name in ("method", "dataset"):
        if not row[name]:
            raise UserError(f"{name} is empty")
    accuracy = _number(row, "accuracy_pct")
    if accuracy > 100:
        raise UserError(f"accuracy_pct is {row['accuracy_pct']!r}; give a percentage, at most 100")
    return PublishedPoint(
        method=row["method"],
        year=_whole_number(row, "year"),
        dataset=row["dataset"],
        backbone=row["backbone"],
        relu_count=_whole_number(row, "relu_count"),
        test_accuracy=accuracy / 100,
        latency_s=_number(row, "latency_s") if row["latency_s"] else None,
        source=row["source"],
    )


def _number(row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{name} is {row[name]!r}; give a finite number, 0 or more")
    return value


def _whole_number(row: dict[str, str], name: str) -> int:
    value = _number(row, name)
    if value != int(value):
        raise UserError(f"{name} is {row[name]!r}; give a whole number")
    return int(value)


def select_published(
    points: Iterable[PublishedPoint],
    *,
    dataset: str | None = None,
    backbone: str | None = None,
    methods: Sequence[str] | None = None,
) -> list[PublishedPoint]:
    """Return the points of one data set, one backbone and some methods; None selects all. Case does not matter.

    Raises `UserError` for a data set, backbone or method without points among those selected so far.
    """
    chosen = list(points)
    if dataset is not None:
        chosen = _filter(chosen, "data set", lambda p: p.dataset, [dataset])
    if backbone is not None:
        chosen = _filter(chosen, "network", lambda p: p.backbone, [backbone])
    if methods is not None:
        chosen = _filter(chosen, "method", lambda p: p.method, methods)
    return chosen


def _filter(
    points: Sequence[PublishedPoint], kind: str, value: Callable[[PublishedPoint], str], wanted: Sequence[str]
) -> list[PublishedPoint]:
    known = sorted({value(p) for p in points})
    for name in wanted:
        if name.casefold() not in (n.casefold() for n in known):
            raise UserError(unknown_name(f"published {kind}", name, known))
    return [p for p in points if value(p).casefold() in {name.casefold() for name in wanted}]


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """The published points to draw in a frontier's plot: a CSV file and a selection of its rows."""

    path: Path
    dataset: str | None = None
    backbone: str | None = None
    methods: tuple[str, ...] | None = None

    def points(self) -> list[PublishedPoint]:
        """Return the selected points. Raises `UserError` for a malformed file and for a selection without points."""
        return select_published(
            read_published_csv(self.path), dataset=self.dataset, backbone=self.backbone, methods=self.methods
        )
