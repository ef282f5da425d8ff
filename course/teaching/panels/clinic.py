"""ClinicBed: a broken trainer, its symptom first, then instruments, then the trainer itself to repair and to check."""

from dataclasses import dataclass, field, replace
from functools import lru_cache

from .. import clinic
from ..clinic.instruments import INSTRUMENTS, Reading, read
from ..clinic.model import quietly
from ..exercises import check
from ..exercises.checking import Verdict
from ..panel import Panel
from ..progress import load, record
from .parts import can_start_over


@dataclass(frozen=True)
class ClinicState:
    """Which case, the trainer as the reader has it, and what was found so far: a reading, a verdict, the curve of a checked trainer."""

    id: str
    source: str = ""
    instrument: str = ""
    reading: Reading | None = None
    verdict: Verdict | None = None
    curve: tuple = ()
    hints: int = 0
    solution: bool = False
    trouble: str = ""
    first: "ClinicState | None" = field(default=None, compare=False, repr=False)

    @property
    def case(self):
        """The case on the bed."""
        return clinic.CASES[self.id]


def start(case="13-1") -> ClinicState:
    """A case as it was left, or with its broken trainer. Raises `ValueError` for a case that does not exist."""
    if case not in clinic.CASES:
        raise ValueError(f"there is no case {case!r}: choose one of {', '.join(clinic.CASES)}")
    kept = load().get("trainers", {}).get(case, {}).get("text")
    return ClinicState(case, kept if isinstance(kept, str) and kept.strip() else clinic.CASES[case].broken_text)


@lru_cache(maxsize=64)
def symptom(id) -> tuple:
    """The curve of the broken trainer with the first seed."""
    case = clinic.CASES[id]
    with quietly():
        return tuple(case.curve(0, case.broken(0)))


def _curve(case, function):
    try:
        with quietly():
            return tuple(case.curve(0, function(0)))
    except Exception:
        return ()


@can_start_over
def update(state: ClinicState, action: dict) -> ClinicState:
    """Apply one action: case id | edit text | instrument name | check | hint | solution | broken | restart."""
    name, *rest = action["act"].split()
    if name == "case":
        return start(action.get("value") or rest[0])
    if name == "edit":
        text = str(action.get("value", ""))[:20_000].replace("\r\n", "\n").replace("\t", "    ")
        return _edited(state, text)
    if name == "broken":
        return _edited(state, state.case.broken_text)
    if name == "instrument":
        return _read(state, rest[0])
    if name == "check":
        return _checked(state)
    if name == "hint":
        return replace(state, hints=min(3, state.hints + 1))
    if name == "solution":
        return replace(state, solution=not state.solution)
    raise ValueError(f"{name!r} is no action of this panel")


def _edited(state, text):
    if not text.strip():
        raise ValueError("an empty trainer is not kept; “the broken one again” brings it back")
    trouble = record("trainers", state.id, text=text)
    return replace(state, source=text, reading=None, instrument="", verdict=None, curve=(), trouble=trouble)


def _read(state, name):
    if name not in INSTRUMENTS:
        raise ValueError(f"{name!r} is no instrument: choose one of {', '.join(INSTRUMENTS)}")
    train = state.case.from_text(state.source)
    reading = Reading(train.message) if isinstance(train, Verdict) else read(name, train)
    return replace(state, instrument=name, reading=reading)


def _checked(state):
    verdict = check(state.id, state.source)
    function = state.case.from_text(state.source)
    ran = verdict.status in ("right", "wrong") and not isinstance(function, Verdict)
    return replace(state, verdict=verdict, curve=_curve(state.case, function) if ran else ())


from .clinic_view import say, table, text, view  # noqa: E402  (the view asks for the symptom)


class ClinicBed(Panel):
    """A case of the debugging clinic: see the symptom, use instruments, edit the trainer, check it. What is typed is kept with the progress.

    `case` is an id from "13-1" on. Raises `ValueError` for another.

    >>> panel = ClinicBed("13-3")
    >>> print(str(panel).splitlines()[0])
    ClinicBed 13-3: a loss scale that halves at every step until it is 0 (the loss scaler, hard, 12 minutes)
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, case="13-1"):
        super().__init__(start(case))


__all__ = ["ClinicBed", "ClinicState", "say", "start", "symptom", "table", "text", "update", "view"]
