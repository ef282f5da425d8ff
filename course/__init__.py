"""Floating-point formats and mixed-precision training, as a course.

Three floors, each importing only what lies below it: `course.numerics` (what a number is),
`course.training` (what a run does), `course.teaching` (how it is shown). Importing `course` is quick
and loads no torch: a name from below is loaded when it is first used.

>>> import course
>>> course.FP16.max
65504.0
"""

import importlib

__version__ = "0.1.0"

# The names a notebook reaches as `course.<name>`, and the module that defines each.
_HOME = {
    "FORMATS": "numerics.formats",
    "FP16": "numerics.formats",
    "BF16": "numerics.formats",
    "start": "teaching.session",
    "machine": "teaching.session",
    "measured": "teaching.session",
    "predict": "teaching.questions",
    "self_test": "teaching.questions",
    "check": "teaching.exercises",
    "hint": "teaching.exercises",
    "solution": "teaching.exercises",
    "progress": "teaching.progress",
}


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'course' has no attribute {name!r}")
    return getattr(importlib.import_module(f"course.{_HOME[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOME])
