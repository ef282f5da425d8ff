"""InterviewDrill: a mock interview. A question, your own notes against the clock, the rubric, the trap, the proof, the follow-up.

The clock is a number that comes with each action (`at`, seconds); `InterviewDrill.act` fills it in, the functions here only subtract.
"""

import time
import zlib
from dataclasses import dataclass, field, replace

from ..interview import proofs
from ..interview.bank import LEVELS, TOPICS, bank, choose
from ..panel import Panel
from ..progress import load, record
from .drill_view import table, text, view
from .parts import can_start_over

LENGTHS = (3, 6, 10)
LONGEST_NOTE = 4000


@dataclass(frozen=True)
class Answered:
    """One question that has been worked through: which points of the rubric were ticked, and the seconds it took to answer."""

    id: str
    ticked: tuple
    seconds: int


@dataclass(frozen=True)
class DrillState:
    """`phase`: "setup", "ask", "rubric", "answer", "done". `taken` is how many interviews there were before: each has other questions."""

    levels: tuple = LEVELS
    topics: tuple = tuple(TOPICS)
    length: int = 6
    taken: int = 0
    phase: str = "setup"
    order: tuple = ()
    notes: str = ""
    ticked: tuple = ()
    proof: bool | None = None
    asked_at: float = 0.0
    seconds: int = 0
    answered: tuple = ()
    trouble: str = ""
    first: "DrillState | None" = field(default=None, compare=False, repr=False)

    @property
    def item(self):
        """The question on screen."""
        return bank()[self.order[len(self.answered)]]


def start(levels=LEVELS, topics=tuple(TOPICS), length=6) -> DrillState:
    """The first state. Raises `ValueError` for a level, a topic or a length that does not exist."""
    levels, topics = ([names] if isinstance(names, str) else names for names in (levels, topics))
    choose(levels, topics)
    if length not in LENGTHS:
        raise ValueError(f"length={length!r}: choose {', '.join(map(str, LENGTHS))}")
    return DrillState(tuple(name for name in LEVELS if name in levels), tuple(name for name in TOPICS if name in topics), length)


def questions(levels, topics, length, taken=0) -> tuple:
    """The ids of one interview: from the topics in turn, in an order that depends on how many interviews were taken before.

    >>> questions(LEVELS, tuple(TOPICS), 3) != questions(LEVELS, tuple(TOPICS), 3, taken=1)
    True
    """
    mixed = sorted(choose(levels, topics), key=lambda item: zlib.crc32(f"{taken}:{item.id}".encode()))
    places = {item.id: sum(other.topic == item.topic for other in mixed[:i]) for i, item in enumerate(mixed)}
    return tuple(item.id for item in sorted(mixed, key=lambda item: places[item.id])[:length])


@can_start_over
def update(state: DrillState, action: dict) -> DrillState:
    """Apply one action: level n | topic n | every | length n | start | notes (value) | rubric | tick i | answer | prove | next | restart."""
    name, *rest = action["act"].split()
    now = float(action.get("at", 0.0))
    if state.phase == "setup":
        return _set_up(state, name, rest, now)
    if name == "notes" and state.phase in ("ask", "rubric"):
        notes = str(action.get("value", ""))[:LONGEST_NOTE]
        return replace(state, notes=notes, trouble=record("notes", state.item.id, text=notes))
    if name == "rubric" and state.phase == "ask":
        return replace(state, phase="rubric", seconds=max(0, round(now - state.asked_at)))
    if name == "tick" and state.phase == "rubric":
        return _tick(state, int(rest[0]))
    if name == "answer" and state.phase == "rubric":
        return replace(state, phase="answer")
    if name == "prove" and state.phase == "answer":
        return replace(state, proof=proofs.run(state.item.proof))
    if name == "next" and state.phase == "answer":
        return _next(state, now)
    raise ValueError(_HELP.get(state.phase, "press “start over”"))


_HELP = {
    "ask": "answer first, then press “Show the rubric”",
    "rubric": "tick what your answer said, then press “Show the model answer”",
    "answer": "run the proof or go on to the next question",
    "done": "the interview is over: start over for another",
}


def _set_up(state, name, rest, now):
    if name == "level":
        return replace(state, levels=_toggled(state.levels, rest[0], LEVELS))
    if name == "topic":
        return replace(state, topics=_toggled(state.topics, rest[0], TOPICS))
    if name == "every":
        return replace(state, levels=LEVELS, topics=tuple(TOPICS))
    if name == "length" and int(rest[0]) in LENGTHS:
        return replace(state, length=int(rest[0]))
    if name == "start":
        taken = sum(int(entry.get("times", 0)) for entry in load().get("interviews", {}).values() if isinstance(entry.get("times"), int))
        order = questions(state.levels, state.topics, state.length, taken)
        if not order:
            raise ValueError("choose a level and a topic at least")
        return _ask(replace(state, order=order, taken=taken), now)
    raise ValueError("choose levels, topics and a length, then press “Start”")


def _toggled(chosen, name, all_names):
    if name not in all_names:
        raise ValueError(f"{name!r} is none of {', '.join(all_names)}")
    return tuple(one for one in all_names if (one in chosen) != (one == name))


def _ask(state, now):
    return replace(state, phase="ask", notes="", ticked=(), proof=None, asked_at=now, seconds=0)


def _tick(state, point):
    if not 0 <= point < len(state.item.must):
        raise ValueError(f"the rubric has {len(state.item.must)} points")
    return replace(state, ticked=tuple(sorted({point} ^ set(state.ticked))))


def _next(state, now):
    item = state.item
    answered = (*state.answered, Answered(item.id, state.ticked, state.seconds))
    trouble = record("interviews", item.id, ticked=len(state.ticked), of=len(item.must), seconds=state.seconds, times=_times(item.id) + 1)
    state = replace(state, answered=answered, trouble=trouble)
    return replace(state, phase="done") if len(answered) == len(state.order) else _ask(state, now)


def _times(item_id):
    times = load().get("interviews", {}).get(item_id, {}).get("times", 0)
    return times if isinstance(times, int) else 0


class InterviewDrill(Panel):
    """A mock interview over the question bank; notes and results are kept with the reader's progress.

    `levels` and `topics` are names or lists of names, `length` is 3, 6 or 10. Raises `ValueError` for others.

    >>> print(InterviewDrill("junior", ["bits", "rounding"], 3))
    InterviewDrill: a mock interview of 3 questions
    levels: junior
    topics: bits and ranges; rounding
    10 questions to draw from. Press “Start” when you are ready to answer aloud or in writing.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, levels=LEVELS, topics=tuple(TOPICS), length=6):
        super().__init__(start(levels, topics, length))

    def act(self, action: dict):
        """As in `Panel`; the time is read here, unless the action brings its own."""
        return super().act({"at": time.monotonic(), **action})
