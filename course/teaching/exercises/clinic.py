"""Exercises of notebook 13: the trainers of the clinic, in `course.teaching.clinic`, which are judged by what their runs show."""

from ..clinic import attention, formats, scaler, states, sums

EXERCISES = (*scaler.CASES, *formats.CASES, *states.CASES, *sums.CASES, *attention.CASES)
