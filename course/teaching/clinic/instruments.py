"""Instruments for a trainer that is only a function: they watch every operation that reaches torch's kernels while it runs.

Each takes `train` and a seed and gives a `Reading`: a sentence on what was found, and a table. `watched` runs a trainer under a watcher
that stops it when it has seen enough. The trainer's lines are told by its file name in the traceback of a call.
"""

import math
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from course.training.trace import _NAMES, _VIEWS

from ..exercises.checking import SECONDS, _Alarm, _TooLong
from .model import path_of, quietly

MOST_CALLS = 4000
SHORT = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Reading:
    """What an instrument says: one sentence, and rows under a head."""

    says: str
    head: tuple = ()
    rows: tuple = field(default=())


class Enough(Exception):
    """Raised to stop a trainer that has been watched long enough."""


class Watcher(TorchDispatchMode):
    """Calls `see(name, line, phase, inputs, outputs, again)` for each operation; `again` computes it once more on other inputs."""

    def __init__(self, see, file, most=MOST_CALLS):
        super().__init__()
        self.see, self.file, self.most, self.count = see, file, most, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _VIEWS:
            return func(*args, **kwargs)
        changes = name.endswith("_") or "out" in kwargs
        before = tree_map(_copy, (args, kwargs)) if changes else (args, kwargs)
        result = func(*args, **kwargs)
        self.count += 1
        self.see(Seen(name, self._line(), "backward" if torch._C._current_autograd_node() else "forward", _floats(before), _floats(result), func, before, self.count))
        if self.count >= self.most:
            raise Enough
        return result

    def _line(self):
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename != self.file:
            frame = frame.f_back
        return frame.f_lineno if frame else 0


@dataclass(frozen=True)
class Seen:
    """One operation as it ran: `before` are its arguments as they were."""

    name: str
    line: int
    phase: str
    inputs: list
    outputs: list
    function: object
    before: tuple
    number: int

    def in_fp32(self):
        """The same operation on the same inputs in FP32, and what it gives; None where it cannot run."""
        def widened(value):
            if isinstance(value, torch.Tensor):
                return value.detach().float() if value.is_floating_point() else value
            return torch.float32 if value in SHORT else value

        args, kwargs = tree_map(widened, self.before)
        try:
            return _floats(self.function(*tree_map(_copy, args), **kwargs))
        except Exception:
            return None


def _copy(value):
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _floats(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor) and value.is_floating_point()]


def _all_finite(x):
    return bool(x.detach().float().isfinite().all())  # FP8 has no isfinite of its own


def watched(train, seed, see, most=MOST_CALLS) -> str:
    """Run a trainer under a watcher; gives "" or, in words, the error that it ended with."""
    try:
        with quietly(), Watcher(see, train.__code__.co_filename, most):
            train(seed)
    except Enough:
        pass
    except Exception as error:
        return f" It ended with {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return ""


def _line_text(train, line):
    import linecache

    return linecache.getline(train.__code__.co_filename, line).strip()[:70] if line else "(inside torch)"


# ---- the instruments


def dtype_trace(train, seed=0) -> Reading:
    """Which operation wrote which dtype, in the first steps.

    >>> from .model import compiled
    >>> dtype_trace(compiled("def train(seed):\\n    return torch.ones(2).half() + 1", "t1")).rows
    (('line 2', '_to_copy', 'forward', 'FP16', 1), ('line 2', 'add', 'forward', 'FP16', 1), ('line 2', 'ones', 'forward', 'FP32', 1))
    """
    counts = Counter()

    def see(call):
        if call.outputs:
            dtype = call.outputs[0].dtype
            counts[(f"line {call.line}" if call.line else "backward", call.name, call.phase, _NAMES.get(dtype, str(dtype).removeprefix("torch.")))] += 1

    error = watched(train, seed, see, 600)
    short = sum(n for key, n in counts.items() if key[3] not in ("FP32", "FP64"))
    rows = sorted(((*key, n) for key, n in counts.items()), key=lambda row: (row[0] == "backward", row[3] == "FP32", row[0].zfill(9), row[1]))
    says = f"Of {sum(counts.values())} operations in the first steps {short} wrote a format shorter than FP32.{error}"
    return Reading(says, ("where", "operation", "phase", "wrote", "times"), tuple(rows[:14]))


def gradient_statistics(train, seed=0) -> Reading:
    """The sizes of what the backward passes of the first steps put out."""
    rows, total = {}, [0, 0, 0, 0]

    def see(call):
        if call.phase == "forward" or not call.outputs or not call.outputs[0].numel():
            return
        x = call.outputs[0].detach().double().abs()
        total[0] += x.numel()
        total[1] += int((x == 0).sum())
        total[2] += int((~x.isfinite()).sum())
        total[3] += int(((x > 0) & (x < 2**-14)).sum())
        finite = x[x.isfinite() & (x > 0)]
        low, high, wild = rows.get(call.name, (math.inf, 0.0, 0))
        rows[call.name] = (min(low, float(finite.min())) if len(finite) else low, max(high, float(finite.max())) if len(finite) else high, wild + int((~x.isfinite()).sum()))

    error = watched(train, seed, see, 1500)
    if not total[0]:
        return Reading(f"No backward pass was seen: this trainer writes its gradients by hand.{error}")
    says = f"Of {total[0]} numbers in the way back {total[1]} are 0, {total[3]} below FP16's smallest normal number, {total[2]} not finite.{error}"
    table = tuple((name, _size(low), _size(high), wild) for name, (low, high, wild) in sorted(rows.items()))
    return Reading(says, ("operation of the way back", "smallest size", "largest size", "not finite"), table[:12])


def _size(value):
    return "none" if value in (0.0, math.inf) else f"{value:.1e}"


def moved_counts(train, seed=0, key=None) -> Reading:
    """How many of the recorded numbers change from one entry of the record to the next, from the start to the end."""
    try:
        with quietly():
            record = train(seed)
        found = {name: path_of(record, name) for name, value in record.items() if (key in (None, name)) and isinstance(value, list) and len(value) > 1}
    except Exception as error:
        return Reading(f"It ended with {type(error).__name__}: {str(error)[:120]}")
    rows = []
    for name, path in found.items():
        with np.errstate(all="ignore"):
            changed = (np.diff(path, axis=0) != 0).mean(1)
        third = max(1, len(changed) // 3)
        rows.append((name, *(f"{part.mean():.0%}" for part in (changed[:third], changed[third : 2 * third], changed[2 * third :]) if len(part)), f"{int((~np.isfinite(path)).any(1).sum())} of {len(path)}"))
    if not rows:
        return Reading("The record holds nothing that is kept step by step.")
    return Reading("The share of the numbers that change from one entry to the next, in each third of the run.", ("recorded", "first third", "middle", "last third", "entries not finite"), tuple(rows))


def first_bad(train, seed=0) -> Reading:
    """The first operation that makes NaN or Inf of finite numbers: what hooks on modules would find, for each line."""
    found = []

    def see(call):
        if not all(map(_all_finite, call.outputs)) and all(map(_all_finite, call.inputs)):
            found.append(call)
            raise Enough

    error = watched(train, seed, see, 40_000)
    if not found:
        return Reading(f"No operation made NaN or Inf of finite numbers.{error}")
    call = found[0]
    kinds = {name for x in call.outputs for name, there in (("NaN", x.float().isnan().any()), ("Inf", x.float().isinf().any())) if there}
    what = " and ".join(sorted(kinds))
    return Reading(f"Operation {call.number}, {call.name} ({call.phase}), makes {what} of finite numbers.", ("line", "source"), ((call.line, _line_text(train, call.line)),))


def anomaly(train, seed=0) -> Reading:
    """torch's anomaly mode: it stops at the first NaN in a way back. It is blind for Inf, for the way there, and for what runs without autograd."""
    try:
        with quietly(), torch.autograd.set_detect_anomaly(True):
            train(seed)
    except RuntimeError as error:
        if "returned nan" in str(error):
            return Reading(f"Anomaly mode stops: {str(error).splitlines()[0]}")
        return Reading(f"It ended with RuntimeError: {str(error).splitlines()[0][:140]}")
    except Exception as error:
        return Reading(f"It ended with {type(error).__name__}: {str(error)[:140]}")
    return Reading("Anomaly mode saw no NaN in any way back. It does not look for Inf, not at the way there, and not at what runs without autograd.")


# ---- the twin in FP32


def twin(train, seed=0) -> Reading:
    """Each operation with a 16-bit or 8-bit result once more in FP32, on the same inputs; the first whose result is more than rounded."""
    found, seen = {}, [0]

    def see(call):
        if not any(x.dtype in SHORT for x in call.outputs):
            return
        seen[0] += 1
        exact = call.in_fp32()
        for kind, size in _differences(call, exact) if exact else ():
            found.setdefault(kind, (call, size))
        if len(found) >= 4:
            raise Enough

    error = watched(train, seed, see, 15_000)
    rows = [(call.number, kind, f"{call.name} ({call.phase})", size, call.line, _line_text(train, call.line)) for kind, (call, size) in found.items()]
    if not rows:
        return Reading(f"{seen[0]} operations wrote a short format, and none did more than round its result.{error}")
    rows.sort()
    number, kind, name, size, line, _ = rows[0]
    return Reading(f"The first that differs is operation {number}, {name} on line {line}: {kind}, {size}.{error}", ("operation number", "what happens", "operation", "how much", "line", "source"), tuple(rows))


def _differences(call, exact):
    """(kind, how much) of each way in which results differ by more than rounding to nearest explains."""
    for short, long in zip(call.outputs, exact):
        if short.dtype not in SHORT or short.shape != long.shape:
            continue
        got, wanted = short.detach().float(), long.detach()
        lost = wanted.isfinite() & ~got.isfinite()
        if lost.any():
            yield "overflow", f"{int(lost.sum())} of {lost.numel()} become Inf or NaN"
        gone = (wanted != 0) & (got == 0)
        if gone.any():
            yield "underflow", f"{int(gone.sum())} of {gone.numel()} become 0"
        if call.name in ("add_", "add", "sub_", "sub", "mul_", "lerp_") and call.inputs[0].shape == short.shape:
            same = (got == call.inputs[0].detach().float()) & (wanted != got)
            if same.any():
                yield "swamped", f"{int(same.sum())} of {same.numel()} do not change"
        if call.name == "_to_copy" or call.name == "arange":
            whole = (wanted == wanted.round()) & (wanted != got) & (wanted.abs() > 1) & got.isfinite()
            if whole.any():
                yield "whole numbers merged", f"{int(whole.sum())} of {whole.numel()} are no longer themselves"
        near = wanted.isfinite() & got.isfinite() & ~gone
        bound = 8 * torch.finfo(short.dtype).eps * wanted.abs() + torch.finfo(short.dtype).smallest_normal
        off = near & ((got - wanted).abs() > bound)
        if off.any():
            yield "more than rounding", f"{int(off.sum())} of {off.numel()} are off by more than 8 eps"


def read(instrument, train, seed=0) -> Reading:
    """What an instrument of `INSTRUMENTS` says of a trainer; a trainer that does not come back is stopped."""
    alarm = _Alarm(SECONDS, train)
    try:
        return INSTRUMENTS[instrument][1](train, seed)
    except _TooLong:
        return Reading(f"The trainer did not finish within {SECONDS} seconds.")
    finally:
        alarm.off()


INSTRUMENTS = {
    "gradients": ("gradient statistics", gradient_statistics),
    "dtypes": ("dtype trace", dtype_trace),
    "moved": ("moved counts", moved_counts),
    "first": ("first NaN or Inf", first_bad),
    "anomaly": ("anomaly mode", anomaly),
    "twin": ("FP32 twin", twin),
}
