"""The record of a comparison as JSON: configuration, seeds, versions, hardware, text, losses, times, memory."""

import math
import statistics
from datetime import UTC, datetime

from course.training.memory import process_peak

STEADY = 1.3  # the third quartile of the paired ratios may lie this much above the first
_NUMBERS = {"type": "array", "items": {"type": ["number", "null"]}}
_RUN = {
    "type": "object",
    "required": ["recipe", "execution", "losses", "validation", "seconds", "skipped_steps", "timed_steps",
                 "median_step_seconds", "tokens_per_second", "memory"],
    "additionalProperties": False,
    "properties": {
        "recipe": {
            "type": "object",
            "required": ["name", "weights", "activations", "activation_gradients", "weight_gradients", "master",
                         "first_moment", "second_moment", "reductions", "scaler"],
        },
        "execution": {"enum": ["native", "emulated"]},
        "losses": _NUMBERS,  # one per step, nats per token, before the update; null where it was not finite
        "validation": {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}},  # [steps done, loss]
        "seconds": _NUMBERS,  # one per step; null for the steps of warming up
        "skipped_steps": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "timed_steps": {"type": "integer", "minimum": 0},
        "median_step_seconds": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "tokens_per_second": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "memory": {
            "type": "object",
            "required": ["weights", "gradients", "optimizer", "saved_activations", "device_peak"],
        },
    },
}  # fmt: skip
_SPEED = {
    "type": "object",
    "required": ["ratio", "quartiles", "steady", "claimed", "gemm"],
    "additionalProperties": False,
    "properties": {
        "ratio": {"type": ["number", "null"]},  # > 1: the first run is the faster; median over steps of paired times
        "quartiles": {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "steady": {"type": "boolean"},  # whether the quartiles lie close enough together to believe the median
        "claimed": {"type": "boolean"},  # steady, and both runs native: only then is the ratio a finding
        "gemm": {"type": "array", "items": {"type": "object", "required": ["rows", "inner", "columns", "ratio"]}},
    },
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["schema", "when", "configuration", "seeds", "versions", "hardware", "corpus", "parameters", "runs",
                 "speed", "process_peak_bytes"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": 1},
        "when": {
            "type": "object",
            "required": ["started", "finished", "resumed"],
            "properties": {
                "started": {"type": "string", "format": "date-time"},
                "finished": {"type": "string", "format": "date-time"},
                "resumed": {"type": "integer", "minimum": 0},
            },
        },
        "configuration": {"type": "object", "required": ["precision", "versus", "steps", "width", "layers", "context",
                                                         "batch", "lr", "seed", "device", "threads"]},
        "seeds": {"type": "object", "required": ["weights", "batches"]},
        "versions": {"type": "object", "required": ["python", "torch", "numpy", "course"]},
        "hardware": {"type": "object", "required": ["devices", "tier"]},
        "corpus": {"type": "object", "required": ["name", "characters", "validation_characters", "sha256"]},
        "parameters": {"type": "integer", "minimum": 1},
        "runs": {"type": "array", "minItems": 2, "maxItems": 2, "items": _RUN},
        "speed": _SPEED,
        "process_peak_bytes": {"type": ["integer", "null"]},
    },
}  # fmt: skip


def now() -> str:
    """This moment, UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def build(comparison, arguments, hardware, when, memory, gemm) -> dict:
    """Put the record of a finished comparison together; it satisfies `SCHEMA`.

    `arguments` are the command's, `when` has "started" and "resumed", `memory` one `step_memory` per run, `gemm`
    the measured rows of `gemm_ratios`.
    """
    facts = hardware.as_dict()
    runs = [_run(comparison, run, used) for run, used in zip(comparison.runs, memory, strict=True)]
    ratio, quartiles = speed_ratio(*(run.history.seconds for run in comparison.runs))
    return {
        "schema": 1,
        "when": when | {"finished": now()},
        "configuration": arguments | {"steps": comparison.settings.steps},
        "seeds": {"weights": comparison.settings.seed, "batches": comparison.settings.seed},
        "versions": facts.pop("versions"),
        "hardware": facts,
        "corpus": comparison.corpus.as_dict(),
        "parameters": comparison.config.parameters,
        "runs": runs,
        "speed": {
            "ratio": ratio,
            "quartiles": quartiles,
            "steady": steady(quartiles),
            "claimed": steady(quartiles) and all(run.plan.speed_counts for run in comparison.runs),
            "gemm": gemm,
        },
        "process_peak_bytes": process_peak(),
    }


def _run(comparison, run, memory):
    history = run.history
    timed = [seconds for seconds in history.seconds if seconds is not None]
    median = statistics.median(timed) if timed else None
    tokens = comparison.settings.batch * comparison.config.context
    return {
        "recipe": run.plan.recipe.as_dict(),
        "execution": run.plan.execution,
        "losses": [_finite(loss) for loss in history.losses],
        "validation": [[done, _finite(loss)] for done, loss in history.validation],
        "seconds": history.seconds,
        "skipped_steps": history.skipped,
        "timed_steps": len(timed),
        "median_step_seconds": median,
        "tokens_per_second": tokens / median if timed else None,
        "memory": memory,
    }


def _finite(number):
    return number if math.isfinite(number) else None  # JSON knows no NaN


def steady(quartiles) -> bool:
    """Whether paired ratios scatter so little that their median can be believed; False when there are none.

    On a quiet machine the quartiles lie a few percent apart. Where other programs take a core away, every parallel
    loop waits for its slowest thread, and a step may take ten times as long as the one before.

    >>> steady([2.2, 2.26]), steady([0.89, 1.68]), steady(None)
    (True, False, False)
    """
    return quartiles is not None and quartiles[1] <= STEADY * quartiles[0]


def speed_ratio(seconds, other_seconds) -> tuple:
    """(median, [first quartile, third quartile]) of the other run's time over this run's, step by step.

    Pairing the steps lets a disturbance of the machine hit both sides of a quotient. (None, None) without timed steps.

    >>> speed_ratio([None, 1.0, 1.0, 2.0], [None, 1.5, 1.5, 3.0])
    (1.5, [1.5, 1.5])
    """
    ratios = [b / a for a, b in zip(seconds, other_seconds, strict=True) if a and b]
    if not ratios:
        return None, None
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return statistics.median(ratios), [low, high]
