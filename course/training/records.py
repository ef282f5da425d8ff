"""The record of a comparison as JSON: configuration, seeds, versions, hardware, text, losses, times, memory.

The last of its runs is the one that the others are compared with. A finished record can be contributed: `contribute`
writes it, under a name that tells what it is, to data/runs, where the notebooks find it.
"""

import json
import math
import re
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from course.training import RunError
from course.training.breakdown import KINDS, PHASES
from course.training.files import write_atomically
from course.training.memory import process_peak

VERSION = 2
RUNS = Path(__file__).parents[2] / "data" / "runs"
STEADY = 1.3  # the third quartile of the paired ratios may lie this much above the first
_NUMBERS = {"type": "array", "items": {"type": ["number", "null"]}}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_SPEED = {
    "type": ["object", "null"],  # null: the run that the others are compared with
    "required": ["ratio", "quartiles", "steady", "claimed", "gemm"],
    "additionalProperties": False,
    "properties": {
        "ratio": {"type": ["number", "null"]},  # > 1: faster than the last run; median over steps of paired times
        "quartiles": {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "steady": {"type": "boolean"},  # whether the quartiles lie close enough together to believe the median
        "claimed": {"type": "boolean"},  # steady, and both runs native: only then is the ratio a finding
        "gemm": {"type": "array", "items": {"type": "object", "required": ["rows", "inner", "columns", "ratio"]}},
    },
}
_BREAKDOWN = {
    "type": ["object", "null"],
    "required": ["phases", "kinds"],
    "properties": {
        "phases": {"type": "object", "required": list(PHASES), "additionalProperties": {"type": "number"}},  # seconds
        "kinds": {"type": "object", "required": list(KINDS), "additionalProperties": _SHARE},
    },
}
_RUN = {
    "type": "object",
    "required": ["recipe", "execution", "attention", "losses", "validation", "seconds", "skipped_steps", "scales",
                 "moved", "timed_steps", "median_step_seconds", "tokens_per_second", "speed", "breakdown", "memory"],
    "additionalProperties": False,
    "properties": {
        "recipe": {
            "type": "object",
            "required": ["name", "weights", "activations", "activation_gradients", "weight_gradients", "master",
                         "first_moment", "second_moment", "reductions", "scaler", "update"],
        },
        "execution": {"enum": ["native", "emulated"]},
        "attention": {"enum": ["fused", "written"]},
        "losses": _NUMBERS,  # one per step, nats per token, before the update; null where it was not finite
        "validation": {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}},  # [steps done, loss]
        "seconds": _NUMBERS,  # one per step; null for the steps of warming up
        "skipped_steps": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "scales": {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}},  # [step, scale], changes
        "moved": {
            "type": "array",
            "items": {"type": "object", "required": ["step", "matrices", "multiplied"], "properties": {
                "step": {"type": "integer", "minimum": 0}}, "additionalProperties": _SHARE},
        },
        "timed_steps": {"type": "integer", "minimum": 0},
        "median_step_seconds": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "tokens_per_second": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "speed": _SPEED,
        "breakdown": _BREAKDOWN,
        "memory": {
            "type": "object",
            "required": ["weights", "gradients", "optimizer", "saved_activations", "device_peak"],
        },
    },
}  # fmt: skip
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["schema", "when", "configuration", "seeds", "versions", "hardware", "corpus", "parameters", "runs",
                 "process_peak_bytes"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": VERSION},
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
                                                         "batch", "lr", "seed", "device", "threads"],
                          "properties": {"precision": {"type": "array", "minItems": 1, "items": {"type": "string"}}}},
        "seeds": {"type": "object", "required": ["weights", "batches"]},
        "versions": {"type": "object", "required": ["python", "torch", "numpy", "course", "commit"]},
        "hardware": {"type": "object", "required": ["devices", "tier"]},
        "corpus": {"type": "object", "required": ["name", "characters", "validation_characters", "sha256"]},
        "parameters": {"type": "integer", "minimum": 1},
        "runs": {"type": "array", "minItems": 2, "items": _RUN},
        "process_peak_bytes": {"type": ["integer", "null"]},
    },
}  # fmt: skip


def now() -> str:
    """This moment, UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def build(comparison, arguments, hardware, when, measured) -> dict:
    """Put the record of a finished comparison together; it satisfies `SCHEMA`.

    `arguments` are the command's, `when` has "started" and "resumed", `measured` has for each run a dict of "memory"
    (a `step_memory`), "breakdown" (a `step_breakdown` or None) and "gemm" (a list, see `closing.gemm_ratios`).
    """
    facts = hardware.as_dict()
    runs = [_run(comparison, run, found) for run, found in zip(comparison.runs, measured, strict=True)]
    return {
        "schema": VERSION,
        "when": when | {"finished": now()},
        "configuration": arguments | {"steps": comparison.settings.steps},
        "seeds": {"weights": comparison.settings.seed, "batches": comparison.settings.seed},
        "versions": facts.pop("versions") | {"commit": commit()},
        "hardware": facts,
        "corpus": comparison.corpus.as_dict(),
        "parameters": comparison.config.parameters,
        "runs": runs,
        "process_peak_bytes": process_peak(),
    }


def _run(comparison, run, measured):
    history = run.history
    timed = [seconds for seconds in history.seconds if seconds is not None]
    median = statistics.median(timed) if timed else None
    tokens = comparison.settings.batch * comparison.config.context
    return {
        "recipe": run.plan.recipe.as_dict(),
        "execution": run.plan.execution,
        "attention": run.plan.attention,
        "losses": [_finite(loss) for loss in history.losses],
        "validation": [[done, _finite(loss)] for done, loss in history.validation],
        "seconds": history.seconds,
        "skipped_steps": history.skipped,
        "scales": history.scales,
        "moved": history.moved,
        "timed_steps": len(timed),
        "median_step_seconds": median,
        "tokens_per_second": tokens / median if timed else None,
        "speed": None if run is comparison.runs[-1] else _speed(run, comparison.runs[-1], measured["gemm"]),
        "breakdown": measured["breakdown"],
        "memory": measured["memory"],
    }


def _speed(run, versus, gemm):
    ratio, quartiles = speed_ratio(run.history.seconds, versus.history.seconds)
    believed = steady(quartiles)
    claimed = believed and run.plan.speed_counts and versus.plan.speed_counts
    return {"ratio": ratio, "quartiles": quartiles, "steady": believed, "claimed": claimed, "gemm": gemm}


def commit() -> str | None:
    """The commit of the course that is running, "+" behind it where files of its package were changed; None without git."""
    folder = Path(__file__).parents[2]

    def git(*words):
        return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=20, check=True).stdout

    try:
        top, changed = git("rev-parse", "--show-toplevel", "HEAD").split("\n")[:2], git("status", "--porcelain", "course")
    except (OSError, subprocess.SubprocessError):
        return None
    return top[1] + "+" * bool(changed) if Path(top[0]).resolve() == folder.resolve() else None


def read(path) -> dict:
    """The record in a file; raises `RunError` where it is of another version of the schema, or no record at all."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        version = record["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no record of a run: delete it, or give another --out") from error
    if version != VERSION:
        raise RunError(f"{path} was written by another version of the course (schema {version}, not {VERSION}): run it again with --fresh")
    return record


def text(record) -> str:
    """A record as JSON, one line for each list of numbers.

    >>> print(text({"losses": [4.5, None], "moved": []}))
    {
     "losses": [4.5, null],
     "moved": []
    }
    <BLANKLINE>
    """
    spread = json.dumps(record, indent=1, allow_nan=False)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), spread) + "\n"


def name_of(record) -> str:
    """A file's name for a record: the device, the recipes, the size, the length, the seed."""
    configuration, device = record["configuration"], record["hardware"]["devices"]
    name = next(d["name"] for d in device if d["kind"].replace("rocm", "cuda") == configuration["device"])
    recipes = "-".join([*configuration["precision"], "versus", configuration["versus"]])
    parts = (name, recipes, "width", configuration["width"], "steps", configuration["steps"], "seed", configuration["seed"])
    return re.sub(r"[^a-z0-9]+", "-", "-".join(map(str, parts)).lower()).strip("-") + ".json"


def check_text(configuration):
    """Raise `RunError` for a run on a text of the reader's own: nobody else could repeat it."""
    if configuration["corpus"]:
        raise RunError("a record for all must be on a text that all have: leave --corpus out, or --record")


def contribute(record, folder=RUNS) -> Path:
    """Write a record to `folder`, over an older one of the same name; returns its path. Raises as `check_text`."""
    check_text(record["configuration"])
    return write_atomically(Path(folder) / name_of(record), text(record))


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
