"""PhaseMap: the recorded phase diagrams, to walk through: which formats train, which border stops the others, and your own split of a bit budget."""

from dataclasses import dataclass, field, replace

import numpy as np

from course.training.phase import EXPONENT_BITS, MANTISSA_BITS, SCALING, STORED, TASKS, Condition, load

from ..panel import Panel
from .parts import can_start_over
from .phasemap_view import table, text, view

BUDGETS = range(3, 20)  # from E2M0 to E8M10, sign included
PRESETS = {"FP16": (5, 10), "BF16": (8, 7), "E5M2": (5, 2), "E4M3": (4, 3), "E2M1": (2, 1)}
CHANCE = float(np.log(10))  # the loss of guessing among ten kinds
CLASSES = ("as FP32", "worse", "hardly", "not at all")


@dataclass(frozen=True)
class PhaseState:
    """The condition of the map and the format that is pointed at; its bits are the budget whose splits are marked."""

    task: str = "digits"
    rate: int = 0  # 0: the larger learning rate of the task, 1: a tenth of it
    stored: str = "master"
    scaling: str = "none"
    e: int = 4
    m: int = 3
    message: str = ""
    first: "PhaseState | None" = field(default=None, compare=False, repr=False)

    @property
    def condition(self) -> Condition:
        return Condition(self.task, TASKS[self.task][1][self.rate], self.stored, self.scaling)

    @property
    def budget(self) -> int:
        return 1 + self.e + self.m


@can_start_over
def update(state: PhaseState, action: dict) -> PhaseState:
    """Apply one action: task n | rate n | stored n | scaling n | cell e m | up | down | budget | split | preset n | restart."""
    name, *rest = action["act"].split()
    state = replace(state, message="")
    if name == "task":
        return replace(state, task=list(TASKS)[int(rest[0])])
    if name == "rate":
        return replace(state, rate=int(rest[0]))
    if name in ("stored", "scaling"):
        return _kept(replace(state, **{name: (STORED if name == "stored" else SCALING)[int(rest[0])]}), name)
    if name == "cell":
        return _pointed(state, *map(int, rest))
    if name in ("up", "down"):
        return _pointed(state, state.e + (1 if name == "down" else -1), state.m)
    if name == "preset":
        return _pointed(state, *list(PRESETS.values())[int(rest[0])])
    if name == "budget":
        return _designed(state, min(BUDGETS[-1], max(BUDGETS[0], int(action["value"]))), state.e)
    if name == "split":
        return _designed(state, state.budget, int(action["value"]))
    raise ValueError(f"{name!r} is no action of this panel")


def _pointed(state, e, m):
    return replace(state, e=min(8, max(2, e)), m=min(10, max(0, m)))


def ends(budget) -> tuple:
    """The fewest and the most exponent bits of the splits of a budget that are on the map.

    >>> ends(8), ends(16)
    ((2, 7), (5, 8))
    """
    spent = budget - 1
    return max(EXPONENT_BITS[0], spent - MANTISSA_BITS[-1]), min(EXPONENT_BITS[-1], spent - MANTISSA_BITS[0])


def _designed(state, budget, e):
    """Point at the split of the budget with `e` exponent bits, or the nearest one."""
    fewest, most = ends(budget)
    e = min(most, max(fewest, e))
    return replace(state, e=e, m=budget - 1 - e)


def _kept(state, changed):
    """Tensor scales were recorded beside masters only."""
    if state.scaling != "tensor" or state.stored == "master":
        return state
    words = "Scales per tensor were recorded with FP32 masters only"
    if changed == "stored":
        return replace(state, scaling="loss", message=f"{words}: the map shows a loss scale instead.")
    return replace(state, stored="master", message=f"{words}: the map shows those.")


# ---- what the record says


def medians(condition) -> np.ndarray:
    """(7, 11): the median over the seeds of each format's final loss; Inf where most seeds were lost."""
    return np.median(np.nan_to_num(load().final(condition), nan=np.inf), axis=2)


def class_of(condition, loss) -> str:
    """Which of `CLASSES` a final loss belongs to.

    "as FP32" is at most a quarter above the median of FP32's seeds, and at least nine tenths of FP32's way down from guessing;
    "hardly" is less than half of the way from guessing to nothing, "not at all" within a tenth of guessing, or worse.

    >>> [class_of(Condition(), loss) for loss in (0.02, 0.3, 1.5, 2.3, float("inf"))]
    ['as FP32', 'worse', 'hardly', 'not at all', 'not at all']
    """
    reference = float(np.median(load().reference(condition)))
    if loss <= min(1.25 * reference, CHANCE - 0.9 * (CHANCE - reference)):
        return CLASSES[0]
    return CLASSES[1] if loss < CHANCE / 2 else CLASSES[2] if loss < 0.9 * CHANCE else CLASSES[3]


def trains(condition, e, m) -> bool:
    """Whether a format trains as FP32 does under a condition."""
    return class_of(condition, medians(condition)[e - EXPONENT_BITS[0], m - MANTISSA_BITS[0]]) == CLASSES[0]


def remedies(condition, e, m) -> list:
    """What on the map would make this format train as FP32 does, one change at a time; empty when it does already.

    >>> remedies(Condition(), 8, 7)
    []
    """
    if trains(condition, e, m):
        return []
    found = []
    if condition.stored != "master" and trains(replace(condition, stored="master"), e, m):
        found.append("FP32 masters")
    if condition.stored == "nearest" and trains(replace(condition, stored="stochastic"), e, m):
        found.append("stochastic rounding of the updates")
    if condition.scaling == "none" and trains(replace(condition, scaling="loss"), e, m):
        found.append("a loss scale")
    if condition.scaling != "tensor" and condition.stored == "master" and trains(replace(condition, scaling="tensor"), e, m):
        found.append("a scale per tensor")
    if trains(condition, EXPONENT_BITS[-1], m):
        found.append("8 exponent bits")
    if trains(condition, e, MANTISSA_BITS[-1]):
        found.append("10 mantissa bits")
    return found


def splits(condition, budget) -> list:
    """[(exponent bits, mantissa bits, median final loss)] of all formats with a sign and `budget` bits in all on the map.

    >>> [(e, m) for e, m, loss in splits(Condition(), 8)]
    [(2, 5), (3, 4), (4, 3), (5, 2), (6, 1), (7, 0)]
    """
    every = medians(condition)
    return [(e, budget - 1 - e, float(every[e - 2, budget - 1 - e])) for e in EXPONENT_BITS if budget - 1 - e in MANTISSA_BITS]


class PhaseMap(Panel):
    """The recorded final losses of 77 formats as a map of exponent bits × mantissa bits, under a condition that you choose.

    Two sliders design a format: how many bits it has, and how many of them are exponent bits. All splits of the same bits are
    marked. `stored` and `scaling` as in `course.training.phase.Condition`; `e`, `m` the format that is pointed at. Raises `ValueError`
    for what is not on the map.

    >>> PhaseMap(e=8, m=7).state.condition.key
    'digits 0.002 master none'
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, task="digits", stored="master", scaling="none", e=4, m=3):
        if e not in EXPONENT_BITS or m not in MANTISSA_BITS:
            raise ValueError(f"E{e}M{m} is not on the map: it has 2 to 8 exponent bits and 0 to 10 mantissa bits")
        state = PhaseState(task, 0, stored, scaling, e, m)
        if scaling == "tensor" and stored != "master":
            raise ValueError(f"stored={stored!r}: scales per tensor were recorded with stored='master' only")
        load().final(state.condition)
        super().__init__(state)
