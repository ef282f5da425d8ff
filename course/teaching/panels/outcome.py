"""What one rounding did to one number, as facts and as a clause for learners; every panel tells it the same way."""

import math
from dataclasses import dataclass
from fractions import Fraction

from course.numerics.formats import FloatFormat

from .parts import decimal, is_finite, power, ulps


@dataclass(frozen=True)
class Outcome:
    """A real `source` rounded into `fmt`: the `code` (None where the format has no NaN) and its `value` (a float or None).

    `kind` is one of exact, inexact, tie, underflow, overflow, unsigned (-0 became 0), nan, none. `error` is value - source as an exact
    Fraction where both are finite, and `error_ulps` the same in ulps of the value; None otherwise.
    """

    fmt: FloatFormat
    source: Fraction | float
    code: int | None
    value: float | None
    kind: str
    error: Fraction | None
    error_ulps: Fraction | None


def round_into(fmt: FloatFormat, source, rounding="nearest-even", overflow="ieee", draw=None) -> Outcome:
    """Round a real number (Fraction, or float for ±Inf, NaN, -0) into a format.

    >>> from course.numerics.formats import FP16
    >>> round_into(FP16, Fraction(1) + Fraction(1, 2048)).kind, round_into(FP16, Fraction(1, 10)).error_ulps
    ('tie', Fraction(-2, 5))
    """
    try:
        code = fmt.encode(source, rounding, overflow, draw)
    except ValueError:
        if source == source:
            raise
        return Outcome(fmt, source, None, None, "none", None, None)
    return judge(fmt, source, code)


def judge(fmt: FloatFormat, source, code: int) -> Outcome:
    """Say what happened when `source` became `code`."""
    value = fmt.decode(code)
    if source != source:
        return Outcome(fmt, source, code, value, "nan" if value != value else "none", None, None)
    if not is_finite(source):
        return Outcome(fmt, source, code, value, "exact" if value == source else "overflow", None, None)
    if not math.isfinite(value):
        return Outcome(fmt, source, code, value, "nan" if source < 0 and not fmt.signed else "overflow", None, None)
    error = Fraction(value) - Fraction(source)
    kind = _kind(fmt, source, value, error)
    return Outcome(fmt, source, code, value, kind, error, error / Fraction(fmt.ulp(value)))


def _kind(fmt, source, value, error):
    if not error:
        return "unsigned" if str(source) == "-0.0" != str(value) else "exact"
    if abs(source) > fmt.max and _passes_the_end(fmt, abs(error)):
        return "overflow"
    if not value:
        return "underflow"
    below, above = fmt.neighbours(source)
    if abs(source) > fmt.max:
        return "tie" if 2 * abs(error) == fmt.ulp(fmt.max) else "inexact"
    if below is None or above is None:
        return "inexact"
    return "tie" if source - Fraction(below) == Fraction(above) - source else "inexact"


def _passes_the_end(fmt, excess):
    """Whether a number so far beyond the largest one would have been rounded away from it, had the format gone on."""
    half = Fraction(fmt.ulp(fmt.max)) / 2
    return excess > half or (excess == half and fmt.encode(fmt.max) % 2 == 1)


def is_subnormal(fmt: FloatFormat, value) -> bool:
    """Whether a value lies below the smallest normal number without being zero."""
    return value is not None and 0 < abs(value) < fmt.min_normal


def clause(outcome: Outcome) -> str:
    """What became of the number, as the end of a sentence that begins with the format's name.

    >>> from course.numerics.formats import E4M3, FP16
    >>> clause(round_into(FP16, Fraction(1, 10)))
    'comes to 0.0999755859375, 2/5 ulp too low'
    >>> clause(round_into(E4M3, Fraction(1000)))
    'overflows to NaN, for it has no Inf and ends at 448'
    """
    return _CLAUSES[outcome.kind](outcome)


def _exact(outcome):
    if not is_finite(outcome.source):
        return f"has a code for {decimal(outcome.source)}"
    return "holds it exactly" + (", as a subnormal" if is_subnormal(outcome.fmt, outcome.value) else "")


def _off(outcome):
    side = "high" if outcome.error > 0 else "low"
    return f"comes to {decimal(outcome.value, 20)}, {ulps(abs(outcome.error_ulps)).lstrip('+')} too {side}"


def _inexact(outcome):
    fmt = outcome.fmt
    if outcome.source == 0:
        return f"has no zero and gives its smallest value, {power(-fmt.bias)}"
    return _off(outcome) + (" (a subnormal: fewer bits are left)" if is_subnormal(fmt, outcome.value) else "")


def _underflow(outcome):
    fmt = outcome.fmt
    least = fmt.min_subnormal or fmt.min_normal
    word = "exactly half" if abs(Fraction(outcome.source)) * 2 == Fraction(least) else "less than half"
    return f"loses it: it is {word} of the smallest number, {power(round(math.log2(least)))}, and becomes 0 (underflow)"


def _overflow(outcome):
    fmt, value = outcome.fmt, outcome.value
    if value != value:
        return f"overflows to NaN, for it has no Inf and ends at {decimal(fmt.max, 12)}"
    if math.isinf(value):
        return f"overflows to {decimal(value)}, for it ends at {decimal(fmt.max, 12)}"
    return f"stops at {decimal(value, 12)}, its last number (it saturates)"


_CLAUSES = {
    "exact": _exact,
    "inexact": _inexact,
    "tie": lambda outcome: _off(outcome) + ": a tie, and of two equally near numbers the even one is taken",
    "underflow": _underflow,
    "overflow": _overflow,
    "unsigned": lambda outcome: "has no −0 and gives 0",
    "nan": lambda outcome: "has no sign, so it gives NaN" if outcome.source == outcome.source else "has codes for NaN",
    "none": lambda outcome: "has no code for NaN",
}
