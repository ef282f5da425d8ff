"""SwampingMicroscope: one stored weight, the stretch in which an update is lost, and what many equal updates come to."""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np

from course.numerics.formats import FloatFormat

from ..panel import Panel
from .microscope_view import table, text, view
from .parts import can_start_over, floor_log2, get_format
from .places import as_typed, short
from .ruler import finite, writable

MOST_STEPS = 5000
SIZES = range(-4 * 40, 4 * 16 + 1)  # stops of the slider: quarter binades of |update|
CHOICES = ("BF16", "FP16", "TF32", "FP32", "E4M3", "E5M2")


@dataclass(frozen=True, eq=False)
class Crowd:
    """The magnitudes of many real weights, FP64 and sorted; zeros are left out."""

    sizes: np.ndarray


@dataclass(frozen=True)
class LensState:
    """A format, the exact start `w` and update `delta` with the texts they were typed as, and how many steps were made."""

    fmt: FloatFormat
    w: Fraction
    w_text: str
    delta: Fraction
    delta_text: str
    steps: int = 0
    zoom: int = 0  # the view is 2^zoom times as wide as it begins
    crowd: Crowd | None = None
    drafts: tuple[tuple[str, str, str], ...] = ()  # texts that made no sense, until their box changes: ("w", "abc", why)
    message: str = ""
    first: "LensState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back

    @property
    def path(self) -> tuple:
        """The stored weight after 0, 1, … steps, as far as it still changes."""
        return walk(self.fmt, self.w, self.delta, self.steps)

    @property
    def stored(self) -> float:
        return self.path[-1]

    @property
    def exact(self) -> Fraction:
        """Where the weight would be if nothing were rounded."""
        return self.w + self.steps * self.delta


@lru_cache(maxsize=64)
def walk(fmt, w: Fraction, delta: Fraction, steps: int) -> tuple:
    """Stored weights when `delta` is added `steps` times and each sum is rounded to nearest, ties to even, overflow "ieee".

    It ends where nothing changes any more, since then nothing ever will.

    >>> from course.numerics import BF16
    >>> walk(BF16, Fraction(1), Fraction(1, 128), 3), walk(BF16, Fraction(1), Fraction(1, 300), 3)
    ((1.0, 1.0078125, 1.015625, 1.0234375), (1.0,))
    """
    path = [fmt.decode(fmt.encode(w))]
    for _ in range(steps):
        after = fmt.decode(fmt.encode(Fraction(path[-1]) + delta)) if math.isfinite(path[-1]) else path[-1]
        if after == path[-1]:
            break
        path.append(after)
    return tuple(path)


# name: (format, w, update)
PRESETS = {
    "the web's example: 1.23456 − 0.1 × 0.001": ("BF16", "1.23456", "-0.0001"),
    "the same in FP32": ("FP32", "1.23456", "-0.0001"),
    "half a gap: a tie, and 1 is even": ("BF16", "1", "2^-8"),
    "the same tie on an odd weight": ("BF16", "1.0078125", "2^-8"),
    "down, half as much is enough": ("BF16", "1", "-0.00196"),
    "a norm weight at 1, Adam at 3e-4": ("BF16", "1", "-3e-4"),
    "a weight of 0.01, Adam at 3e-4": ("BF16", "0.01", "-3e-4"),
    "one step of weight decay: 1e-3 × 0.1 of 0.5": ("BF16", "0.5", "-5e-5"),
    "a step counter": ("BF16", "250", "1"),
}


def start(fmt="BF16", w="1.23456", update="-0.0001", weights=None) -> LensState:
    """The first state; `w` and `update` may be numbers or text, `weights` a tensor or array of real weights."""
    w, update = as_typed(w), as_typed(update)
    crowd = None
    if weights is not None:
        flat = np.abs(np.asarray(weights.detach() if hasattr(weights, "detach") else weights, dtype=np.float64)).ravel()
        if not flat.size or not np.isfinite(flat).all():
            raise ValueError("weights must be finite numbers, one at least")
        crowd = Crowd(np.sort(flat[flat > 0]))
    return LensState(get_format(fmt), finite(w), w, finite(update), update, crowd=crowd)


@can_start_over
def update(state: LensState, action: dict) -> LensState:
    """Apply one action: w | delta | size | turn | format | step n | back | nudge ±1 | scale ±1 | zoom ±1 | preset n | restart."""
    name, *rest = action["act"].split()
    value = (str(action.get("value", "")),) if name in ("w", "delta", "size", "format") else ()
    return _ACTIONS[name](replace(state, message=""), *map(int, rest), *value)


def _put(state, name, value, text):
    """A new w or delta: the steps begin again."""
    drafts = tuple(draft for draft in state.drafts if draft[0] != name)
    return replace(state, drafts=drafts, steps=0, **{name: value, f"{name}_text": text})


def _typed(name):
    def change(state, value):
        value = value.strip()
        try:
            return _put(state, name, finite(value), value)
        except ValueError as error:
            kept, text = getattr(state, name), getattr(state, f"{name}_text")
            why = f"{error}. The panel still shows {short(text, kept)}."
            return replace(state, drafts=(*(d for d in state.drafts if d[0] != name), (name, value, why)))

    return change


def size_stop(delta) -> int:
    """The stop of the slider at or below |delta|: four to a binade."""
    if not delta:
        return SIZES[0]
    exponent = floor_log2(abs(delta))
    quarter = int(4 * (abs(delta) / Fraction(2) ** exponent - 1))
    return max(SIZES[0], min(SIZES[-1], 4 * exponent + quarter))


def _size(state, value):
    exponent, quarter = divmod(max(SIZES[0], min(SIZES[-1], round(float(value)))), 4)
    size = (1 + Fraction(quarter, 4)) * Fraction(2) ** exponent
    delta = -size if state.delta < 0 else size
    return _put(state, "delta", delta, writable(delta))


def _turn(state):
    text = state.delta_text.strip()
    return _put(state, "delta", -state.delta, text[1:] if text.startswith("-") else f"-{text.lstrip('+')}")


def _format(state, value):
    return replace(state, fmt=get_format(value), steps=0)


def _step(state, by):
    steps = min(state.steps + by, MOST_STEPS)
    message = f"{MOST_STEPS} steps are as far as this goes." if steps < state.steps + by else ""
    return replace(state, steps=steps, message=message)


def _move(state, value):
    return replace(state, w=Fraction(value), w_text=as_typed(float(value)), steps=0, drafts=tuple(d for d in state.drafts if d[0] != "w"))


def _nudge(state, by):
    there = state.fmt.neighbours(state.stored)[0 if by < 0 else 1] if math.isfinite(state.stored) else None
    if there is None or math.isinf(there):
        return replace(state, message=f"{state.fmt.name} has no number further {'down' if by < 0 else 'up'}.")
    return _move(state, there)


def _scale(state, by):
    value = Fraction(state.stored) * 2**by if math.isfinite(state.stored) else Fraction(state.w)
    if abs(value) > Fraction(state.fmt.max) or value and abs(value) < Fraction(state.fmt.min_subnormal):
        return replace(state, message=f"That is outside {state.fmt.name}.")
    return _move(state, value)


def _preset(state, number):
    fmt, w, delta = list(PRESETS.values())[number]
    return replace(start(fmt, w, delta), crowd=state.crowd)


_ACTIONS = {
    "w": _typed("w"), "delta": _typed("delta"), "size": _size, "format": _format, "step": _step, "nudge": _nudge,
    "scale": _scale, "preset": _preset, "turn": _turn,
    "back": lambda state: replace(state, steps=0), "zoom": lambda state, by: replace(state, zoom=max(-3, min(12, state.zoom + by))),
}  # fmt: skip


class SwampingMicroscope(Panel):
    """A stored weight under the lens: the stretch in which an update is lost, and where many equal updates lead.

    `fmt` is a format or its name, `w` and `update` numbers or text. w is rounded into the format; then the update is added
    exactly and each sum rounded to nearest, ties to even, overflow "ieee". With `weights` (a tensor or array), it also counts
    how many of these an update of this size would move. Raises `ValueError` for an unknown format or a number without a place.

    >>> lens = SwampingMicroscope("BF16", 1, "-3e-4")
    >>> _ = lens.act({"act": "step 1000"})
    >>> print(lens)
    SwampingMicroscope: BF16, w = 1, update -3e-4, 1000 steps
    stored 1, exactly it would be 0.7; gap below 2⁻⁸, above 2⁻⁷
    lost: updates up to 2⁻⁸ upwards and up to 2⁻⁹ downwards
    BF16 loses this update: it is 0.1536 of half the gap. Nothing has moved in 1000 steps, and nothing ever will.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, fmt="BF16", w="1.23456", update="-0.0001", weights=None):
        super().__init__(start(fmt, w, update, weights))
