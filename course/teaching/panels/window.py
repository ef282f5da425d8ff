"""UnderflowWindow: the sizes of real gradients against the window of a format, under a loss scale that can be dragged."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from course.numerics.formats import FORMATS, FloatFormat
from course.training.counters import Borders, GradientCount, borders

from ..panel import Panel
from .parts import can_start_over, get_format
from .window_view import table, text, view

SCALES = range(-16, 41)  # powers of two that the slider reaches
EXPONENTS, MANTISSAS = range(2, 9), range(0, 24)  # of a format of one's own: no wider than FP32
ALL = "all layers"
CHOICES = tuple(name for name in FORMATS if name not in ("FP64", "E8M0"))  # the data are FP32; E8M0 has no zero


class Sizes:
    """Magnitudes of gradients by step and layer, FP64 and sorted when first asked for. Zeros are counted and left out."""

    def __init__(self, gradients):
        if not isinstance(gradients, Mapping):
            gradients = {"gradients": gradients}
        nested = all(isinstance(value, Mapping) for value in gradients.values())
        steps = gradients if nested else {"": gradients}
        self.steps = {str(step): {str(layer): _flat(x) for layer, x in layers.items()} for step, layers in steps.items()}
        self._sorted, self.fates = {}, {}  # made once each, and gone with the panel
        if not self.steps or not all(self.steps.values()):
            raise ValueError("no gradients: give a tensor, a dict of layers, or a dict of steps with a dict of layers each")

    def layers(self, step) -> list[str]:
        """The layers of a step, behind the one entry that stands for them all."""
        return [ALL, *self.steps[step]] if len(self.steps[step]) > 1 else list(self.steps[step])

    def of(self, step, layer) -> tuple[np.ndarray, int]:
        """(sorted nonzero magnitudes, number of exact zeros)."""
        if (step, layer) not in self._sorted:
            chosen = [self.steps[step][layer]] if layer in self.steps[step] else list(self.steps[step].values())
            every = np.abs(np.concatenate(chosen))
            sizes = np.sort(every[every != 0])
            self._sorted[step, layer] = sizes, every.size - sizes.size
        return self._sorted[step, layer]


def _flat(x):
    x = x.detach().cpu().double().numpy() if hasattr(x, "detach") else np.asarray(x, dtype=np.float64)
    return x.ravel()


@dataclass(frozen=True)
class WindowState:
    """The data, which part of them is shown, the format, and the loss scale 2^power."""

    sizes: Sizes
    step: str
    layer: str
    fmt: FloatFormat
    power: int = 0
    message: str = ""
    first: "WindowState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back

    @property
    def scale(self) -> float:
        return 2.0**self.power


@dataclass(frozen=True)
class Fate:
    """What rounding gradient × scale does: the count, each kind's part of the tensor's norm, and the relative L2 error."""

    count: GradientCount
    norms: dict  # kind to ‖entries of the kind‖ / ‖all‖, before rounding
    error: float  # ‖rounded / scale − exact‖ / ‖exact‖; Inf where something overflowed
    largest: float  # |gradient| × scale
    edges: Borders


def fate(state) -> Fate:
    """The fate of what the panel shows, worked out once."""
    key = state.step, state.layer, state.fmt, state.power
    if key not in state.sizes.fates:
        state.sizes.fates[key] = fate_of(*state.sizes.of(state.step, state.layer), state.fmt, state.power)
    return state.sizes.fates[key]


def fate_of(x, zero, fmt, power) -> Fate:
    """The fate of sorted magnitudes `x` and of so many exact zeros beside them: nearest, ties to even, IEEE overflow.

    The count searches the exact borders among the magnitudes, which holds for each of them; the error rounds them all.

    >>> found = fate_of(np.array([2**-25, 2**-24, 1.0]), 1, FORMATS["FP16"], 0)
    >>> found.count.flushed, found.count.subnormal, found.largest
    (1, 1, 1.0)
    """
    import torch

    from course.numerics import round_to

    edges, scaled = borders(fmt), x * 2.0**power  # FP64 times a power of two: exact for gradients in FP32
    cuts = np.searchsorted(scaled, (edges.flush, edges.normal, edges.overflow), side="right")
    cuts[1:] = np.searchsorted(scaled, (edges.normal, edges.overflow), side="left")
    ends = [0, *map(int, cuts), x.size]
    parts = {kind: x[a:b] for kind, a, b in zip(("flushed", "subnormal", "normal", "overflowed"), ends, ends[1:])}
    count = GradientCount(x.size + zero, zero, *(len(part) for part in parts.values()))
    norm = float(np.linalg.norm(x)) or 1.0
    norms = {kind: float(np.linalg.norm(part)) / norm for kind, part in parts.items()}
    rounded = round_to(torch.from_numpy(scaled), fmt).numpy() if x.size else x
    with np.errstate(invalid="ignore"):
        error = np.inf if count.overflowed else float(np.linalg.norm(rounded / 2.0**power - x)) / norm
    return Fate(count, norms, error, float(scaled[-1]) if x.size else 0.0, edges)


def largest_power(state) -> int | None:
    """The largest power on the slider at which nothing overflows; None where there is none."""
    x, _ = state.sizes.of(state.step, state.layer)
    safe = [power for power in SCALES if not x.size or x[-1] * 2.0**power < borders(state.fmt).overflow]
    return max(safe, default=None)


# name: (format, power of the scale, or "largest" plus a number of doublings)
PRESETS = {
    "FP16, no scaling": ("FP16", 0),
    "FP16, scale 2¹⁶": ("FP16", 16),
    "FP16, the largest scale": ("FP16", ("largest", 0)),
    "FP16, one doubling too far": ("FP16", ("largest", 1)),
    "BF16, no scaling": ("BF16", 0),
    "E5M2, no scaling": ("E5M2", 0),
    "E4M3, the largest scale": ("E4M3", ("largest", 0)),
}


def start(gradients, fmt="FP16", power=0, step=None) -> WindowState:
    """The first state: all layers of the step given, or of the first one."""
    sizes = Sizes(gradients)
    step = next(iter(sizes.steps)) if step is None else str(step)
    if step not in sizes.steps:
        raise ValueError(f"there is no step {step!r}: choose one of {', '.join(sizes.steps)}")
    fmt = get_format(fmt)
    borders(fmt)  # a format without zero has none
    if power not in SCALES:
        raise ValueError(f"power={power!r}: choose a whole number from {SCALES[0]} to {SCALES[-1]}; the loss scale is 2 to it")
    return WindowState(sizes, step, sizes.layers(step)[0], fmt, power)


@can_start_over
def update(state: WindowState, action: dict) -> WindowState:
    """Apply one action: scale | double ±1 | largest | format | exponent ±1 | mantissa ±1 | step | layer | preset n | restart."""
    name, *rest = action["act"].split()
    value = (str(action.get("value", "")),) if name in ("scale", "format", "step", "layer") else ()
    return _ACTIONS[name](replace(state, message=""), *map(int, rest), *value)


def _to_power(state, power):
    return replace(state, power=max(SCALES[0], min(SCALES[-1], round(float(power)))))


def _double(state, by):
    if state.power + by not in SCALES:
        return replace(state, message=f"The slider ends at 2^{state.power}.")
    return _to_power(state, state.power + by)


def _to_largest(state, doublings=0):
    power = largest_power(state)
    if power is None:
        return replace(state, power=SCALES[0], message=f"{state.fmt.name} overflows at every scale on the slider.")
    return _to_power(state, power + doublings)


def _format(state, value):
    return replace(state, fmt=state.fmt if value == state.fmt.name else get_format(value))


def _bits(which, allowed):
    def change(state, by):
        widths = {"exponent_bits": state.fmt.exponent_bits, "mantissa_bits": state.fmt.mantissa_bits}
        widths[which] += by
        if widths[which] not in allowed:
            return replace(state, message=f"{which.replace('_', ' ')} go from {allowed[0]} to {allowed[-1]} here.")
        return replace(state, fmt=own_format(**widths))

    return change


def own_format(exponent_bits, mantissa_bits) -> FloatFormat:
    """The format of these widths with IEEE's rules: a known one where there is one, else one of the learner's own.

    >>> own_format(5, 10).name, own_format(6, 9).name, own_format(4, 3).name
    ('FP16', 'E6M9', 'E4M3 (IEEE)')
    """
    for fmt in FORMATS.values():
        if (fmt.exponent_bits, fmt.mantissa_bits, fmt.specials) == (exponent_bits, mantissa_bits, "ieee"):
            return fmt
    name = f"E{exponent_bits}M{mantissa_bits}"
    return FloatFormat(f"{name} (IEEE)" if name in FORMATS else name, exponent_bits, mantissa_bits)


def _step(state, value):
    if value not in state.sizes.steps:
        raise ValueError(f"there is no {value!r}")
    layers = state.sizes.layers(value)
    return replace(state, step=value, layer=state.layer if state.layer in layers else layers[0])


def _layer(state, value):
    if value not in state.sizes.layers(state.step):
        raise ValueError(f"there is no layer {value!r}")
    return replace(state, layer=value)


def _preset(state, number):
    name, power = list(PRESETS.values())[number]
    state = replace(state, fmt=get_format(name))
    return _to_power(state, power) if isinstance(power, int) else _to_largest(state, power[1])


_ACTIONS = {
    "scale": _to_power, "double": _double, "largest": _to_largest, "format": _format, "exponent": _bits("exponent_bits", EXPONENTS),
    "mantissa": _bits("mantissa_bits", MANTISSAS), "step": _step, "layer": _layer, "preset": _preset,
}  # fmt: skip


class UnderflowWindow(Panel):
    """Gradients by powers of two, and what rounding them to a format does under a loss scale: flushed, subnormal, normal, overflow.

    `gradients` is a tensor or an array, a dict of layers, or a dict of steps with a dict of layers each; the loss scale
    starts at 2^power, at `step` or the first one. Shares are exact counts of the nonzero entries; in the stored text they
    follow a ≈, for gradients differ in the last digits from processor to processor. A million entries are drawn within a
    tenth of a second. Rounding is to nearest, ties to even; overflow is IEEE's. Raises `ValueError` for an unknown
    format or step, or a power off the slider.

    >>> print(UnderflowWindow([2**-26, 2**-25, 2**-20, 0.5], "FP16"))
    UnderflowWindow: 4 gradients, FP16, loss scale 2⁰
    flushed    up to 2⁻²⁵                 ≈ 50 % of them, ≈ 6.66e-08 of the norm
    subnormal  rounds to 2⁻²⁴ or more     ≈ 25 % of them, ≈ 1.91e-06 of the norm
    normal     rounds to 2⁻¹⁴ … 65504     ≈ 25 % of them, ≈ 1 of the norm
    overflow   from 65520                 ≈ 0 % of them, ≈ 0 of the norm
    FP16 flushes ≈ 50 % of the nonzero gradients to zero; they carry ≈ 6.66e-08 of the tensor's norm. Rounding changes the tensor by ≈ 6.66e-08 of its norm.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, gradients, fmt="FP16", power=0, step=None):
        super().__init__(start(gradients, fmt, power, step))
