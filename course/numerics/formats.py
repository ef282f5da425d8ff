"""Floating-point formats as data, with exact scalar encoding and decoding.

A format says how many exponent and mantissa bits it has, where its exponent is centred (the bias) and what
it does with its special codes. Everything else (the largest value, the spacing, the code of a number)
follows, and is computed here with integers and fractions: nothing in this file rounds by accident.

The words: *mantissa bits* are the stored fraction bits (other texts say significand or fraction bits). A
*code* is the integer made of the bits sign, exponent, mantissa. The *magnitude code* is the code without
its sign bit; magnitude codes count upwards in the order of the values they stand for, without gaps, and
this one fact carries all of the rounding below.
"""

import math
import operator
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Rational

ROUNDINGS = ("nearest-even", "toward-zero", "stochastic")
OVERFLOWS = ("ieee", "saturate")

# What the highest codes mean. Suffixes as in LLVM and ml_dtypes: f finite, n NaN only, uz unsigned zero.
SPECIALS = {
    "ieee": "the top exponent holds Inf and NaN (IEEE 754: FP16, BF16, E5M2)",
    "fn": "no Inf; NaN only where all exponent and mantissa bits are 1 (OCP E4M3)",
    "fnuz": "no Inf, no -0; NaN only where -0 would be (E4M3FNUZ, E5M2FNUZ)",
    "finite": "no Inf and no NaN: every code is a number (E3M2, E2M3, E2M1)",
    "exponent-only": "unsigned powers of two, no zero, NaN in the last code (E8M0)",
}


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format: `exponent_bits`, `mantissa_bits`, `bias` and the meaning of its `specials`.

    `bias` defaults to the IEEE 754 rule 2^(exponent_bits-1) - 1 (one more for `"fnuz"`). `specials` is a key
    of `SPECIALS`. Raises `ValueError` for a format that is empty or does not fit in a Python float.
    Sources: IEEE 754-2019; OCP OFP8 1.0 (E4M3, E5M2); OCP MX 1.0 (E3M2, E2M3, E2M1, E8M0).

    >>> tiny = FloatFormat("E3M4", exponent_bits=3, mantissa_bits=4)
    >>> tiny.bits, tiny.max, tiny.min_normal, tiny.min_subnormal, tiny.eps
    (8, 15.5, 0.25, 0.015625, 0.0625)
    >>> hex(FP16.encode(1.5)), FP16.decode(0x3E00)
    ('0x3e00', 1.5)
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int = None
    specials: str = "ieee"
    signed: bool = True

    def __post_init__(self):
        e, m = self.exponent_bits, self.mantissa_bits
        if self.specials not in SPECIALS:
            raise ValueError(f"specials={self.specials!r} is unknown: choose one of {', '.join(SPECIALS)}")
        if not (isinstance(e, int) and 2 <= e <= 11):
            raise ValueError(f"exponent_bits={e!r}: choose a whole number from 2 to 11")
        if not (isinstance(m, int) and 0 <= m <= 52):
            raise ValueError(f"mantissa_bits={m!r}: choose a whole number from 0 to 52")
        if (self.specials == "exponent-only") == self.signed:
            raise ValueError("signed=False belongs to specials='exponent-only', and only to it")
        if self.specials == "exponent-only" and m:
            raise ValueError(f"mantissa_bits={m}: an exponent-only format has none")
        if self.bias is None:
            object.__setattr__(self, "bias", (1 << (e - 1)) - (0 if self.specials == "fnuz" else 1))
        if not isinstance(self.bias, int):
            raise ValueError(f"bias={self.bias!r}: choose a whole number, or leave it out for the usual one")
        if (self._max_code >> m) - self.bias > 1023 or self._min_exponent - m < -1074:
            raise ValueError(f"bias={self.bias} puts {self.name} outside the range of a Python float (FP64)")
        fields = (self.name, e, m, self.bias, self.specials)
        object.__setattr__(self, "_hash", hash(fields))  # formats are keys of caches in inner loops

    def __hash__(self):
        return self._hash

    def __reduce__(self):  # hashes of text differ between processes: a format is made anew where it arrives
        return FloatFormat, (self.name, self.exponent_bits, self.mantissa_bits, self.bias, self.specials, self.signed)

    # ---- the layout

    @property
    def bits(self) -> int:
        """Width of a code: sign, exponent and mantissa bits together."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def _sign_bit(self) -> int:
        return 1 << (self.exponent_bits + self.mantissa_bits)

    @property
    def _min_exponent(self) -> int:
        """Exponent of the smallest normal number; the subnormals below it share its spacing."""
        return -self.bias if self.specials == "exponent-only" else 1 - self.bias

    @property
    def _max_code(self) -> int:
        """Magnitude code of the largest finite number."""
        top = 1 << (self.exponent_bits + self.mantissa_bits)
        reserved = {"ieee": 1 << self.mantissa_bits, "fn": 1, "exponent-only": 1}
        return top - 1 - reserved.get(self.specials, 0)

    @property
    def inf_code(self) -> int | None:
        """Code of +Inf, or None where the format has no Inf."""
        return self._max_code + 1 if self.specials == "ieee" else None

    @property
    def nan_code(self) -> int | None:
        """Code of the canonical (positive, quiet) NaN, or None where the format has no NaN."""
        if self.specials == "ieee":
            return self.inf_code | (1 << (self.mantissa_bits - 1)) if self.mantissa_bits else None
        return {"fn": self._max_code + 1, "exponent-only": self._max_code + 1, "fnuz": self._sign_bit}.get(self.specials)

    # ---- the limits

    @property
    def max(self) -> float:
        """The largest finite value."""
        return self.decode(self._max_code)

    @property
    def min_normal(self) -> float:
        """The smallest positive value with full precision."""
        return math.ldexp(1.0, self._min_exponent)

    @property
    def min_subnormal(self) -> float | None:
        """The smallest positive value of all; None without mantissa bits, where nothing lies below `min_normal`."""
        return math.ldexp(1.0, self._min_exponent - self.mantissa_bits) if self.mantissa_bits else None

    @property
    def eps(self) -> float:
        """Machine epsilon: the distance from 1 to the next larger value."""
        return math.ldexp(1.0, -self.mantissa_bits)

    # ---- codes and values

    def decode(self, code: int) -> float:
        """The value of a code, exactly. Raises `ValueError` for a code that does not fit in `bits`.

        >>> E4M3.decode(0b0_1111_110), E5M2.decode(0b0_11111_00)
        (448.0, inf)
        """
        code = operator.index(code)
        if not 0 <= code < 1 << self.bits:
            raise ValueError(f"code {code:#x} is outside {self.name}: it has {self.bits} bits, codes 0 to {(1 << self.bits) - 1:#x}")
        magnitude = code & (self._sign_bit - 1)
        if self._is_nan(code):
            return math.nan
        value = math.inf if magnitude == self.inf_code else math.ldexp(*self._significand(magnitude))
        return -value if self.signed and code & self._sign_bit else value

    def _is_nan(self, code):
        magnitude = code & (self._sign_bit - 1)
        if self.specials == "ieee":
            return magnitude > self.inf_code
        return code == self.nan_code if self.specials == "fnuz" else magnitude > self._max_code

    def _significand(self, magnitude):
        """A finite magnitude code as (integer, exponent): its value is integer · 2^exponent."""
        field, fraction = divmod(magnitude, 1 << self.mantissa_bits)
        if field or self.specials == "exponent-only":
            return (1 << self.mantissa_bits) + fraction, field - self.bias - self.mantissa_bits
        return fraction, self._min_exponent - self.mantissa_bits

    def encode(self, x, rounding="nearest-even", overflow="ieee", draw=None) -> int:
        """The code that `x` rounds to, from the exact value of `x`, in one rounding.

        `x` is an int, float, Fraction, Decimal or text that `parse_number` reads. The exponent range is treated
        as unbounded while rounding; a result beyond `max` then overflows: `"ieee"` gives what the format's
        standard says (Inf; NaN in E4M3, the FNUZ formats and E8M0; `max` where neither exists), `"saturate"`
        gives `max`, for Inf too. Rounding toward zero never leaves the finite range (IEEE 754, 4.3.2).
        `"stochastic"` rounds up if `draw` (0 <= draw < 1) is below the dropped fraction.
        E8M0 has neither sign nor zero: a negative number is NaN, and zero is its smallest value.
        Raises `ValueError` for NaN where the format has none.

        >>> E4M3.decode(E4M3.encode(464)), E4M3.decode(E4M3.encode(465)), E4M3.decode(E4M3.encode(465, overflow="saturate"))
        (448.0, nan, 448.0)
        """
        _check_modes(rounding, overflow)
        negative, size = split_number(x)
        if size is None or (negative and not self.signed and size):
            if self.nan_code is None:
                raise ValueError(f"{self.name} has no NaN: replace NaN before rounding to it")
            return self.nan_code
        magnitude = self._round_magnitude(size, rounding, draw)
        if magnitude > self._max_code:
            finite_toward_zero = rounding == "toward-zero" and size != math.inf
            if finite_toward_zero or overflow == "saturate" or self.specials == "finite":
                magnitude = self._max_code
            elif self.inf_code is None:
                return self.nan_code | (self._sign_bit if negative and self.specials == "fn" else 0)
            else:
                magnitude = self.inf_code
        keeps_sign = negative and self.signed and (magnitude or self.specials != "fnuz")
        return magnitude | (self._sign_bit if keeps_sign else 0)

    def _round_magnitude(self, size, rounding, draw):
        if size == math.inf:
            return self._max_code + 1
        magnitude, dropped = self._floor(size)
        if rounding == "nearest-even":
            up = dropped > Fraction(1, 2) or (dropped == Fraction(1, 2) and magnitude % 2 == 1)
        elif rounding == "toward-zero":
            up = False
        elif draw is None or not 0 <= draw < 1:
            raise ValueError(f"stochastic rounding of a scalar needs draw, 0 <= draw < 1; got {draw!r}")
        else:
            up = draw < dropped
        return max(magnitude + up, 0)

    def _floor(self, size: Fraction):
        """Magnitude code at or below `size` as if there were no largest one, and the fraction of the gap dropped.

        Below the smallest value of a format without zero (E8M0) the code is -1.
        """
        exponent = self._quantum_exponent(size)
        steps, rest = divmod(size, Fraction(2) ** exponent)
        field = exponent + self.mantissa_bits + self.bias
        return ((field - 1) << self.mantissa_bits) + int(steps), rest / Fraction(2) ** exponent

    def _quantum_exponent(self, size: Fraction) -> int:
        return max(_floor_log2(size), self._min_exponent) - self.mantissa_bits if size else self._min_exponent - self.mantissa_bits

    # ---- spacing

    def ulp(self, x) -> float:
        """Unit in the last place: the spacing of the format's numbers in the binade that holds `x`.

        The spacing above |x| where x is a power of two (below it the numbers are twice as dense); the same all
        through the subnormals, and going on beyond `max`. Inf gives Inf, NaN gives NaN, as `math.ulp` does.

        >>> FP16.ulp(1.0), FP16.ulp(2048), BF16.ulp(1.0), FP16.ulp(0)
        (0.0009765625, 2.0, 0.0078125, 5.960464477539063e-08)
        """
        _, size = split_number(x)
        if size is None:
            return math.nan
        exponent = 1024 if size == math.inf else self._quantum_exponent(size)
        return math.ldexp(1.0, exponent) if exponent < 1024 else math.inf

    def neighbours(self, x) -> tuple:
        """The largest value below `x` and the smallest above it: `(below, above)`, both different from `x`.

        Inf counts as a value where the format has it. None where there is no such value; NaN raises `ValueError`.

        >>> FP16.neighbours(1)
        (0.99951171875, 1.0009765625)
        >>> E4M3.neighbours(448)
        (416.0, None)
        """
        negative, size = split_number(x)
        if size is None:
            raise ValueError("NaN has no neighbours: it is not ordered among the numbers")
        inner, outer = self._inner_outer(size)
        if not size:
            return (-outer if self.signed else None), outer
        if not negative:
            return inner, outer
        if not self.signed:
            return None, self._value(0)
        return _negate(outer), _negate(inner)

    def _inner_outer(self, size):
        """For a magnitude: the value next to it towards zero, and the value next to it away from zero."""
        if size == math.inf:
            return self.max, None
        magnitude, dropped = self._floor(size)
        below = magnitude if dropped else magnitude - 1
        return self._value(min(below, self._max_code)), self._value(magnitude + 1)

    def _value(self, magnitude):
        if magnitude < 0:
            return None
        if magnitude <= self._max_code:
            return self.decode(magnitude)
        return math.inf if self.inf_code is not None else None


def _negate(value):
    return None if value is None else -value if value else 0.0


def _floor_log2(size: Fraction) -> int:
    """The exponent of the binade that holds a positive fraction; integers only, so never one off."""
    guess = size.numerator.bit_length() - size.denominator.bit_length()
    return guess if size >= Fraction(2) ** guess else guess - 1


def _check_modes(rounding, overflow):
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding={rounding!r} is unknown: choose one of {', '.join(ROUNDINGS)}")
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow={overflow!r} is unknown: choose one of {', '.join(OVERFLOWS)}")


def split_number(x) -> tuple:
    """A number as (negative, magnitude): the magnitude a Fraction, `math.inf`, or None for NaN.

    >>> split_number(-0.5), split_number("-inf"), split_number(float("nan"))
    ((True, Fraction(1, 2)), (True, inf), (False, None))
    """
    if isinstance(x, str):
        x = parse_number(x)
    if isinstance(x, Decimal):
        x = float(x) if not x.is_finite() or not x else Fraction(x)  # a float keeps Inf, NaN and the sign of zero
    if isinstance(x, Rational):
        return x < 0, abs(Fraction(int(x.numerator), int(x.denominator)))
    try:
        x = float(x)  # NumPy and torch scalars; FP64 holds all of them exactly
    except (TypeError, ValueError):
        raise TypeError(f"{x!r} is not one real number: give an int, float, Fraction, Decimal or text") from None
    if math.isnan(x):
        return math.copysign(1, x) < 0, None
    return math.copysign(1, x) < 0, math.inf if math.isinf(x) else Fraction(abs(x))


_POWER = re.compile(r"([+-]?)(\d{1,4})(?:\^|\*\*)(?:([+-]?\d+)|\(([+-]?\d+)\))")
_SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_MAX_EXPONENT = 5000  # far outside every format; larger ones would only fill the memory


def parse_number(text: str):
    """Read a number exactly: "0.1", "1e-7", "1/3", "2^-14", "0x1.8p3", "inf", "nan". Gives a Fraction, or a float for ±Inf, NaN and -0.

    Raises `ValueError` that says what can be typed.

    >>> parse_number("0.1"), parse_number("2^-3"), parse_number("0x1.8p1"), parse_number("-inf")
    (Fraction(1, 10), Fraction(1, 8), Fraction(3, 1), -inf)
    """
    clean = re.sub(r"(?<!\d) | (?!\d)", "", text.strip().lower().replace("−", "-"))  # spaces may not cut a number in two
    clean = re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda raised: "^" + raised[0].translate(_SUPERSCRIPTS), clean)
    if re.fullmatch(r"[+-]?(inf|infinity|∞|nan)", clean):
        return float(clean.replace("∞", "inf"))
    try:
        value = _parse_finite(clean)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(
            f"{text.strip()[:40]!r} is not a number I can read: try 0.1, 1e-7, 1/3, 2^-14, 0x1.8p3, inf or nan"
        ) from None
    return -0.0 if not value and clean.startswith("-") else value


def _parse_finite(clean):
    if len(clean) > 2000:
        raise ValueError("too long")
    exponents = re.findall(r"(?:e|p|\^\(?|\*\*\(?)([+-]?\d+)", clean)
    if any(len(e) > 5 or abs(int(e)) > _MAX_EXPONENT for e in exponents) and "0x" not in clean.split("p")[0]:
        raise ValueError("exponent out of any format's range")
    if power := _POWER.fullmatch(clean):
        sign, base, bare, bracketed = power.groups()
        return (-1 if sign == "-" else 1) * Fraction(int(base)) ** int(bare or bracketed)
    if "0x" in clean:
        return _parse_hex(clean)
    return Fraction(clean)


def _parse_hex(clean):
    match = re.fullmatch(r"([+-]?)0x([0-9a-f]*)\.?([0-9a-f]*)p([+-]?\d{1,4})", clean)
    if not match or not match[2] + match[3]:
        raise ValueError("not a hexadecimal float")
    digits = int(f"{match[1]}{match[2]}{match[3]}", 16)
    return digits * Fraction(2) ** (int(match[4]) - 4 * len(match[3]))


FP64 = FloatFormat("FP64", 11, 52)
FP32 = FloatFormat("FP32", 8, 23)
TF32 = FloatFormat("TF32", 8, 10)  # what a tensor core reads of an FP32 number; never stored
FP16 = FloatFormat("FP16", 5, 10)
BF16 = FloatFormat("BF16", 8, 7)
E5M2 = FloatFormat("E5M2", 5, 2)
E4M3 = FloatFormat("E4M3", 4, 3, specials="fn")
E5M2FNUZ = FloatFormat("E5M2FNUZ", 5, 2, specials="fnuz")
E4M3FNUZ = FloatFormat("E4M3FNUZ", 4, 3, specials="fnuz")
E3M2 = FloatFormat("E3M2", 3, 2, specials="finite")
E2M3 = FloatFormat("E2M3", 2, 3, specials="finite")
E2M1 = FloatFormat("E2M1", 2, 1, specials="finite")
E8M0 = FloatFormat("E8M0", 8, 0, specials="exponent-only", signed=False)

FORMATS = {
    fmt.name: fmt
    for fmt in (FP64, FP32, TF32, FP16, BF16, E5M2, E4M3, E5M2FNUZ, E4M3FNUZ, E3M2, E2M3, E2M1, E8M0)
}
