"""What every noun of the benchmark is made of: a strict frozen dataclass, and scalar types.

Unknown fields, wrong types, NaN and infinities are refused at construction with a path. Missing is
None or another type, never 0 or -1. Base units.
"""

from datetime import datetime
from typing import Annotated, Literal, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

_T = TypeVar("_T")
_STRICT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def noun(class_: type[_T]) -> type[_T]:
    """Make a class a frozen, keyword-only dataclass that refuses what its fields do not allow."""
    built = dataclass(class_, frozen=True, slots=True, kw_only=True, config=_STRICT)
    return cast("type[_T]", built)


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.\-]{0,95}$")]
Text = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f<>]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _moment(text: str) -> str:
    if not text.isascii():
        raise ValueError("must be written in the digits 0 to 9")
    datetime.fromisoformat(text)  # a day that no calendar has is refused with its reason
    return text


Instant = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"), AfterValidator(_moment)
]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LARGEST_COUNT = 2**53
"""The last whole number to which JSON and floating point count without gaps."""
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Whole = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
MOST_TOKENS = 2**24
"""Positions of a grid. Rules build layers of stated sizes, so sizes have an end that no machine of
today reaches and that arithmetic survives."""
Width = Annotated[int, Field(ge=1, le=2**12)]
"""Heads, or channels of a head; their end has the same reason."""
Number = int | float
Samples = Annotated[tuple[Number, ...], Field(min_length=1)]
Medians = Annotated[tuple[Positive, ...], Field(min_length=1)]
Scalar = bool | int | float | str
DType = Literal["float32", "bfloat16", "float16"]
Passes = Literal["forward", "forward_backward"]
Level = Literal["core", "layer", "model"]
DeviceKind = Literal["cpu", "cuda"]
BatchPolicy = Literal["one", "token_budget", "image_budget", "largest"]
