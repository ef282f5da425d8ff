"""ScaleBench: one tensor with an outlier that can be dragged, and every way of scaling it into 8 or 4 bits beside it."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from course.numerics import E2M1, E4M3, E5M2, FloatFormat
from course.numerics.scales import mx, nvfp4, quality, scale_for, scaled, with_multiplier

from ..panel import Panel
from .parts import can_start_over
from .scalebench_view import table, text, view

OUTLIERS = range(1, 25)  # powers of two, times the root mean square of the others; the first one stands for no outlier
SIZES = range(-24, 13)  # powers of two: the root mean square of the others
NONE = OUTLIERS[0]
SHAPE, PLACE, ELSEWHERE = (128, 256), (5, 37), (100, 200)  # ELSEWHERE shares no row and no block with the outlier at PLACE

# Each recipe quantises x; `before` is the tensor of the step before, which had no outlier yet.
RECIPES = {
    "E4M3, no scale": lambda x, before: with_multiplier(x, E4M3, 1.0, 0),
    "E5M2, no scale": lambda x, before: with_multiplier(x, E5M2, 1.0, 0),
    "E4M3, one scale": lambda x, before: scaled(x, E4M3),
    "E5M2, one scale": lambda x, before: scaled(x, E5M2),
    "E4M3, delayed": lambda x, before: with_multiplier(x, E4M3, scale_for(before.abs().max(), E4M3)),
    "E4M3, rows": lambda x, before: scaled(x, E4M3, "row"),
    "E4M3, 1 × 128": lambda x, before: scaled(x, E4M3, (1, 128)),
    "E4M3, 128 × 128": lambda x, before: scaled(x, E4M3, (128, 128)),
    "MXFP8, floor": lambda x, before: mx(x, E4M3, "floor"),
    "MXFP8, round-up": lambda x, before: mx(x, E4M3, "round-up"),
    "FP4, one scale": lambda x, before: scaled(x, E2M1),
    "MXFP4, floor": lambda x, before: mx(x, E2M1, "floor"),
    "NVFP4": lambda x, before: nvfp4(x),
}


class Numbers:
    """A matrix brought to a root mean square of 1, and what has been worked out about it. Normal numbers, if none is given."""

    def __init__(self, x=None):
        x = np.random.default_rng(9).standard_normal(SHAPE) if x is None else x
        x = torch.as_tensor(x).detach().cpu().float()
        if x.dim() != 2 or x.shape[0] % 128 or x.shape[1] % 256 or not x.isfinite().all() or not x.any():
            raise ValueError(f"a tensor of shape {tuple(x.shape)}: give a finite matrix, not all zero, of 128 rows and 256 columns or multiples of them")
        self.matrix = (x / x.double().square().mean().sqrt()).float()
        self.results = {}  # worked out once each, and gone with the panel
        sizes = self.matrix.abs().flatten()
        sizes[PLACE[0] * x.shape[1] + PLACE[1]] = 0
        exponents = torch.frexp(sizes[sizes > 0]).exponent - 1
        self.counts = dict(zip(*(each.tolist() for each in exponents.unique(return_counts=True))))  # by powers of two

    def at(self, outlier, size):
        """(the tensor with the outlier, the same without it) at a size, both exact multiples by a power of two."""
        before = self.matrix * 2.0**size
        x = before.clone()
        if outlier != NONE:
            x[PLACE] = 2.0 ** (outlier + size)
        return x, before


@dataclass(frozen=True)
class ScaleState:
    """The numbers; the outlier is 2^outlier times their root mean square 2^size, and there is none at `NONE`."""

    numbers: Numbers
    outlier: int = 8
    size: int = 0
    chosen: int | None = None  # the recipe that the sentence tells about
    message: str = ""
    first: "ScaleState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back


@dataclass(frozen=True)
class Result:
    """What a recipe keeps. `sqnr` in decibels is that of the whole tensor, `rest` that of the others without the outlier; `flushed` and
    `saturated` are shares; `outlier` is what comes back of it, over what it was; `windows` are (smallest number kept, largest) of the
    outlier's block and elsewhere, in `fmt`."""

    sqnr: float
    rest: float
    flushed: float
    saturated: float
    bits: float
    outlier: float
    windows: tuple
    fmt: FloatFormat


def results(state) -> dict[str, Result]:
    """Recipe by recipe what becomes of the present tensor, worked out once."""
    key, threads = (state.outlier, state.size), torch.get_num_threads()
    if key not in state.numbers.results:
        torch.set_num_threads(1)  # on a busy machine waiting for a second thread takes longer than the work
        try:
            x, before = state.numbers.at(*key)
            state.numbers.results[key] = {name: judge(x, recipe(x, before)) for name, recipe in RECIPES.items()}
        finally:
            torch.set_num_threads(threads)
    return state.numbers.results[key]


def judge(x, quantised) -> Result:
    """Measure one quantisation of the tensor.

    >>> x, _ = Numbers().at(8, 0)
    >>> found = judge(x, RECIPES["FP4, one scale"](x, x))
    >>> found.flushed > 0.99, found.saturated, found.outlier
    (True, 0.0, 1.0)
    """
    kept, back = quality(x, quantised), quantised.dequantise()
    error, power = (back.double() - x.double()).square(), x.double().square()
    rest = (power.sum() - power[PLACE]).item(), (error.sum() - error[PLACE]).item()
    least = (quantised.fmt.min_subnormal or quantised.fmt.min_normal) / 2
    multipliers = quantised.multiplier[PLACE].item(), quantised.multiplier[ELSEWHERE].item()
    windows = tuple((least / each, quantised.fmt.max / each) for each in multipliers)
    return Result(
        kept.sqnr, 10 * math.log10(rest[0] / rest[1]) if rest[1] > 0 else math.inf, kept.flushed, kept.saturated, kept.bits_per_value,
        (back[PLACE] / x[PLACE]).item(), windows, quantised.fmt,
    )  # fmt: skip


# ---- actions

# name: (power of the outlier, power of the size)
PRESETS = {
    "no outlier": (NONE, 0),
    "an outlier of 16": (4, 0),
    "an outlier of 256": (8, 0),
    "an outlier of 65 536": (16, 0),
    "a small gradient, 2⁻¹⁴": (NONE, -14),
    "that gradient with an outlier": (10, -14),
    "beyond the range of E4M3": (20, 0),
}


def start(x=None, outlier=8, size=0) -> ScaleState:
    """The first state. Raises `ValueError` for a power off its slider, or a tensor that no block fits."""
    if outlier not in OUTLIERS or size not in SIZES:
        raise ValueError(f"outlier={outlier!r}, size={size!r}: whole numbers from {NONE} to {OUTLIERS[-1]} and from {SIZES[0]} to {SIZES[-1]}")
    return ScaleState(Numbers(x), outlier, size)


@can_start_over
def update(state: ScaleState, action: dict) -> ScaleState:
    """Apply one action: outlier | size (a slider's place), move outlier ±1 | move size ±1, preset n, recipe n, restart."""
    name, *rest = action["act"].split()
    state = replace(state, message="")
    if name in ("outlier", "size"):
        return _to(state, name, round(float(action["value"])))
    if name == "move":
        return _to(state, rest[0], getattr(state, rest[0]) + int(rest[1]))
    if name == "preset":
        outlier, size = list(PRESETS.values())[int(rest[0])]
        return replace(state, outlier=outlier, size=size)
    if name == "recipe":
        number = range(len(RECIPES))[int(rest[0])]
        return replace(state, chosen=None if state.chosen == number else number)
    raise ValueError(f"{name!r} is no action of this panel")


def _to(state, which, power):
    allowed = {"outlier": OUTLIERS, "size": SIZES}[which]
    if power not in allowed:
        return replace(state, message=f"The slider goes from {allowed[0]} to {allowed[-1]}.")
    return replace(state, **{which: power})


class ScaleBench(Panel):
    """One tensor, every scaling recipe: signal to quantisation noise (SQNR), flushed, saturated, bits per value.

    `x` is a matrix of 128 rows and 256 columns, or multiples of them (default: normal numbers); it is brought to a root mean square of
    2^size, and one of its numbers is set to 2^outlier times that. Rounding is to nearest, ties to even; overflow saturates. "Delayed" has
    the scale of the same tensor without the outlier. Raises `ValueError` for another shape or a power off its slider.

    >>> print(str(ScaleBench(outlier=16)).splitlines()[0])
    ScaleBench: 128 × 256 numbers around 2⁰, an outlier of 2¹⁶ times that
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, x=None, outlier=8, size=0):
        super().__init__(start(x, outlier, size))
