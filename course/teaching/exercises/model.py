"""What an exercise is: a reference, the misconceptions it can tell apart, the inputs that tell them apart, three hints."""

import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Misconception:
    """A wrong answer that has a name: `solve` makes its mistake, `message` tells the learner which one it is."""

    name: str
    solve: Callable
    message: str


@dataclass(frozen=True)
class Exercise:
    """One exercise. `cases` are the argument tuples that are tried; `show` writes one of them for the learner.

    `reference` is the solution and the oracle; `why` says what it teaches; `hints` are three steps, the last one a line with
    a hole. `same(got, wanted)` compares results; the default wants equality, with NaN equal to NaN and -0 not to 0.
    """

    id: str
    title: str
    difficulty: str
    minutes: int
    why: str
    reference: Callable
    cases: tuple
    misconceptions: tuple
    hints: tuple
    show: Callable = lambda *args: ", ".join(map(repr, args))
    show_result: Callable = repr
    same: Callable = None
    remark: Callable = lambda got, wanted: ""  # a sentence about a result whose kind gives the mistake away

    def agree(self, got, wanted) -> bool:
        """Whether a learner's result is the wanted one; a result of a wrong kind is simply not."""
        if isinstance(got, (str, bytes, set, dict)) and not isinstance(wanted, str):
            return False  # float("0.5") is a number, but "0.5" is not
        try:
            return bool((self.same or equal)(got, wanted))
        except Exception:
            return False

    @property
    def solution_text(self) -> str:
        """The reference as source code, without its leading underscores and internal indentation."""
        if getattr(self.reference, "withheld", False):
            return "# This copy of the course has no solutions: ask your teacher."
        return textwrap.dedent(inspect.getsource(self.reference)).rstrip()


def equal(got, wanted) -> bool:
    """Equality that a check can rely on: NaN equals NaN, 0 differs from -0, tuples element by element.

    >>> equal(math.nan, math.nan), equal(0.0, -0.0), equal((1, 2.0), [1, 2])
    (True, False, True)
    """
    if isinstance(wanted, (tuple, list)):
        return len(got) == len(wanted) and all(map(equal, got, wanted))
    if isinstance(wanted, (bool, str)) or wanted is None:
        return got == wanted
    if isinstance(wanted, Fraction):
        return Fraction(got) == wanted
    if isinstance(wanted, int):
        return got == wanted and int(got) == got
    got = float(got.detach() if hasattr(got, "detach") else got)  # a weight of torch's: it warns otherwise
    if math.isnan(wanted):
        return math.isnan(got)
    return got == wanted and math.copysign(1, got) == math.copysign(1, wanted)
