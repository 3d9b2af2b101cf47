"""Print a `PrivateRun`: tables for a terminal, and a CSV table of its layers."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from deepreduce.cost.link import Link
from deepreduce.private.approximations import describe
from deepreduce.utils.printable import printable

if TYPE_CHECKING:
    from deepreduce.private.result import OverLink, PrivateRun

COUNTS = ("bytes", "serial_bytes", "sent_messages", "messages")
"""All quantities of a `Query` but its seconds."""


def text_of(run: PrivateRun, link: Link) -> str:
    """Return tables for a terminal: agreement with PyTorch, cost over `link`, cost per kind and per layer."""
    lines = [*_summary(run, link), "", _row("kind", "layers", "seconds", "", "", "bytes", "messages")]
    lines += [_row(c.kind, c.layers, f"{c.seconds:.4f}", "", "", c.bytes, c.messages) for c in run.kinds]
    lines += ["", _row("layer", "kind", "seconds", "low", "high", "bytes", "messages")]
    for layer in run.layers:
        spread = layer.seconds
        median, low, high = (f"{value:.4f}" for value in (spread.median, spread.low, spread.high))
        lines.append(_row(layer.name, layer.kind, median, low, high, layer.bytes, layer.messages))
    return "\n".join(lines)


def csv_of(run: PrivateRun) -> str:
    """Return a CSV table with one row per layer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["name", "kind", "seconds", "seconds_low", "seconds_high", "repeats", *COUNTS, "protocol", "batch"]
    )
    for layer in run.layers:
        spread = layer.seconds
        seconds = [f"{value:.6f}" for value in (spread.median, spread.low, spread.high)]
        counts = [getattr(layer, count) for count in COUNTS]
        writer.writerow([layer.name, layer.kind, *seconds, spread.count, *counts, run.protocol.label, run.batch])
    return text.getvalue()


def _summary(run: PrivateRun, link: Link) -> list[str]:
    agreement, seconds = run.agreement, run.seconds
    lines = [
        f"{printable(run.network)}: {run.relu_count:,} ReLUs under {run.protocol.label}",
        f"same prediction as PyTorch on {agreement.same_argmax} of {agreement.images} images; logits differ by at"
        f" most {agreement.max_abs_error:.3g} (largest: {agreement.max_abs_logit:.3g})",
        *describe(run.approximations),
        f"a query{_of_images(run)} over loopback: {seconds.median:.3f} s, {seconds.low:.3f} to {seconds.high:.3f} in"
        f" {seconds.count} queries; {_amount(run, 'bytes')}, {_amount(run, 'messages')} one after another",
        *_per_image(run),
        f"setup, once: {run.setup_seconds:.1f} s",
    ]
    if link.computed:
        seconds_over = run.seconds_over(link)
        each = "" if run.batch == 1 else f" ({seconds_over / run.batch:.3f} s an image)"
        lines.append(f"a query over {link.label}: {seconds_over:.3f} s{each}, computed from that, not measured")
    if run.over_link is not None:
        lines.append(_over_link(run.over_link, run.messages))
    return lines


def _of_images(run: PrivateRun) -> str:
    return "" if run.batch == 1 else f" of {run.batch} images"


def _per_image(run: PrivateRun) -> list[str]:
    """Return a line about each image's part of a query; none where a query is of one image."""
    if run.batch == 1:
        return []
    return [f"an image's part of it: {run.seconds.median / run.batch:.3f} s, {run.bytes / run.batch:,.0f} bytes"]


def _over_link(found: OverLink, messages: int) -> str:
    seconds = found.seconds
    spread = f"{seconds.low:.3f} to {seconds.high:.3f} in {seconds.count} queries"
    if found.delays:
        return f"over the shaped link: {seconds.median:.3f} s, {spread}"
    return (
        f"over the shaped link, with its bandwidth only: {seconds.median:.3f} s, {spread}; with the delay, computed"
        f" because the kernel has no netem: {found.total(messages):.3f} s"
    )


def _amount(run: PrivateRun, name: str) -> str:
    """Return the median of a query's `name` (bytes or messages), with the range if it varies."""
    amounts = [getattr(query, name) for query in run.queries]
    varies = f" ({min(amounts):,} to {max(amounts):,})" if min(amounts) != max(amounts) else ""
    return f"{getattr(run, name):,}{varies} {name}"


def _row(name: str, kind: str | int, seconds: str, low: str, high: str, sent: str | int, messages: str | int) -> str:
    counts = [f"{value:,}" if isinstance(value, int) else value for value in (sent, messages)]
    return f"{printable(name)[-40:]:<40} {kind:<12} {seconds:>9} {low:>9} {high:>9} {counts[0]:>14} {counts[1]:>8}"
