"""What the bits of one number say: fields, class, exact value, and what rounding did to it."""

from dataclasses import dataclass
from fractions import Fraction

from .formats import FORMATS, FloatFormat, parse_number, split_number


@dataclass(frozen=True)
class Explanation:
    """One code of one format, taken apart. Printing it gives the whole story; the attributes give the parts.

    `kind` is "normal", "subnormal", "zero", "inf" or "nan". `sign`, `exponent_field` and `mantissa_field` are the
    stored integers (`sign` is None in an unsigned format), `exponent` the power of two they stand for and
    `significand` its factor, both None for Inf and NaN. `error` is value - source, an exact Fraction, where a
    source was given and both are finite.
    """

    fmt: FloatFormat
    code: int
    kind: str
    sign: int | None
    exponent_field: int
    mantissa_field: int
    exponent: int | None
    significand: Fraction | None
    value: float
    error: Fraction | None

    @property
    def fields(self) -> tuple:
        """The bits as text: (sign, exponent, mantissa); a field the format lacks is empty."""
        fmt = self.fmt
        sign = f"{self.sign}" if fmt.signed else ""
        mantissa = f"{self.mantissa_field:0{fmt.mantissa_bits}b}" if fmt.mantissa_bits else ""
        return sign, f"{self.exponent_field:0{fmt.exponent_bits}b}", mantissa

    @property
    def hex_code(self) -> str:
        """The code in hexadecimal, as wide as the format: 0x3C00."""
        return f"0x{self.code:0{-(-self.fmt.bits // 4)}X}"

    @property
    def formula(self) -> str:
        """The value as sign, significand and power of two: "+1.5 × 2^-3"; "Inf" and "NaN" as words."""
        if self.kind == "nan":
            return "NaN"
        sign = "-" if self.sign else "+"
        if self.kind == "inf":
            return f"{sign}Inf"
        return f"{sign}{exact_decimal(self.significand)} × 2^{self.exponent}"

    @property
    def decimal(self) -> str:
        """The value in decimal with all of its digits: a binary fraction always ends."""
        if self.kind in ("inf", "nan"):
            return self.formula.lstrip("+")
        return ("-" if self.sign else "") + exact_decimal(abs(Fraction(self.value)))

    @property
    def hex_value(self) -> str:
        """The value as a hexadecimal float without idle zeros: 0x1.8p-3."""
        if self.kind in ("inf", "nan"):
            return self.formula.lstrip("+")
        digits, exponent = self.value.hex().split("p")
        return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}p{int(exponent)}"

    def __str__(self):
        rows = [
            ("format", f"{self.fmt.name} ({self.fmt.bits} bits)"),
            ("code", self.hex_code),
            ("bits", " ".join(field for field in self.fields if field)),
            ("class", self.kind),
            ("value", f"{self.formula} = {self.decimal}" if self.exponent is not None else self.formula),
            ("hex", self.hex_value),
        ]
        if self.error is not None:
            ulps = self.error / Fraction(self.fmt.ulp(self.value))
            rows.append(("error", f"{self.error} = {ulps} ulp" if self.error else "0: exact"))
        return "\n".join(f"{name:<7}{text}" for name, text in rows)

    __repr__ = __str__


def explain(x=None, fmt: FloatFormat = FORMATS["FP32"], *, code=None, rounding="nearest-even", overflow="ieee", draw=None) -> Explanation:
    """Take apart the code that `x` rounds to in `fmt`, or a given `code`; the options are those of `FloatFormat.encode`.

    `x` is a number or text. Text is read exactly, so "0.1" is one tenth, while the float 0.1 is the FP64 number next
    to it; text such as "0x2E66" or "0b0_01011" without a "p" is a code. Raises `ValueError` for text that is
    neither, and where `FloatFormat.encode` or `decode` do.

    >>> explain("0.1", FORMATS["BF16"])
    format BF16 (16 bits)
    code   0x3DCD
    bits   0 01111011 1001101
    class  normal
    value  +1.6015625 × 2^-4 = 0.10009765625
    hex    0x1.9ap-4
    error  1/10240 = 1/5 ulp
    """
    if (x is None) == (code is None):
        raise ValueError("give explain either a number or code=, not both and not neither")
    source = None
    if code is None:
        code = _code_in_text(x)
    if code is None:
        x = parse_number(x) if isinstance(x, str) else x
        negative, size = split_number(x)
        source = None if size in (None, float("inf")) else (-size if negative else size)
        code = fmt.encode(x, rounding, overflow, draw)
    return _take_apart(fmt, code, source)


def _code_in_text(x):
    if not isinstance(x, str):
        return None
    clean = x.strip().lower()
    if (clean.startswith("0x") and "p" not in clean) or clean.startswith("0b"):
        try:
            return int(clean, 0)
        except ValueError:
            raise ValueError(f"{x.strip()[:40]!r} is not a code: write 0x and hexadecimal digits, or 0b and bits") from None
    return None


def _take_apart(fmt, code, source):
    value = fmt.decode(code)  # raises for a code that is too wide
    field, mantissa = divmod(code & (fmt._sign_bit - 1), 1 << fmt.mantissa_bits)
    kind, exponent, significand = _classify(fmt, value, field, mantissa)
    error = Fraction(value) - source if source is not None and exponent is not None else None
    sign = code >> (fmt.bits - 1) if fmt.signed else None
    return Explanation(fmt, code, kind, sign, field, mantissa, exponent, significand, value, error)


def _classify(fmt, value, field, mantissa):
    if value != value:
        return "nan", None, None
    if value in (float("inf"), -float("inf")):
        return "inf", None, None
    fraction = Fraction(mantissa, 1 << fmt.mantissa_bits)
    if field or fmt.specials == "exponent-only":
        return "normal", field - fmt.bias, 1 + fraction
    return ("subnormal" if mantissa else "zero"), 1 - fmt.bias, fraction


def exact_decimal(value: Fraction, digits: int = 60) -> str:
    """A binary fraction (denominator a power of two) in decimal, all digits; scientific beyond `digits` places.

    Raises `ValueError` for a fraction whose decimals never end.

    >>> exact_decimal(Fraction(3, 8)), exact_decimal(Fraction(2) ** -24), exact_decimal(Fraction(448))
    ('0.375', '0.000000059604644775390625', '448')
    >>> exact_decimal(Fraction(2) ** -126)[:20], exact_decimal(Fraction(2) ** 127)
    ('1.175494350822287507', '170141183460469231731687303715884105728')
    """
    places = value.denominator.bit_length() - 1
    if value.denominator != 1 << places:
        raise ValueError(f"{value} has no finite decimal form: its denominator is not a power of two")
    whole = abs(value.numerator) * 5**places  # value = whole / 10^places
    sign = "-" if value < 0 else ""
    text = str(whole)
    if places <= digits:
        text = text.rjust(places + 1, "0")
        return sign + (f"{text[:-places]}.{text[-places:]}" if places else text)
    return f"{sign}{text[0]}{'.' if len(text) > 1 else ''}{text[1:]}e{len(text) - 1 - places}"
