"""A solution that was withheld: what it gives for each case of its exercise, and nothing of how."""

import json
from functools import lru_cache
from pathlib import Path

RECORD = Path(__file__).with_name("answers.json")


@lru_cache(maxsize=1)
def _record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


class Answers:
    """Stands for the solution (place 0) or a misconception (from 1 on) of an exercise in a copy released without solutions."""

    withheld = True

    def __init__(self, exercise_id, place):
        self.exercise_id, self.place = exercise_id, place

    def __call__(self, *case):
        from ..grading import wire
        from . import EXERCISES

        cases = [repr(known) for known in EXERCISES[self.exercise_id].cases]
        if repr(case) not in cases:
            raise ValueError(f"{self.exercise_id} was released without its solution: only its own cases are known")
        return wire.unpack(_record()[self.exercise_id][self.place][cases.index(repr(case))])
