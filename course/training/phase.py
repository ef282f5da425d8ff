"""The phase diagram: one network trained in every format of 2 to 8 exponent bits and 0 to 10 mantissa bits.

Weights, activations and gradients are in the format; sums, losses and Adam's moments are in FP32. A `Condition` says what else
holds: where the weights are kept, which scaling there is, the learning rate, the task. Rounding is to nearest, ties to even; forward
overflow saturates; backward overflow becomes Inf (formats follow IEEE 754's pattern) and skips the step, as a loss scaler would.
`python -m benchmarks phase` measures all conditions anew and writes `data/phase.json`.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch

from course.numerics.formats import FP32, FloatFormat
from course.training import RunError, digits, waves
from course.training.recipes import Recipe
from course.training.sweeps import Trial, sweep

RECORD = Path(__file__).parents[2] / "data" / "phase.json"
EXPONENT_BITS, MANTISSA_BITS = range(2, 9), range(11)
SEEDS = (0, 1, 2, 3, 4)
STEPS, WINDOW = 300, 20  # a curve is the mean loss of every 20 steps
HIDDEN = (64, 64, 64)
GAIN = 6**0.5  # the first weights are uniform within ±√(6/inputs): He's initialisation
# For each task its pictures, and a learning rate at which FP32 trains well and one ten times smaller.
TASKS = {"digits": (digits.load, (2e-3, 2e-4)), "waves": (waves.load, (4e-3, 4e-4))}
STORED = ("master", "nearest", "stochastic")
SCALING = ("none", "loss", "tensor")


@dataclass(frozen=True)
class Condition:
    """What holds for a whole diagram.

    `stored`: "master" keeps FP32 masters of the weights, "nearest" and "stochastic" keep them in the format and round each update
    so. `scaling`: "none", "loss" (a dynamic loss scale) or "tensor" (each tensor by its own power of two, no loss scale).
    """

    task: str = "digits"
    lr: float = 2e-3
    stored: str = "master"
    scaling: str = "none"

    def __post_init__(self):
        for name, allowed in (("task", tuple(TASKS)), ("stored", STORED), ("scaling", SCALING)):
            if getattr(self, name) not in allowed:
                raise RunError(f"{name}={getattr(self, name)!r} is unknown: choose one of {', '.join(allowed)}")

    @property
    def key(self) -> str:
        """The name under which the record keeps it.

        >>> Condition().key
        'digits 0.002 master none'
        """
        return f"{self.task} {self.lr:g} {self.stored} {self.scaling}"


def conditions() -> list:
    """All that are recorded: tensor scales only beside masters, for there they replace the loss scale."""
    every = (Condition(task, lr, stored, scaling) for task, (_, rates) in TASKS.items()
             for lr, stored, scaling in product(rates, STORED, SCALING))  # fmt: skip
    return [c for c in every if c.scaling != "tensor" or c.stored == "master"]


def format_of(exponent_bits, mantissa_bits) -> FloatFormat:
    """The format of a place in the diagram, with the bias and the specials of IEEE 754.

    >>> format_of(5, 10).max, format_of(8, 7).eps
    (65504.0, 0.0078125)
    """
    return FloatFormat(f"E{exponent_bits}M{mantissa_bits}", exponent_bits, mantissa_bits)


def formats() -> list:
    """The 77 formats of the diagram, exponent bits before mantissa bits."""
    return [format_of(e, m) for e, m in product(EXPONENT_BITS, MANTISSA_BITS)]


def train(condition, chosen, seed=0, steps=STEPS):
    """Train the network in each of the `chosen` formats at once; returns the `Result` of the sweep.

    FP32 itself is a choice as well; it is the run to compare with.

    >>> train(Condition(), [FP32, format_of(2, 0)], steps=2).losses.shape
    (2, 2)
    """
    load, _ = TASKS[condition.task]
    data = load()
    trials = [_trial(condition, fmt, seed) for fmt in chosen]
    update = {"stochastic": "stochastic"}.get(condition.stored, "nearest-even")
    return sweep(trials, widths=(data.train_images.shape[1], *HIDDEN, 10), steps=steps, batch=64, lr=condition.lr, data=data,
                 update=update, overflow="saturate", gradient_overflow="ieee", tensor_scales=condition.scaling == "tensor",
                 growth_interval=50, initial_gain=GAIN, generator=torch.Generator().manual_seed(seed))  # fmt: skip


def _trial(condition, fmt, seed):
    recipe = Recipe(fmt.name, fmt, fmt, fmt, fmt, master=FP32 if condition.stored == "master" else None)
    dynamic = condition.scaling == "loss"
    return Trial(recipe, seed, scale=2.0**16 if dynamic else 1.0, dynamic=dynamic, skip=True)


# ---- the record


def measure(condition) -> dict:
    """Train all formats, and FP32, on all seeds: {"final": (78, seeds), "curve": (78, windows), "skipped": (78,)}.

    `final` is the mean loss of the last 30 steps; `curve` the median over the seeds, `skipped` the mean share of steps. FP32 comes last.
    """
    results = [train(condition, [*formats(), FP32], seed) for seed in SEEDS]
    curves = [r.losses.reshape(-1, WINDOW, r.losses.shape[1]).mean(1) for r in results]
    return {
        "final": _plain(np.stack([r.final for r in results], 1)),
        "curve": _plain(np.median(curves, 0).T),
        "skipped": _plain(np.mean([r.skipped.mean(0) for r in results], 0)),
    }


def _plain(array):
    """Four significant digits, null for what is not finite: JSON knows no NaN."""
    if array.ndim:
        return [_plain(part) for part in array]
    return float(f"{array:.4g}") if np.isfinite(array) else None


@dataclass(frozen=True)
class Record:
    """The recorded diagrams and where they come from."""

    provenance: dict
    diagrams: dict

    def final(self, condition) -> np.ndarray:
        """(7, 11, seeds): the final loss by exponent bits and mantissa bits; NaN where training was lost."""
        shape = len(EXPONENT_BITS), len(MANTISSA_BITS), len(SEEDS)
        return np.array(self._of(condition)["final"][:-1], dtype=float).reshape(shape)

    def reference(self, condition) -> np.ndarray:
        """(seeds,): the final loss in FP32."""
        return np.array(self._of(condition)["final"][-1], dtype=float)

    def curve(self, condition, exponent_bits, mantissa_bits) -> np.ndarray:
        """The loss of one format along training, median over the seeds, one number for every 20 steps."""
        return np.array(self._of(condition)["curve"][self._place(exponent_bits, mantissa_bits)], dtype=float)

    def skipped(self, condition, exponent_bits, mantissa_bits) -> float:
        """Share of the steps that overflow skipped."""
        return self._of(condition)["skipped"][self._place(exponent_bits, mantissa_bits)]

    def _of(self, condition):
        if condition.key not in self.diagrams:
            raise RunError(f"no diagram was recorded for {condition.key!r}: choose one of {'; '.join(self.diagrams)}")
        return self.diagrams[condition.key]

    @staticmethod
    def _place(exponent_bits, mantissa_bits):
        if exponent_bits not in EXPONENT_BITS or mantissa_bits not in MANTISSA_BITS:
            raise RunError(f"E{exponent_bits}M{mantissa_bits} is outside of the diagram: 2 to 8 exponent bits, 0 to 10 mantissa bits")
        return EXPONENT_BITS.index(exponent_bits) * len(MANTISSA_BITS) + MANTISSA_BITS.index(mantissa_bits)


@lru_cache(maxsize=1)
def load() -> Record:
    """Read `data/phase.json`. Raises `RunError` when it is missing.

    >>> load().final(Condition()).shape
    (7, 11, 5)
    """
    try:
        words = json.loads(RECORD.read_text())
    except OSError as error:
        raise RunError(f"{RECORD} cannot be read ({error}): restore it from the course's repository") from None
    return Record(words["provenance"], words["diagrams"])


def configuration() -> dict:
    """What a diagram depends on besides its condition, as JSON values."""
    return {"seeds": list(SEEDS), "steps": STEPS, "hidden": list(HIDDEN), "batch": 64, "gain": round(GAIN, 6), "optimizer": "adam",
            "growth_interval": 50, "first_scale": 2.0**16, "conditions": [asdict(c) for c in conditions()]}  # fmt: skip
