"""DtypeTrace: the operations of one training step, forward and backward, each in the colour of its dtype."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby

from course.training.trace import Call

from ..panel import Panel
from ..style import look, text_on
from .parts import button, can_start_over, escape, plain_table, rich, sentence

WORDS = {
    "addmm": "matrix product plus bias", "mm": "matrix product", "bmm": "batched matrix product", "native_layer_norm": "layer norm", "embedding": "table look-up",
    "_log_softmax": "log-softmax", "_softmax": "softmax", "nll_loss_forward": "mean of the losses", "_to_copy": "cast", "gelu": "GELU", "add": "sum", "sum": "sum over an axis",
    "_scaled_dot_product_flash_attention_for_cpu": "fused attention", "_scaled_dot_product_flash_attention_for_cpu_backward": "fused attention, backward",
}  # fmt: skip


@dataclass(frozen=True)
class TraceState:
    """Traces by name (tuples of `Call`), which one is shown, whether casts are, and which call is looked at."""

    traces: tuple  # (name, calls) pairs
    way: int = 0
    casts: bool = True
    chosen: int | None = None  # place among all calls of the trace
    first: "TraceState | None" = field(default=None, compare=False, repr=False)

    @property
    def calls(self) -> tuple:
        return self.traces[self.way][1]

    @property
    def shown(self) -> list:
        """(place, call) of what the panel shows."""
        return [(i, call) for i, call in enumerate(self.calls) if self.casts or not call.is_cast]


def start(traces) -> TraceState:
    """The first state. `traces`: {name: list of Call}; raises `ValueError` for none, or for one without calls."""
    pairs = tuple((str(name), tuple(calls)) for name, calls in dict(traces).items())
    if not pairs or not all(calls and all(isinstance(call, Call) for call in calls) for _, calls in pairs):
        raise ValueError("no traces: give {name: trace.calls}, each from a `with course.training.trace.Trace(model)`")
    return TraceState(pairs)


@can_start_over
def update(state: TraceState, action: dict) -> TraceState:
    """Apply one action: way n | casts | call n | restart."""
    name, *rest = action["act"].split()
    if name == "casts":
        return replace(state, casts=not state.casts, chosen=None)
    number = int(rest[0])
    if name == "way":
        state.traces[number]  # raises IndexError for one that is not there
        return replace(state, way=number, chosen=None)
    if name == "call":
        state.calls[number]
        return replace(state, chosen=number)
    raise ValueError(f"{name!r} is no action of this panel")


# ---- words


def words(call) -> str:
    """What an operator does, in words where it has some."""
    return WORDS.get(call.op, call.op.strip("_").replace("_", " "))


def say(state) -> str:
    """The sentence on the chosen call, or on the whole trace."""
    if state.chosen is None:
        return f"{state.traces[state.way][0]}: {_summary(state.calls)}. Press an operation to see what went in."
    call = state.calls[state.chosen]
    where = f"in {call.layer}" if call.layer else "outside of all layers"
    read = " and ".join(f"{n} × {name}" if n > 1 else name for name, n in Counter(call.inputs).items()) or "nothing"
    wrote = " and ".join(dict.fromkeys(call.outputs))
    verb = "casts" if call.is_cast else "reads"
    tail = f"{read} to {wrote}" if call.is_cast else f"{read} and writes {wrote}"
    return f"{call.phase.capitalize()} {where}: {call.op} ({words(call)}) {verb} {tail}, {call.numel} numbers."


def _summary(calls):
    parts = []
    for phase in ("forward", "backward"):
        counts = Counter(call.outputs[0] for call in calls if call.phase == phase and not call.is_cast)
        if counts:
            parts.append(f"{phase} " + ", ".join(f"{n} operation{'s' * (n > 1)} in {name}" for name, n in sorted(counts.items())))
    casts = sum(call.is_cast for call in calls)
    return "; ".join([*parts, f"{casts or 'no'} cast{'s' * (casts != 1)}"])


# ---- the live page


def view(state: TraceState) -> str:
    """The panel as HTML."""
    ways = "".join(button(f"way {i}", name, pressed=i == state.way) for i, (name, _) in enumerate(state.traces))
    tools = button("casts", "casts", pressed=state.casts) + button("restart", "↺ start over")
    columns = "".join(_column(state, phase) for phase in ("forward", "backward"))
    return (
        f'<div class="cp-bar"><span class="cp-label">Cast by</span><span class="cp-steps" role="group" aria-label="Way of casting">{ways}</span>{tools}</div>'
        f'{_legend(state)}<div class="cp-cards">{columns}</div>{sentence(say(state), "")}'
    )


def _chip_style(name):
    colour = look(name).colour
    return f"background:{colour};color:{text_on(colour)};border-color:{colour}"


def _legend(state):
    names = sorted({call.outputs[0] for call in state.calls})
    chips = "".join(f'<span style="{_chip_style(name)};padding:0 6px;border-radius:3px">{escape(name)}</span> ' for name in names)
    return f'<p class="cp-legend">{chips}<span>dashed: a cast</span></p>'


def _column(state, phase):
    shown = [(i, call) for i, call in state.shown if call.phase == phase]
    if not shown:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(layer or "–")}</th><td><span role="group" aria-label="{escape(phase)}, {escape(layer or "outside of all layers")}">'
        f'{"".join(_chip(state, i, call) for i, call in group)}</span></td></tr>'
        for layer, group in groupby(shown, key=lambda pair: pair[1].layer)
    )
    return f'<div class="cp-card"><div class="cp-head"><strong>{phase}</strong></div><div class="cp-scroll"><table><tbody>{rows}</tbody></table></div></div>'


def _chip(state, place, call):
    name = call.outputs[0]
    label = f"{call.op}, {'cast to ' if call.is_cast else ''}{name}"
    style = _chip_style(name) + (";border-style:dashed;border-width:2px;opacity:.75" if call.is_cast else "")
    text = f"→ {name}" if call.is_cast else f"{_short(call.op)} {name}"
    pressed = "true" if place == state.chosen else "false"
    outline = ";outline:3px solid var(--jp-brand-color1,#1976d2)" if place == state.chosen else ""
    return (
        f'<button data-act="call {place}" data-key="call {place}" aria-pressed="{pressed}" aria-label="{escape(label)}" '
        f'style="{style}{outline};font-size:11px;padding:1px 5px;margin:1px">{escape(text)}</button>'
    )


def _short(op):
    for long, short in (("_scaled_dot_product_flash_attention_for_cpu", "attention"), ("_scaled_dot_product", "attention"), ("native_layer_norm", "layer_norm")):
        if op.startswith(long):
            return short + ("_backward" if op.endswith("backward") else "")
    return op.strip("_")


# ---- table and text


def rows_of(state) -> list:
    """Phase, layer and operations of each stretch of the trace that belongs to one layer."""
    rows = []
    for (phase, layer), group in groupby(state.shown, key=lambda pair: (pair[1].phase, pair[1].layer)):
        ops = (f"→ {call.outputs[0]}" if call.is_cast else f"{_short(call.op)} {call.outputs[0]}" for _, call in group)
        rows.append((phase, layer or "–", ", ".join(f"{op} × {n}" if n > 1 else op for op, n in _runs(ops))))
    return rows


def _runs(items):
    return [(item, len(list(group))) for item, group in groupby(items)]


def table(state: TraceState) -> str:
    """The state as a plain table."""
    return plain_table(("phase", "layer", "operations, with the dtype they write"), rows_of(state), say(state))


def text(state: TraceState) -> str:
    """The state as text."""
    lines = [f"{phase:<8} {layer:<24} {ops}" for phase, layer, ops in rows_of(state)]
    return "\n".join([f"DtypeTrace: {state.traces[state.way][0]}", *lines, say(state)])


class DtypeTrace(Panel):
    """One training step, operation by operation, coloured by the dtype that each one writes, for several ways of casting.

    `traces` is {name: calls}, from `course.training.trace.Trace`. Raises `ValueError` where there are none.

    >>> from course.training.trace import Call
    >>> calls = [Call("forward", "head", "_to_copy", ("FP32",), ("BF16",), 8), Call("forward", "head", "mm", ("BF16", "BF16"), ("BF16",), 4)]
    >>> print(DtypeTrace({"autocast": calls}))
    DtypeTrace: autocast
    forward  head                     → BF16, mm BF16
    autocast: forward 1 operation in BF16; 1 cast. Press an operation to see what went in.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, traces):
        super().__init__(start(traces))
