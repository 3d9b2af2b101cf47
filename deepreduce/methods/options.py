"""The base of every method's options. Imports pydantic alone, so that a config is read before torch is."""

from __future__ import annotations

from pydantic import ConfigDict

from deepreduce.utils.fields import CheckedTexts


class MethodOptions(CheckedTexts):
    """Options of a method: the section `method` of a config.

    The text below a field describes the field for `deepreduce methods`. A subclass gives each
    option a type and a default; a key that it does not have is refused.
    """

    # a stage of 1 is a text, though YAML reads a number
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, use_attribute_docstrings=True)

    name: str | None = None
    """As `deepreduce methods` lists it; None: `taylor`, `deepreduce` with recipe `paper`, and `levers` for an
    objective other than ReLUs."""
