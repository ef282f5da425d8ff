"""ScalerTape: a run of steps that meet ordinary, large or NaN gradients, and what the dynamic loss scaler makes of each."""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch

from course.training.scaling import DynamicScaler

from ..panel import Panel
from .parts import can_start_over
from .tape_view import table, text, view

KINDS = ("ordinary", "spike", "nan")
LARGE, SMALL, SPIKE, LR = 2.0**-2, 2.0**-30, 2.0**6, 2.0**-3  # two gradients, what a spike multiplies them by, learning rate
LONGEST = 400
SCALES = tuple(2.0**e for e in (0, 8, 16, 24, 32))
INTERVALS = (1, 2, 4, 8, 2000)


@dataclass(frozen=True)
class TapeState:
    """The kind of each step, where the scaler starts, how many good steps make it grow, and the step that is shown."""

    kinds: tuple[str, ...]
    init_scale: float = 65536.0
    growth_interval: int = 4
    at: int = 0
    first: "TapeState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back


@dataclass(frozen=True)
class Step:
    """One step as it went. Gradients are those that the backward pass left: times the scale, rounded to FP16."""

    number: int
    kind: str
    scale: float
    good_steps: int
    gradients: tuple[float, float]
    skipped: bool
    weights: tuple[float, float]
    moved: tuple[bool, bool]
    next_scale: float
    next_good_steps: int

    @property
    def outcome(self):
        """In a word: skipped, stepped, "w₂ lost" where its gradient underflowed, or spoiled where a weight is NaN or Inf."""
        if any(w - w != 0 for w in self.weights):
            return "spoiled"
        if self.skipped:
            return "skipped"
        return "stepped" if self.moved[1] else "w₂ lost"


# name: (the kinds and how many of each, scale to start from, growth interval)
PRESETS = {
    "a spike": ((("ordinary", 5), ("spike", 1), ("ordinary", 8)), 2.0**16, 2000),
    "growth, until it is too much": ((("ordinary", 24),), 2.0**16, 4),
    "too large at the start": ((("ordinary", 12),), 2.0**24, 2000),
    "too small at the start": ((("ordinary", 24),), 2.0**0, 2),
    "a spike that does no harm": ((("ordinary", 3), ("spike", 2), ("ordinary", 3)), 2.0**8, 2000),
    "a NaN in the model: forever": ((("ordinary", 3), ("nan", 166), ("ordinary", 3)), 2.0**16, 2000),
    "a NaN for ten steps": ((("ordinary", 3), ("nan", 10), ("ordinary", 15)), 2.0**16, 4),
}


def spread(runs) -> tuple[str, ...]:
    """Runs of kinds, step by step.

    >>> spread([("ordinary", 2), ("nan", 1)])
    ('ordinary', 'ordinary', 'nan')
    """
    return tuple(kind for kind, count in runs for _ in range(count))


def start(steps=None, init_scale=65536.0, growth_interval=4) -> TapeState:
    """The first state. `steps` are kinds, or the name of a preset. Raises `ValueError` that lists what there is."""
    if isinstance(steps, str):
        if steps not in PRESETS:
            raise ValueError(f"{steps!r} is no preset: choose one of {', '.join(PRESETS)}, or give a list of {', '.join(KINDS)}")
        return _preset(steps)
    kinds = spread(PRESETS["growth, until it is too much"][0][:1]) if steps is None else tuple(steps)
    if not 1 <= len(kinds) <= LONGEST or not set(kinds) <= set(KINDS):
        raise ValueError(f"steps: give from 1 to {LONGEST} of {', '.join(KINDS)}")
    DynamicScaler(init_scale, growth_interval=growth_interval)  # refuses what cannot work
    return TapeState(kinds, float(init_scale), int(growth_interval))


def _preset(name):
    runs, scale, interval = PRESETS[name]
    state = TapeState(spread(runs), scale, interval)
    steps = replay(state)
    telling = next((s.number for s in steps if s.outcome == "spoiled"), None) or next((s.number for s in steps if s.outcome == "skipped"), None)
    telling = telling or next((s.number for s in steps if s.kind != "ordinary"), 1)
    return replace(state, at=telling - 1)


@can_start_over
def update(state: TapeState, action: dict) -> TapeState:
    """Apply one action: flip i | add kind count | drop | at | by ±1 | scale | interval | preset i | restart."""
    name, *rest = action["act"].split()
    if name == "flip":
        at = int(rest[0])
        if not 0 <= at < len(state.kinds):
            raise ValueError("there is no such step")
        changed = KINDS[(KINDS.index(state.kinds[at]) + 1) % len(KINDS)]
        return replace(state, kinds=(*state.kinds[:at], changed, *state.kinds[at + 1 :]), at=at)
    if name == "add":
        kinds = state.kinds + spread([(rest[0], int(rest[1]))])
        if len(kinds) > LONGEST or rest[0] not in KINDS:
            raise ValueError(f"the tape holds {LONGEST} steps: start over, or take some away")
        return replace(state, kinds=kinds, at=len(kinds) - 1)
    if name == "drop":
        if len(state.kinds) == 1:
            raise ValueError("one step has to stay")
        return replace(state, kinds=state.kinds[:-1], at=min(state.at, len(state.kinds) - 2))
    if name in ("at", "by"):
        at = int(action["value"]) - 1 if name == "at" else state.at + int(rest[0])
        return replace(state, at=max(0, min(len(state.kinds) - 1, at)))
    if name == "scale":
        return replace(state, init_scale=_scales(state)[int(action["value"])])
    if name == "interval":
        return replace(state, growth_interval=_intervals(state)[int(action["value"])])
    if name == "preset":
        return _preset(list(PRESETS)[int(rest[0])])
    raise ValueError(f"{name!r} is no action of this panel")


def _scales(state):
    return sorted({*SCALES, state.init_scale, *(() if state.first is None else (state.first.init_scale,))})


def _intervals(state):
    return sorted({*INTERVALS, state.growth_interval, *(() if state.first is None else (state.first.growth_interval,))})


def replay(state) -> tuple[Step, ...]:
    """What the scaler does to the tape, step by step, on two weights: one with large gradients, one with tiny ones."""
    return _replay(state.kinds, state.init_scale, state.growth_interval)


@lru_cache(maxsize=128)
def _replay(kinds, init_scale, growth_interval):
    weights = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    optimizer, scaler = torch.optim.SGD([weights], lr=LR), DynamicScaler(init_scale, growth_interval=growth_interval)
    slopes = {"ordinary": [LARGE, SMALL], "spike": [LARGE * SPIKE, SMALL * SPIKE], "nan": [float("nan")] * 2}
    steps = []
    for number, kind in enumerate(kinds, 1):
        scale, good, before = scaler.get_scale(), scaler.good_steps, weights.tolist()
        optimizer.zero_grad()
        in_fp16 = weights.half()  # so that the gradient passes through FP16 too: nearest-even, and to Inf from 65520 on
        scaler.scale((in_fp16.float() * torch.tensor(slopes[kind])).sum()).backward()
        gradients = tuple(weights.grad.tolist())
        scaler.unscale_(optimizer)
        skipped = scaler.found_inf(optimizer)
        scaler.step(optimizer)
        scaler.update()
        after = weights.tolist()
        moved = tuple(a != b and (a == a or b == b) for a, b in zip(after, before))  # NaN to NaN is no move
        steps.append(Step(number, kind, scale, good, gradients, skipped, tuple(after), moved, scaler.get_scale(), scaler.good_steps))
    return tuple(steps)


class ScalerTape(Panel):
    """A tape of training steps under a dynamic loss scaler: scale, count of good steps, and the weights after each.

    `steps` are "ordinary", "spike" or "nan", or the name of a preset. The largest gradient is 2⁻² and the smallest 2⁻³⁰,
    both pass through FP16 (nearest-even, overflow to Inf); a spike is 64 times as large. The scaler is the course's
    `DynamicScaler`. Raises `ValueError` for other steps.

    >>> print(ScalerTape(["ordinary", "spike"], growth_interval=2000))
    ScalerTape: scale 2¹⁶ at the start, growth interval 2000
    step 1: ordinary, stepped, S 2¹⁶, good steps 0 → 1, then S 2¹⁶, w₁ = 0.96875, w₂ = −2⁻³³
    step 2: spike, skipped, S 2¹⁶, good steps 1 → 0, then S 2¹⁵, w₁ = 0.96875, w₂ = −2⁻³³
    Step 1, ordinary: S × the largest gradient is 2¹⁴, which FP16 holds. Both weights move. Skipped: 1 of 2.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, steps=None, init_scale=65536.0, growth_interval=4):
        super().__init__(start(steps, init_scale, growth_interval))
