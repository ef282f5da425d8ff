"""What the makers of chips promise: peak rates by format, memory, bandwidth; and what of it a training step can feel.

The numbers are in `data/chips.yaml`, dense rates with their sources. They are promises: `python -m course doctor` measures.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from course.training import RunError
from course.training.capabilities import emulated_dtypes, native_dtypes
from course.training.hardware import Device
from course.training.recipes import recommended
from course.training.roofline import amdahl

_FILE = Path(__file__).parents[2] / "data" / "chips.yaml"


@dataclass(frozen=True)
class Chip:
    """One chip: peak matrix rates in TFLOP/s by format (dense), memory in GB, bandwidth in TB/s."""

    name: str
    kind: str
    capability: tuple | str
    peak: dict
    memory: float
    bandwidth: float
    source: str

    @property
    def device(self) -> Device:
        """The chip as `doctor` would describe it."""
        native = native_dtypes(self.kind, self.capability)
        size = int(self.memory * 1e9)
        return Device(self.kind, self.name, self.capability, (), size, size, native, emulated_dtypes(native))

    @property
    def recipe(self) -> str:
        """The name of the recipe to train with on it."""
        return recommended(self.device)

    def gain(self, fmt) -> float:
        """How many times as fast as in FP32 a matrix product can be at most.

        >>> load()["T4"].gain("fp16")
        8.024691358024691
        """
        return self._rate(fmt) / self.peak["fp32"]

    def ridge(self, fmt) -> float:
        """Operations per byte of memory traffic from which on the matrix units, not the memory, are the limit.

        >>> round(load()["H100 SXM"].ridge("bf16"))
        295
        """
        return self._rate(fmt) / self.bandwidth

    def _rate(self, fmt):
        if fmt not in self.peak:
            raise RunError(f"{self.name} has no matrix units for {fmt}: choose one of {', '.join(self.peak)}")
        return self.peak[fmt]


@lru_cache(maxsize=1)
def load() -> dict:
    """All chips by name. Raises `RunError` when `data/chips.yaml` is missing.

    >>> [name for name, chip in load().items() if "fp8" in chip.peak][:2]
    ['L40S', 'H100 SXM']
    """
    try:
        rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{_FILE} cannot be read ({error}): restore it from the course's repository") from None
    for row in rows.values():
        row["capability"] = tuple(row["capability"]) if isinstance(row["capability"], list) else row["capability"]
    return {name: Chip(name, **row) for name, row in rows.items()}


def step_speedup(share, gain) -> float:
    """How much faster a whole step gets when a `share` of its time, the matrix products, gets `gain` times as fast.

    G. M. Amdahl, *Validity of the single processor approach*, 1967: the rest stays as slow as it was. Raises `ValueError` for a
    share outside of 0 … 1 or a gain that is not positive.

    >>> step_speedup(0.75, 3.0), step_speedup(0.75, float("inf"))
    (2.0, 4.0)
    """
    if not 0 <= share <= 1 or not gain > 0:
        raise ValueError(f"share={share!r}, gain={gain!r}: give a share from 0 to 1 and a positive gain")
    return amdahl({"products": share, "rest": 1 - share}, {"products": gain})
