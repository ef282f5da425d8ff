"""The widgets, each a `Panel` made of pure functions in its own module."""

import importlib

_HOME = {
    "BitPanel": "bits",
    "RoundingBench": "bench",
    "UlpRuler": "ruler",
    "UnderflowWindow": "window",
    "ScalerTape": "tape",
    "SwampingMicroscope": "microscope",
    "MemoryLedger": "ledger",
    "DtypeTrace": "dtypes",
    "ScaleBench": "scalebench",
    "RecipeGuide": "guide",
    "PhaseMap": "phasemap",
    "GridLoupe": "gridloupe",
    "ShardLedger": "sharding",
    "FactCheck": "factcheck",
    "ClinicBed": "clinic",
    "InterviewDrill": "drill",
    "DailyReview": "review",
}
__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'course.teaching.panels' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
