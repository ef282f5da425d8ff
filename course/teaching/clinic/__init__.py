"""The debugging clinic: trainers with one fault each, what a run of them shows, and how a repair is judged."""

from .. import exercises  # first: its adapter imports the cases, and they import its parts
from .model import GROUPS, Case

__all__ = ["CASES", "GROUPS", "Case"]


def __getattr__(name):
    if name != "CASES":
        raise AttributeError(f"module 'course.teaching.clinic' has no attribute {name!r}")
    return {id: case for id, case in exercises.EXERCISES.items() if isinstance(case, Case)}
