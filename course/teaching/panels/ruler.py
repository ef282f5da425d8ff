"""UlpRuler: the numbers of several formats in their true places around x, and where x + delta lands."""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

from course.numerics.explain import exact_decimal
from course.numerics.formats import FloatFormat

from ..panel import Panel
from .parts import can_start_over, floor_log2, get_format, is_finite, read_number
from .places import as_typed, short
from .ruler_scale import delta_slider
from .ruler_view import table, text, view

ZOOMS = range(-1090, 1031)  # half-widths 2^zoom, past both ends of FP64


@dataclass(frozen=True)
class RulerState:
    """The formats, the exact `x` and `delta` with the texts they were typed as, and the half-width 2^zoom of the window."""

    fmts: tuple[FloatFormat, ...]
    x: Fraction
    x_text: str
    delta: Fraction
    delta_text: str
    zoom: int
    drafts: tuple[tuple[str, str, str], ...] = ()  # texts that made no sense, until their box changes: ("x", "abc", why)
    message: str = ""
    first: "RulerState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back

    @property
    def window(self):
        """The stretch of the number line in view: (low, high)."""
        half = Fraction(2) ** self.zoom
        return self.x - half, self.x + half


# name: (formats or None to keep those shown, x, delta)
PRESETS = {
    "1 + half an ulp of FP16: a tie": (("FP16", "BF16"), "1", "2^-11"),
    "1 + just over half": (("FP16", "BF16"), "1", "0.000489"),
    "1 − half of the smaller gap: a tie": (("FP16", "BF16"), "1", "-1/4096"),
    "2048 + 1 in FP16": (("FP16", "FP32"), "2048", "1"),
    "256 + 1 in BF16": (("BF16", "FP16"), "256", "1"),
    "a weight 0.5 and its update 0.001": (("BF16", "FP16", "FP32"), "0.5", "0.001"),
    "subnormal floor of FP16": (("FP16", "BF16"), "0", "2^-25"),
    "the largest of E4M3": (("E4M3", "E5M2"), "448", "16"),
}


def start(fmts=("FP16", "BF16"), x="1", delta="0") -> RulerState:
    """The first state, its window wide enough for the coarsest format. Numbers may be given as text."""
    fmts = tuple(get_format(fmt) for fmt in fmts)
    if not 1 <= len(fmts) <= 5:
        raise ValueError(f"{len(fmts)} formats: choose from one to five to stack")
    x, delta = as_typed(x), as_typed(delta)
    return fit(RulerState(fmts, finite(x), x, finite(delta), delta, 0))


def finite(text) -> Fraction:
    """A typed number that has a place on the line."""
    value = read_number(text)
    if not is_finite(value):
        raise ValueError(f"{text.strip()} has no place on this line: type a finite number")
    return Fraction(value)


def fit(state) -> RulerState:
    """Choose the window: about two steps of the coarsest format to each side, and x + delta in view if that is near."""
    widest = max(Fraction(fmt.ulp(min(abs(state.x), Fraction(fmt.max)))) for fmt in state.fmts)
    wanted = max(2 * widest, min(abs(state.delta) * Fraction(5, 4), 64 * widest))
    return replace(state, zoom=clamp_zoom(-floor_log2(1 / wanted)))  # the first power of two that is not smaller


def clamp_zoom(zoom) -> int:
    return max(ZOOMS[0], min(ZOOMS[-1], zoom))


@can_start_over
def update(state: RulerState, action: dict) -> RulerState:
    """Apply one action: x | delta | slide | nudge i | scale ±1 | zoom ±1 | fit | preset n | format i | add | remove | restart."""
    name, *rest = action["act"].split()
    value = (str(action.get("value", "")),) if name in ("x", "delta", "slide", "format") else ()
    return _ACTIONS[name](replace(state, message=""), *map(int, rest), *value)


def _put(state, name, value, text):
    """A new x or delta, which ends the text in its box that made no sense."""
    drafts = tuple(draft for draft in state.drafts if draft[0] != name)
    return replace(state, drafts=drafts, **{name: value, f"{name}_text": text})


def _typed(name):
    def change(state, value):
        value = value.strip()
        try:
            return fit(_put(state, name, finite(value), value))
        except ValueError as error:
            kept, text = getattr(state, name), getattr(state, f"{name}_text")
            why = f"{error}. The panel still shows {name} = {short(text, kept)}."
            return replace(state, drafts=(*_put(state, name, kept, text).drafts, (name, value, why)))

    return change


def _slide(state, value):
    stops, step, *_ = delta_slider(state.fmts, state.x)
    delta = max(-stops, min(stops, round(float(value)))) * step
    return _put(state, "delta", delta, writable(delta))


def writable(value) -> str:
    """A short text that is read back as exactly this binary fraction: decimal, a power of two, or an integer times one."""
    exponent, sign = 1 - value.denominator.bit_length(), "-" if value < 0 else ""
    if exponent > -20:
        return exact_decimal(value)
    return f"{sign}2^{exponent}" if abs(value.numerator) == 1 else f"{sign}{abs(value.numerator):#x}p{exponent}"


def _nudge(state, by):
    first = state.fmts[0]
    there = first.neighbours(state.x)[0 if by < 0 else 1]
    if there is None or math.isinf(there):
        return replace(state, message=f"{first.name} has no number further {'down' if by < 0 else 'up'}.")
    return _put(state, "x", Fraction(there), writable(Fraction(there)))


def _scale(state, by):
    x = state.x * 2 if by > 0 else state.x / 2
    if abs(x) > Fraction(2) ** ZOOMS[-1] or x and abs(x) < Fraction(2) ** ZOOMS[0]:
        return replace(state, message="That is far outside every format.")
    return replace(_put(state, "x", x, writable(x)), zoom=clamp_zoom(state.zoom + by))


def _preset(state, number):
    fmts, x, delta = list(PRESETS.values())[number]
    return start(fmts or state.fmts, x, delta)


def _format(state, index, value):
    return replace(state, fmts=tuple(get_format(value) if i == index else fmt for i, fmt in enumerate(state.fmts)))


def _add(state):
    names = [fmt.name for fmt in state.fmts]
    fresh = next((name for name in ("E4M3", "E5M2", "FP32", "TF32", "BF16", "FP16") if name not in names), "E4M3")
    if len(names) == 5:
        return replace(state, message="Five formats fill the picture: change one of them instead.")
    return replace(state, fmts=(*state.fmts, get_format(fresh)))


def _remove(state):
    if len(state.fmts) == 1:
        return replace(state, message="One format has to stay.")
    return replace(state, fmts=state.fmts[:-1])


_ACTIONS = {
    "x": _typed("x"), "delta": _typed("delta"), "slide": _slide, "nudge": _nudge, "scale": _scale,
    "zoom": lambda state, by: replace(state, zoom=clamp_zoom(state.zoom + by)), "fit": fit,
    "preset": _preset, "format": _format, "add": _add, "remove": _remove,
}  # fmt: skip


class UlpRuler(Panel):
    """The number line around x, true to scale: every number of one to five formats, and where x + delta lands.

    `fmts` are formats or their names; `x` and `delta` numbers or text. x is first rounded into each format, then
    delta is added exactly and the sum rounded, to nearest, ties to even: what one addition in that format does.
    Raises `ValueError` for an unknown format or a number without a place on the line.

    >>> print(UlpRuler(["FP16", "BF16"], 1, "2^-11"))
    UlpRuler: x = 1, delta = 2^-11
    FP16      x 1, below 0.99951171875 (−2⁻¹¹), above 1.0009765625 (+2⁻¹⁰), x + delta → 1: lost: a tie, and x is the even one
    BF16      x 1, below 0.99609375 (−2⁻⁸), above 1.0078125 (+2⁻⁷), x + delta → 1: lost: less than half of the gap
    FP16: the gap above x is 2⁻¹⁰, the gap below only 2⁻¹¹, for a new binade begins at x. Adding delta changes nothing in FP16 and BF16.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, fmts=("FP16", "BF16"), x="1", delta="0"):
        super().__init__(start(fmts, x, delta))
