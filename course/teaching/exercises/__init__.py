"""Exercises: `check` says what a learner's function gets wrong, `hint` helps a step, `solution` is always open."""

import html

from . import autocast, bits, clinic, fp8, masters, quantised, ranges, realrun, rounding, scaling, sharded, swamping, underflow, verdicts, whiteboard
from .checking import Verdict, examine
from .model import Exercise, Misconception

EXERCISES = {exercise.id: exercise for module in (bits, rounding, underflow, scaling, swamping, masters, autocast, fp8, realrun, ranges, quantised, sharded, verdicts, clinic, whiteboard) for exercise in module.EXERCISES}

__all__ = ["EXERCISES", "Exercise", "Misconception", "Verdict", "check", "examine", "hint", "solution"]


class Note:
    """Text for the learner, with code if there is any, shown as a box in a notebook and as plain lines elsewhere."""

    def __init__(self, title, body, code="", end=""):
        self.title, self.body, self.code, self.end = title, body, code, end

    def __repr__(self):
        return "\n".join(part for part in (self.title, self.body, self.code, self.end) if part)

    def _repr_html_(self):
        code = f"<pre>{html.escape(self.code)}</pre>" if self.code else ""
        end = f"<p>{html.escape(self.end)}</p>" if self.end else ""
        return f"<p><strong>{html.escape(self.title)}</strong><br>{html.escape(self.body)}</p>{code}{end}"


def check(exercise_id: str, function) -> Verdict:
    """Try the learner's function and say what it got: not attempted, crashed, wrong (and which mistake it is) or right.

    Never raises, whatever the function does; one that does not come back within ten seconds is stopped.

    >>> def bias_of(exponent_bits: int) -> int:
    ...     return 2 ** (exponent_bits - 1)
    >>> print(check("01-2", bias_of).message.splitlines()[0])
    one too many: 2^(E-1) is the field of 2.0 (and the bias of the FNUZ formats); IEEE takes one less.
    """
    from ..progress import record

    exercise = EXERCISES.get(exercise_id) if isinstance(exercise_id, str) else None
    if exercise is None:
        return Verdict("unknown", str(exercise_id)[:20], f"There is no such exercise: choose one of {', '.join(EXERCISES)}.")
    if isinstance(function, str) and hasattr(exercise, "from_text"):  # a trainer may be given as its text
        function = exercise.from_text(function)
    verdict = function if isinstance(function, Verdict) else examine(exercise, function)
    if verdict.status == "not attempted":
        return verdict
    solved = {"solved": True} if verdict.status == "right" else {}  # once solved it stays so, whatever is tried later
    trouble = record("exercises", exercise_id, status=verdict.status, **solved)
    return verdict.with_note(trouble) if trouble else verdict


def hint(exercise_id: str, step: int = 1) -> Note:
    """One of three steps: 1 where to look, 2 the idea, 3 the line with a hole in it.

    >>> hint("01-2").title
    'Hint 1 of 3 for 01-2'
    """
    exercise = _find(exercise_id)
    if step not in (1, 2, 3):
        raise ValueError(f"step={step!r}: there are three hints, 1, 2 and 3")
    following = f'course.hint("{exercise_id}", {step + 1})' if step < 3 else f'course.solution("{exercise_id}")'
    text = exercise.hints[step - 1]
    body, code = (text, "") if step < 3 else ("Fill the gap:", text)
    return Note(f"Hint {step} of 3 for {exercise_id}", body, code, f"Next: {following}.")


def solution(exercise_id: str) -> Note:
    """The solution's code, and why it is so.

    >>> print(solution("01-2").code.splitlines()[0])
    def bias_of(exponent_bits: int) -> int:
    """
    exercise = _find(exercise_id)
    return Note(f"Solution of {exercise_id}: {exercise.title}", exercise.why, exercise.solution_text)


def _find(exercise_id):
    if exercise_id not in EXERCISES:
        raise ValueError(f"there is no exercise {exercise_id!r}: choose one of {', '.join(EXERCISES)}")
    return EXERCISES[exercise_id]
