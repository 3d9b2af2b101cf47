"""The common style of the figures: colours, sizes, a ruler for text, and the bytes of a finished figure."""

from __future__ import annotations

import io
import textwrap
from typing import Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish
BLUE, VERMILLION = "#0072B2", "#D55E00"
INK, GREY, FAINT, GRID = "#222222", "#666666", "#B4B4B4", "#E9E9E9"

DPI = 150
"""Resolution at which figures are laid out and, by default, saved, in pixels per inch."""

TITLE_SIZE, TEXT_SIZE, LABEL_SIZE, SMALL_SIZE = 11.0, 9.0, 8.0, 7.5


def blank_figure(width_inches: float) -> Figure:
    """Return a white figure, built without pyplot, on which text can be measured; the caller sets its height."""
    figure = Figure(figsize=(width_inches, 4.0), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)  # attaches itself
    return figure


def one_line(text: str) -> str:
    """Replace every run of white space by one blank."""
    return " ".join(text.split())


class Ruler:
    """A ruler for text as the figure draws it, in pixels at `DPI`."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure

    def extent(self, text: str, size: float, *, weight: str = "normal") -> tuple[float, float]:
        """Return the width and height of a text, in pixels."""
        probe = self._figure.text(
            0, 0, text, fontsize=size, weight=weight, linespacing=LINE_SPACING, parse_math=False
        )
        box = probe.get_window_extent()
        probe.remove()
        return float(box.width), float(box.height)

    def fit(self, text: str, inches: float, size: float, *, weight: str = "normal") -> str:
        """Return the text on one line, shortened with an ellipsis if it is wider than `inches`."""
        text = kept = one_line(text)
        while kept and self.extent(text, size, weight=weight)[0] > inches * DPI:
            kept = kept[:-1].rstrip(" ,")
            text = kept + "…"
        return text

    def wrap(self, text: str, inches: float, size: float) -> list[str]:
        """Break the text into lines no wider than `inches`, if possible."""
        for columns in range(len(text), 20, -4):
            lines = textwrap.wrap(text, columns)
            if max(self.extent(line, size)[0] for line in lines) <= inches * DPI:
                return lines
        return textwrap.wrap(text, 20)


LINE_SPACING = 1.15
"""Line spacing of labels of several lines, in heights of a line."""


def figure_bytes(figure: Figure, format: Literal["png", "svg"], *, dpi: int = DPI) -> bytes:
    """Return the content of an image file: the same bytes for the same figure, without dates or versions."""
    names = ("Software",) if format == "png" else ("Date", "Creator")
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "deepreduce", "svg.fonttype": "path"}):
        figure.savefig(content, format=format, dpi=dpi, metadata=dict.fromkeys(names))
    return content.getvalue()
