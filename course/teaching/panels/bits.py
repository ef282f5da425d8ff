"""BitPanel: one number in several formats at once, by its bits, by its place on the line, or typed."""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

from course.numerics.formats import FloatFormat, parse_number

from ..panel import Panel
from .bits_view import table, text, view
from .outcome import round_into
from .parts import can_start_over, get_format, is_code
from .places import PRESETS, as_typed, at_order, bit_name, grain, order, short, writable


@dataclass(frozen=True)
class BitState:
    """The formats shown, their codes (None: this format has no NaN), and where the number came from.

    `source` is the real number that all codes stand for: typed (`origin` None), or the value of the code in format
    number `origin`, which then is kept bit for bit. `typed` is a text for the source and `deed` how it came; a text
    that made no sense waits in `draft`, with `message` saying why, until the number changes. `first` is the state that
    "start over" brings back, None in that state itself.
    """

    fmts: tuple[FloatFormat, ...]
    source: Fraction | float
    codes: tuple[int | None, ...]
    typed: str
    origin: int | None = None
    deed: str = ""
    draft: str | None = None
    message: str = ""
    first: "BitState | None" = field(default=None, compare=False, repr=False)


# ---- state


def start(fmts=("FP16", "BF16"), value="1") -> BitState:
    """The first state. `value` is a number or text such as "0.1", "1/3", "inf", "0x3C00" (a code of the first format)."""
    fmts = tuple(get_format(fmt) for fmt in fmts)
    if not 1 <= len(fmts) <= 4:
        raise ValueError(f"{len(fmts)} formats: choose from one to four to put side by side")
    return _read(BitState(fmts, Fraction(0), (0,) * len(fmts), ""), as_typed(value))


def from_number(state, source, typed, deed) -> BitState:
    codes = tuple(round_into(fmt, source).code for fmt in state.fmts)
    return replace(state, source=source, codes=codes, typed=typed, origin=None, deed=deed)


def from_code(state, index, code, deed) -> BitState:
    """Give format `index` a code; the others round its value."""
    fmt = state.fmts[index]
    value = fmt.decode(code)
    source = value if not math.isfinite(value) or not value else Fraction(value)
    codes = tuple(code if i == index else round_into(other, source).code for i, other in enumerate(state.fmts))
    return replace(state, source=source, codes=codes, typed=writable(fmt, code), origin=index, deed=deed)


def type_in(state, text) -> BitState:
    """What was typed; a text that makes no sense waits in the box, with a message."""
    try:
        return _read(state, text.strip())
    except ValueError as error:
        return replace(state, draft=text.strip(), message=f"{error}. The panel still shows {short(state.typed, state.source)}.")


def _read(state, text):
    """A number is rounded into every format, 0x… and 0b… are a code of the first one."""
    if is_code(text):
        return replace(from_code(state, 0, _read_code(text, state.fmts[0]), f"The code {text} of"), typed=text)
    try:
        source = parse_number(text)
    except ValueError as error:
        raise ValueError(f"{error}; a code of {state.fmts[0].name} begins with 0x or 0b") from None
    return from_number(state, source, text, f"You typed {short(text, source)}")


def _read_code(text, fmt):
    try:
        code = int(text.lower(), 0)
    except ValueError:
        raise ValueError(f"{text!r} is not a code: write 0x and hexadecimal digits, or 0b and bits") from None
    if code >= 1 << fmt.bits:
        raise ValueError(f"{text} needs {code.bit_length()} bits, and {fmt.name} has {fmt.bits}")
    return code


@can_start_over
def update(state: BitState, action: dict) -> BitState:
    """Apply one action: flip i bit | slide i | step i ±1 | type | preset n | format i | restart."""
    name, *rest = action["act"].split()
    state = state if name == "format" else replace(state, draft=None, message="")
    numbers = [int(text) for text in rest]
    return _ACTIONS[name](state, *numbers, **({"value": action.get("value", "")} if name in _WITH_VALUE else {}))


def _flip(state, index, bit):
    fmt, code = state.fmts[index], state.codes[index] or 0
    if not 0 <= bit < fmt.bits:
        raise ValueError(f"{fmt.name} has bits 0 to {fmt.bits - 1}, not {bit}")
    return from_code(state, index, code ^ (1 << bit), f"{bit_name(fmt, bit)[0].upper()}{bit_name(fmt, bit)[1:]}, is flipped:")


def _slide(state, index, value):
    fmt = state.fmts[index]
    return from_code(state, index, at_order(fmt, int(float(value)) * grain(fmt)), "At this place of the line")


def _step(state, index, by):
    fmt, code = state.fmts[index], state.codes[index]
    place = order(fmt, code)
    if place is None:
        return replace(state, message="NaN has no neighbours: it stands nowhere on the number line. Move the slider or type a number.")
    stepped = at_order(fmt, place + by)
    deed = "One step up," if by > 0 else "One step down,"
    return from_code(state, index, stepped, deed if stepped != code else "At the end of the line")


def _preset(state, number):
    name = list(PRESETS)[number]
    text = PRESETS[name](state.fmts[0])
    source = parse_number(text)
    return from_number(state, source, text, f"{name[0].upper()}{name[1:]}: {short(text, source)}")


def _format(state, index, value):
    fmts = tuple(get_format(value) if i == index else fmt for i, fmt in enumerate(state.fmts))
    state = replace(state, fmts=fmts)
    if state.origin is None or state.origin == index:  # the number stays, rounded into the new format
        deed = state.deed if state.origin is None else f"The number before was {state.typed}"
        return from_number(state, state.source, state.typed, deed)
    return from_code(state, state.origin, state.codes[state.origin], f"Beside {value},")


_ACTIONS = {
    "flip": _flip, "slide": _slide, "step": _step, "preset": _preset, "format": _format,
    "type": lambda state, value: type_in(state, value),
}  # fmt: skip
_WITH_VALUE = {"slide", "type", "format"}


class BitPanel(Panel):
    """One number in one to four formats: click or type its bits, drag it along the line, type a number or a code.

    `fmts` are formats or their names, `value` a number or text. Typing rounds into every format to nearest, ties to
    even, overflow as the format's standard says; clicking a bit in one format rounds that value into the others.
    Raises `ValueError` for an unknown format or a text that is no number.

    >>> print(BitPanel(["FP16", "BF16"], "0.1"))
    BitPanel
    FP16      0x2E66  0 01011 1001100110  normal, 0.0999755859375, error −1/40960 = −2/5 ulp
    BF16      0x3DCD  0 01111011 1001101  normal, 0.10009765625, error +1/10240 = +1/5 ulp
    You typed 0.1. FP16 comes to 0.0999755859375, 2/5 ulp too low. BF16 comes to 0.10009765625, 1/5 ulp too high.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, fmts=("FP16", "BF16"), value="1"):
        super().__init__(start(fmts, value))
