"""The debugging clinic: trainers with one fault each, what a run of them shows, and how a repair is judged."""

from ..exercises import EXERCISES
from .model import GROUPS, Case

CASES = {id: case for id, case in EXERCISES.items() if isinstance(case, Case)}

__all__ = ["CASES", "GROUPS", "Case"]
