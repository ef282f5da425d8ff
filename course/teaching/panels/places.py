"""Where things are in a format: its codes in order along the number line, its landmarks, the names of its bits."""

import math
from fractions import Fraction

from course.numerics.explain import exact_decimal, explain
from course.numerics.formats import FP64, split_number

from .outcome import round_into
from .parts import decimal, get_format, power


def order(fmt, code) -> int | None:
    """The place of a code on the number line, counted in codes from zero; None for NaN.

    >>> order(get_format("FP16"), 0x0001), order(get_format("FP16"), 0x8001)
    (1, -1)
    """
    if code is None or math.isnan(fmt.decode(code)):
        return None
    half = 1 << (fmt.bits - 1)
    return half - code if fmt.signed and code >= half else code


def at_order(fmt, place) -> int:
    """The code at a place on the line; beyond either end, the code at that end."""
    place = max(-last(fmt) if fmt.signed else 0, min(last(fmt), place))
    return place if place >= 0 else (1 << (fmt.bits - 1)) - place


def last(fmt) -> int:
    """The highest place on the line: +Inf where the format has it, else its largest number."""
    return fmt.inf_code if fmt.inf_code is not None else fmt.encode(fmt.max)


def grain(fmt) -> int:
    """Codes per stop of the slider: 1, more only where a browser's 53-bit numbers could not count them (FP64)."""
    return 1 << max(0, fmt.bits - 48)


def field_of(fmt, bit) -> str:
    """The field a bit belongs to: sign, exponent or mantissa."""
    if bit < fmt.mantissa_bits:
        return "mantissa"
    return "exponent" if bit < fmt.mantissa_bits + fmt.exponent_bits else "sign"


def bit_name(fmt, bit) -> str:
    """A bit by its number and its worth: "bit 9, mantissa, worth 2⁻¹"."""
    field = field_of(fmt, bit)
    worth = {"sign": "", "mantissa": f", worth {power(bit - fmt.mantissa_bits)}", "exponent": f", worth {1 << max(0, bit - fmt.mantissa_bits)}"}
    return f"bit {bit}, {field}{worth[field]}"


def writable(fmt, code) -> str:
    """A text that `parse_number` reads back as exactly this value, in decimal if that is short."""
    value = fmt.decode(code)
    if not math.isfinite(value) or not value:
        return str(value)  # inf, -inf, nan, 0.0, -0.0
    text = exact_decimal(Fraction(value))
    if len(text) <= 20:
        return text
    odd, exponent = math.frexp(value)
    return f"{'-' if odd < 0 else ''}2^{exponent - 1}" if abs(odd) == 0.5 else explain(code=code, fmt=fmt).hex_value


def short(text, value) -> str:
    """What was typed, or the first digits of its value where that is long."""
    return text if len(text) <= 30 else decimal(value)


def just_too_large(fmt) -> str:
    """The least number that overflows, as text: half an ulp beyond the largest; where that tie goes back down, a little more."""
    tie = Fraction(fmt.max) + Fraction(fmt.ulp(fmt.max)) / 2
    beyond = tie if round_into(fmt, tie).kind == "overflow" else tie + Fraction(fmt.ulp(fmt.max)) / 32
    return str(beyond) if beyond < 10**15 else _hex_float(beyond)


def _hex_float(value):
    """A large integer as a hexadecimal float that begins with 1: short, and read back exactly."""
    exponent = int(value).bit_length() - 1
    digits = f"{int(value) << -exponent % 4:x}"
    return f"0x1.{digits[1:].rstrip('0') or '0'}p{exponent}"


def as_typed(value) -> str:
    """A number given in Python, as the text that would have been typed for it; text stays as it is.

    >>> as_typed(1), as_typed(0.5), as_typed(0.1), as_typed(Fraction(1, 3)), as_typed(float("nan"))
    ('1', '0.5', '0x1.999999999999ap-4', '1/3', 'nan')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (int, Fraction)):
        return str(value)
    split_number(value)  # raises for what is not one real number
    return writable(FP64, FP64.encode(value)).removesuffix(".0")


PRESETS = {
    "one": lambda fmt: "1",
    "one tenth": lambda fmt: "0.1",
    "a tie": lambda fmt: str(Fraction(1) + Fraction(fmt.eps) / 2) if fmt.mantissa_bits else "1.5",
    "typical gradient 3e-6": lambda fmt: "3e-6",
    "largest": lambda fmt: writable(fmt, fmt.encode(fmt.max)),
    "just too large": just_too_large,
    "smallest normal": lambda fmt: writable(fmt, fmt.encode(fmt.min_normal)),
    "largest subnormal": lambda fmt: writable(fmt, fmt.encode(fmt.neighbours(fmt.min_normal)[0] or fmt.min_normal)),
    "smallest subnormal": lambda fmt: writable(fmt, fmt.encode(fmt.min_subnormal or fmt.min_normal)),
    "minus zero": lambda fmt: "-0",
    "Inf": lambda fmt: "inf",
    "NaN": lambda fmt: "nan",
}
