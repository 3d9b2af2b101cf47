"""Types of config fields: numbers within ranges, and lists that may be given as one text on a command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, field_validator


def _refuse_bool(value: Any) -> Any:
    # pydantic would accept true as 1
    if isinstance(value, bool):
        raise ValueError("needs a number")
    return value


def split_list(value: Any) -> Any:
    """Return the parts of a text such as "S1,S4", or a list of a single number; return other values unchanged."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (int, float)):
        return [value]
    return value


def _check_inverse_of_whole(value: float) -> float:
    inverse = 1 / value
    if not math.isfinite(inverse) or not math.isclose(value * round(inverse), 1, rel_tol=1e-9):
        raise ValueError("is realised as a stride of 1/rho, so give 1, 1/2, 1/3, 1/4, ...")
    return value


Listed = BeforeValidator(split_list)

MOST_WIDTH = 16_384
"""Channels of a first stage; published networks have up to 2,048, and weights grow with the square."""
MOST_BLOCKS = 500
"""Blocks of one stage; ResNet-1202, the deepest of the published, has 200."""
MOST_CLASSES = 1_000_000
MOST_CHANNELS = 4_096
MOST_PIXELS = 8_192
"""Height or width of an image; one of 8,192 x 8,192 pixels in colour takes 805 MB as float32."""
_MOST_CHARACTERS = 4_096  # of a text; as many as a path may have on Linux

Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False, le=1e15)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Scale = Annotated[Real, Field(gt=0, le=1)]
Resolution = Annotated[Scale, AfterValidator(_check_inverse_of_whole)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1, le=10**9)]
WholeNotNegative = Annotated[Whole, Field(ge=0, le=10**12)]
StageName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$", max_length=64)]


def check_text(value: Any) -> Any:
    """Return the value. Raises `ValueError` for texts in it that no file, path or terminal can hold."""
    if isinstance(value, str):
        if len(value) > _MOST_CHARACTERS:
            raise ValueError(f"has {len(value):,} characters; give at most {_MOST_CHARACTERS:,}")
        strange = next((c for c in value if c == "\0" or "\ud800" <= c <= "\udfff"), None)
        if strange is not None:
            raise ValueError(f"holds {strange!r}, which is no character of a text; give text in UTF-8")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_text(key)
            check_text(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_text(inner)
    return value


class CheckedTexts(BaseModel):
    """The base of config sections: every text in them can be written to a file and used as a path."""

    @field_validator("*")
    @classmethod
    def _check_texts(cls, value: Any) -> Any:
        return check_text(value)
