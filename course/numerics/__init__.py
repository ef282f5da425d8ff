"""What a number is: formats, codes, rounding. Pure Python until the first tensor is rounded."""

from .explain import Explanation, exact_decimal, explain
from .formats import (
    BF16, E2M1, E2M3, E3M2, E4M3, E4M3FNUZ, E5M2, E5M2FNUZ, E8M0, FORMATS, FP16, FP32, FP64, TF32,
    FloatFormat, parse_number,
)

__all__ = [
    "BF16", "E2M1", "E2M3", "E3M2", "E4M3", "E4M3FNUZ", "E5M2", "E5M2FNUZ", "E8M0", "FORMATS", "FP16", "FP32", "FP64",
    "TF32", "Explanation", "FloatFormat", "exact_decimal", "explain", "parse_number", "round_rows", "round_to",
]


def __getattr__(name):  # torch is loaded with the first name that needs it
    if name in ("round_to", "round_rows"):
        from . import rounding

        return getattr(rounding, name)
    raise AttributeError(f"module 'course.numerics' has no attribute {name!r}")
