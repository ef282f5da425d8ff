"""The widgets: `BitPanel`, `UlpRuler`, `RoundingBench`. Each is a `Panel` made of pure functions in its own module."""

from .bench import RoundingBench
from .bits import BitPanel
from .ruler import UlpRuler

__all__ = ["BitPanel", "RoundingBench", "UlpRuler"]
