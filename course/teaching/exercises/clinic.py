"""Exercises of notebook 13: the trainers of the clinic, in `course.teaching.clinic`, which are judged by what their runs show."""

from ..clinic import scaler

EXERCISES = (*scaler.CASES,)
