"""Types of config fields: numbers within ranges, and lists that may be given as one text on a command line."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field


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

Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Scale = Annotated[Real, Field(gt=0, le=1)]
Resolution = Annotated[Scale, AfterValidator(_check_inverse_of_whole)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]
WholeNotNegative = Annotated[Whole, Field(ge=0)]
StageName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]
