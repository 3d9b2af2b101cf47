"""Pieces of HTML: escaped, aligned, complete."""

from __future__ import annotations

import re

import pytest

from deepreduce.utils.html import details, paragraph, png_image, table


def test_no_text_becomes_markup() -> None:
    evil = '<img src=x onerror="alert(1)">&'
    for made in (
        table([evil], [[evil]]),
        paragraph(evil),
        details(evil, ""),
        png_image(b"", description=evil),
    ):
        assert evil not in made and "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;" in made


def test_numbers_are_aligned_right_and_texts_left() -> None:
    made = table(["name", "count"], [["a", "1"]], texts=["name"])
    assert re.findall(r"text-align:(\w+)", made) == ["left", "right"] * 2


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(["a", "b"], [["1"]])
