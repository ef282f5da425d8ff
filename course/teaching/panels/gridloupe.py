"""GridLoupe: a few weights and one outlier that can be dragged, and the points of four grids among them."""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from course.numerics.integers import Coded
from course.training.quantised import Grid

from ..panel import Panel
from .gridloupe_view import table, text, view
from .parts import can_start_over

OUTLIERS = range(0, 11)  # powers of two: the outlier itself; the first one stands for none
BITS = (8, 4, 3, 2)
NONE = OUTLIERS[0]
SHAPE, PLACE, ELSEWHERE = (4, 64), (0, 3), (2, 40)  # ELSEWHERE shares no row and no group with the outlier
GROUP = 16


def grids(bits) -> dict[str, Grid]:
    """The four grids that are compared.

    >>> list(grids(4))
    ['one scale', 'rows', 'groups of 16', 'NF4, groups of 16']
    """
    return {"one scale": Grid(bits, "tensor"), "rows": Grid(bits, "row"), f"groups of {GROUP}": Grid(bits, GROUP),
            f"NF4, groups of {GROUP}": Grid(levels="nf4", block=GROUP)}  # fmt: skip


@lru_cache(maxsize=1)
def weights() -> torch.Tensor:
    """(4, 64) normal numbers of standard deviation 0.3 within ±1, in steps of 1/64, so that they are the same everywhere.

    >>> weights().abs().max().item() <= 1
    True
    """
    draws = np.random.default_rng(11).normal(0, 0.3, SHAPE)
    return torch.from_numpy((np.round(draws * 64) / 64).clip(-1, 1).astype(np.float32))


@dataclass(frozen=True)
class LoupeState:
    """The outlier is 2^outlier, and there is none at `NONE`; `bits` are those of the even grids."""

    outlier: int = 4
    bits: int = 4
    message: str = ""
    first: "LoupeState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back


@dataclass(frozen=True)
class Found:
    """What a grid does: its `points` in the outlier's block and elsewhere, the gap beside 0 in each, how many of the other numbers become
    `zeros`, their root mean square `error`, and bits per weight, FP32 scales included."""

    points: tuple
    gaps: tuple
    zeros: int
    error: float
    bits: float


def matrix(state) -> torch.Tensor:
    """The weights with the outlier in its place."""
    x = weights().clone()
    if state.outlier != NONE:
        x[PLACE] = 2.0**state.outlier
    return x


@lru_cache(maxsize=64)
def results(outlier, bits) -> dict[str, Found]:
    """Grid by grid what becomes of the weights."""
    x = matrix(LoupeState(outlier, bits))
    return {name: _judge(x, grid) for name, grid in grids(bits).items()}


def _judge(x, grid):
    stored = grid.stored(x)
    back = stored.dequantise()
    others = torch.ones(SHAPE, dtype=torch.bool)
    others[PLACE] = False
    zeros = int(((back == 0) & (x != 0) & others).sum())
    error = (back - x)[others].double().square().mean().sqrt().item()
    points = tuple(_points(stored, place) for place in (PLACE, ELSEWHERE))
    gaps = tuple(min(p for p in each if p > 0) for each in points)
    return Found(points, gaps, zeros, error, stored.bits_per_value)


def _points(stored, place):
    """All the numbers that the block of this place can hold."""
    if isinstance(stored, Coded):
        return tuple((stored.levels * stored.scale[place]).tolist())
    end = 2 ** (stored.bits - 1) - 1
    return tuple((torch.arange(-end, end + 1) * stored.scale[place]).tolist())


# ---- actions

# name: (power of the outlier, bits)
PRESETS = {
    "no outlier, four bits": (NONE, 4),
    "an outlier of 16": (4, 4),
    "the same in eight bits": (4, 8),
    "an outlier of 256, eight bits": (8, 8),
    "two bits, no outlier": (NONE, 2),
}


def start(outlier=4, bits=4) -> LoupeState:
    """The first state. Raises `ValueError` for an outlier off the slider or bits that have no button."""
    if outlier not in OUTLIERS or bits not in BITS:
        raise ValueError(f"outlier={outlier!r}, bits={bits!r}: give a power from {OUTLIERS[0]} to {OUTLIERS[-1]}, and bits of {BITS}")
    return LoupeState(outlier, bits)


@can_start_over
def update(state: LoupeState, action: dict) -> LoupeState:
    """Apply one action: outlier (the slider's place), move outlier ±1, bits n, preset n, restart."""
    name, *rest = action["act"].split()
    state = replace(state, message="")
    if name == "outlier":
        return _to(state, round(float(action["value"])))
    if name == "move":
        return _to(state, state.outlier + int(rest[1]))
    if name == "bits":
        return replace(state, bits=BITS[BITS.index(int(rest[0]))])
    if name == "preset":
        outlier, bits = list(PRESETS.values())[int(rest[0])]
        return replace(state, outlier=outlier, bits=bits)
    raise ValueError(f"{name!r} is no action of this panel")


def _to(state, power):
    if power not in OUTLIERS:
        return replace(state, message=f"The slider goes from none to 2^{OUTLIERS[-1]}.")
    return replace(state, outlier=power)


class GridLoupe(Panel):
    """256 bell-shaped weights within ±1, one of them an outlier of 2^outlier, on four grids: where their points lie, and what is lost.

    `bits` are those of the integer grids; NF4 has four. Symmetric, rounding to nearest-even. Raises `ValueError` for an outlier off the slider
    or other bits.

    >>> print(str(GridLoupe(outlier=0)).splitlines()[0])
    GridLoupe: 256 weights within ±1, no outlier, 4 bits
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, outlier=4, bits=4):
        super().__init__(start(outlier, bits))
