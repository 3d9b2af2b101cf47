"""Build pieces of HTML for notebooks from plain values, escaped, and readable on light and dark backgrounds."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Sequence

_LINE = "border-bottom:1px solid rgba(128,128,128,0.4)"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Collection[str] = ()) -> str:
    """Return a table; columns whose head is one of `texts` are aligned left, all others right, as numbers."""
    styles = [
        f"text-align:{'left' if head in texts else 'right'};padding:2px 10px;font-variant-numeric:tabular-nums"
        for head in heads
    ]
    lines = [_row("th", heads, [f"{style};{_LINE}" for style in styles])]
    lines += [_row("td", row, styles) for row in rows]
    return f'<table style="border-collapse:collapse;margin:6px 0">{"".join(lines)}</table>'


def _row(tag: str, cells: Sequence[str], styles: Sequence[str]) -> str:
    filled = (
        f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for cell, style in zip(cells, styles, strict=True)
    )
    return f"<tr>{''.join(filled)}</tr>"


def paragraph(text: str, *, strong: bool = False) -> str:
    """Return a line of text, in bold if `strong`."""
    return f'<div style="margin:4px 0{";font-weight:600" if strong else ""}">{html.escape(text)}</div>'


def details(summary: str, content: str) -> str:
    """Return HTML content that a click on its summary opens; `content` is inserted as it is."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def png_image(content: bytes, *, description: str) -> str:
    """Return a PNG file as an inline image."""
    data = base64.b64encode(content).decode()
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}"'
        ' style="max-width:100%;width:720px;background:white;border-radius:4px"/>'
    )
