"""What the panels share: exact numbers as short text, and the small pieces of HTML."""

import html
import re
from dataclasses import replace
from functools import wraps
from fractions import Fraction

from course.numerics.explain import exact_decimal
from course.numerics.formats import FORMATS, FloatFormat, parse_number

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LONG = 1 << 1200  # beyond FP64: not worth writing out


def get_format(fmt) -> FloatFormat:
    """A format given as such or by name. Raises `ValueError` that lists the names.

    >>> get_format("BF16").bits
    16
    """
    if isinstance(fmt, FloatFormat):
        return fmt
    if fmt not in FORMATS:
        raise ValueError(f"{fmt!r} is no format: choose one of {', '.join(FORMATS)}, or give a FloatFormat")
    return FORMATS[fmt]


# ---- what is typed, and the way back


def is_code(text) -> bool:
    """Whether a text is meant as a code, 0x… or 0b…, and not as a hexadecimal float such as 0x1.8p3.

    >>> is_code("0x3C00"), is_code("0x1.8p3")
    (True, False)
    """
    return text.strip().lower().startswith(("0x", "0b")) and "p" not in text.lower()


def read_number(text):
    """A typed number where a code would have no format to be a code of; raises `ValueError` that says what to type.

    >>> read_number("0x3C00")
    Traceback (most recent call last):
    ValueError: '0x3C00' is a code: codes such as 0x3C00 work in the BitPanel; here type a number, such as 0.1, 2^-14 or 0x1.8p3
    """
    if is_code(text):
        raise ValueError(
            f"{text.strip()[:40]!r} is a code: codes such as 0x3C00 work in the BitPanel; here type a number, such as 0.1, 2^-14 or 0x1.8p3"
        )
    return parse_number(text)


def can_start_over(update):
    """An `update` whose states remember the `first` one, which the action "restart" brings back."""

    @wraps(update)
    def remembering(state, action):
        first = state.first or state
        return first if action["act"] == "restart" else replace(update(state, action), first=first)

    return remembering


# ---- numbers as text


def decimal(value, digits=30) -> str:
    """A number in decimal: exact if it fits in so many digits, else its first 12 digits and "…". Never rounded.

    >>> decimal(Fraction(1, 3)), decimal(Fraction(-3, 8)), decimal(Fraction(2) ** -149), decimal(float("-inf")), decimal(-0.0)
    ('0.333333333333…', '−0.375', '1.40129846432…e−45', '−Inf', '−0')
    """
    if value is None:
        return "none"
    if isinstance(value, float):
        if value != value:
            return "NaN"
        if value in (float("inf"), -float("inf")):
            return "Inf" if value > 0 else "−Inf"
        if value == 0:
            return "−0" if str(value).startswith("-") else "0"
    value = Fraction(value)
    sign, value = ("−" if value < 0 else ""), abs(value)
    if value.denominator & (value.denominator - 1) == 0 and max(value.numerator, value.denominator) < _LONG:
        text = exact_decimal(value)
        if sum(c.isdigit() for c in text) <= digits:
            return sign + text.replace("-", "−")
    return sign + _leading_digits(value, min(digits, 12))


def _leading_digits(value, count=12):
    exponent = (value.numerator.bit_length() - value.denominator.bit_length()) * 30103 // 100000 - 1
    while value >= Fraction(10) ** (exponent + 1):  # the estimate is at most a few too small
        exponent += 1
    scaled = value / Fraction(10) ** (exponent - count + 1)
    digits, more = str(int(scaled)), "…" if scaled.denominator != 1 else ""
    if -5 <= exponent < 0:
        digits = digits if more else digits.rstrip("0")
        return f"0.{'0' * (-exponent - 1)}{digits}{more}"
    if 0 <= exponent < count:
        text = f"{digits[: exponent + 1]}.{digits[exponent + 1 :]}"
        return text + more if more else text.rstrip("0").rstrip(".")
    tail = digits[1:] if more else digits[1:].rstrip("0")
    return f"{digits[0]}{'.' if tail else ''}{tail}{more}e{exponent}".replace("-", "−")


def is_finite(value) -> bool:
    """Whether a Fraction or float is finite; fractions too large for a float are.

    >>> is_finite(Fraction(10) ** 400), is_finite(float("-inf"))
    (True, False)
    """
    return isinstance(value, Fraction) or (value == value and abs(value) != float("inf"))


def floor_log2(value: Fraction) -> int:
    """The exponent of the binade that holds a positive fraction, by integers only.

    >>> floor_log2(Fraction(1, 3)), floor_log2(Fraction(8))
    (-2, 3)
    """
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if value >= Fraction(2) ** guess else guess - 1


def power(exponent: int) -> str:
    """2 to an exponent.

    >>> power(-10)
    '2⁻¹⁰'
    """
    return f"2{str(exponent).translate(_SUPERSCRIPTS)}"


def binary(value) -> str:
    """A binary fraction as an odd integer and a power of two: exact, however small or large.

    >>> binary(Fraction(3, 1024)), binary(0.5), binary(-6.0)
    ('3 × 2⁻¹⁰', '2⁻¹', '−6')
    """
    value = Fraction(value)
    if value.denominator == 1 and abs(value) <= 64:
        return decimal(value)
    odd, exponent = abs(value.numerator), 1 - value.denominator.bit_length()
    shift = (odd & -odd).bit_length() - 1
    odd, exponent = odd >> shift, exponent + shift
    return ("−" if value < 0 else "") + (power(exponent) if odd == 1 else f"{odd} × {power(exponent)}")


def fraction(value: Fraction, limit=24) -> str:
    """An exact fraction, or its first digits where the fraction is longer than `limit` characters.

    >>> fraction(Fraction(-2, 5)), fraction(Fraction(1, 3**30), 10)
    ('−2/5', '4.85693574961…e−15')
    """
    if max(abs(value.numerator), value.denominator) < _LONG:
        text = str(value).replace("-", "−")
        if len(text) <= limit:
            return text
    return decimal(value, 12)


def ulps(value: Fraction) -> str:
    """A signed number of ulps: a fraction where it is a simple one, else its first digits.

    >>> ulps(Fraction(-2, 5)), ulps(Fraction(1, 2)), ulps(Fraction(7292, 15625)), ulps(Fraction(0))
    ('−2/5 ulp', '+1/2 ulp', '+0.46668… ulp', '0')
    """
    if not value:
        return "0"
    text = fraction(value, 14) if value.denominator <= 64 else decimal(value, 5)
    return f"{'+' if value > 0 else ''}{text} ulp"


# ---- pieces of HTML


def escape(text) -> str:
    """Text made safe inside HTML, in an attribute too."""
    return html.escape(str(text))


def rich(text) -> str:
    """Text as HTML; raised digits become <sup>, which is easier to read.

    >>> rich("2⁻¹⁰ < 1")
    '2<sup>−10</sup> &lt; 1'
    """
    plain = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "−0123456789")
    return re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: f"<sup>{m[0].translate(plain)}</sup>", escape(text))


def raised(text) -> str:
    """Text as SVG; raised digits become a shifted tspan, larger than their Unicode forms."""
    return rich(text).replace("<sup>", '<tspan baseline-shift="super" font-size="10">').replace("</sup>", "</tspan>")


def button(act, text, key=None, pressed=None, label=None) -> str:
    """A button that sends an action; `pressed` makes it a switch."""
    state = "" if pressed is None else f' aria-pressed="{str(bool(pressed)).lower()}"'
    name = "" if label is None else f' aria-label="{escape(label)}"'
    return f'<button data-act="{escape(act)}" data-key="{escape(key or act)}"{state}{name}>{rich(text)}</button>'


def entry(act, label, value) -> str:
    """A text box with its visible label."""
    return (
        f'<label>{escape(label)} <input class="cp-entry" data-act="{act}" data-key="{act}" value="{escape(value)}" '
        f'spellcheck="false" autocomplete="off"></label>'
    )


def choose_format(act, current: FloatFormat, label) -> str:
    """A drop-down list of all formats, and of the present one if a learner made it."""
    names = list(FORMATS) if current.name in FORMATS else [current.name, *FORMATS]
    options = "".join(f"<option{' selected' if name == current.name else ''}>{escape(name)}</option>" for name in names)
    return f'<select data-act="{act}" data-key="{act}" aria-label="{escape(label)}">{options}</select>'


def presets(names) -> str:
    """The button that brings the first state back, and one for each preset, named by its meaning."""
    buttons = "".join(button(f"preset {i}", name) for i, name in enumerate(names))
    return f'{button("restart", "↺ start over")}<div class="cp-presets" role="group" aria-label="Presets">{buttons}</div>'


def sentence(text, message) -> str:
    """The sentence under a panel, spoken when it changes, and above it a message when the last entry made no sense."""
    return f'<p class="cp-oops" role="alert">{escape(message)}</p><p class="cp-say" role="status" aria-live="polite" aria-atomic="true">{rich(text)}</p>'


def plain_table(head, rows, caption) -> str:
    """A table that needs no style: the first column names the row. Cells are text; a number stays on one line."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row"{_whole(first)}>{escape(first)}</th>{"".join(f"<td{_whole(cell)}>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _whole(cell):
    """The style that keeps a number on one line, where it could break: after a hyphen as minus sign, or at a space.

    Inline, because nothing else reaches a stored table: JupyterLab overrules `nowrap`, but keeps this style even in a
    notebook that it does not trust.
    """
    cell = str(cell)
    is_number = len(cell) <= 40 and re.search(r"\d", cell) and not re.search(r"[^\W\d_]{3}", cell)
    return ' style="white-space:nowrap"' if is_number and re.search("[ -]", cell) else ""
