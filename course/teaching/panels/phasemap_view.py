"""What PhaseMap shows: the map as buttons, the curve and the window of one format, the splits of a budget, and the sentence."""

import math

import numpy as np

from course.training.phase import EXPONENT_BITS, MANTISSA_BITS, SCALING, STEPS, STORED, TASKS, WINDOW, format_of, load

from ..style import GREEN, GREY, ORANGE, YELLOW, text_on
from .parts import button, escape, plain_table, power, presets, rich, sentence

_FILLS = dict(zip(("as FP32", "worse", "hardly", "not at all"), (GREEN, YELLOW, ORANGE, GREY)))
_MARKS = dict(zip(_FILLS, ("=", "+", "!", "×")))
_WORDS = {
    "master": "FP32 masters", "nearest": "in the format, nearest", "stochastic": "in the format, dice",
    "none": "none", "loss": "loss scale", "tensor": "scale per tensor",
}  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP = 440, 220, 46, 12


def _model():
    from . import phasemap

    return phasemap


def number(loss) -> str:
    """A loss in three characters or so; "lost" where training ended in NaN.

    >>> number(0.0256), number(2.303), number(1188.0), number(math.inf)
    ('.026', '2.3', '1188', 'lost')
    """
    if not math.isfinite(loss):
        return "lost"
    return f"{loss:.3f}"[1:] if loss < 0.9995 else f"{loss:.1f}" if loss < 99.95 else f"{loss:.0f}"


def view(state) -> str:
    """The panel as HTML."""
    model = _model()
    rates = [f"{rate:g}" for rate in TASKS[state.task][1]]
    return (
        f'<div class="cp-bar">{presets(model.PRESETS)}</div>'
        f'<div class="cp-bar">{_choice("Task", "task", list(TASKS), state.task)}{_choice("Learning rate", "rate", rates, rates[state.rate])}</div>'
        f'<div class="cp-bar">{_choice("Weights kept", "stored", STORED, state.stored)}{_choice("Scaling", "scaling", SCALING, state.scaling)}</div>'
        f'<div class="cp-scroll">{_grid(state)}</div>{_legend()}'
        f"{_design(state)}"
        f'<div class="cp-cards"><div class="cp-card">{_curve(state)}</div><div class="cp-card" style="min-height:236px">{plain_table(*facts(state))}</div></div>'
        f"{sentence(say(state), state.message)}"
    )


def _design(state):
    """Two sliders: the bits of a format of one's own, and how many of them are exponent bits."""
    budgets, name = _model().BUDGETS, f"E{state.e}M{state.m}"
    bits = (budgets[0], budgets[-1], state.budget, f"{state.budget} bits")
    return _slider("budget", f"Bit budget: {state.budget}", "Bit budget, sign included", *bits) + _slider(
        "split", f"Your split: {name}", "Exponent bits of your split", *_model().ends(state.budget), state.e, name
    )


def _slider(act, shown, label, low, high, value, spoken):
    return (
        f'<div class="cp-slide"><span class="cp-label" style="min-width:10em">{shown}</span><input type="range" min="{low}" max="{high}" step="1" '
        f'value="{value}" data-act="{act}" data-key="{act}" aria-label="{label}" aria-valuetext="{spoken}"></div>'
    )


def _choice(label, act, values, current):
    buttons = "".join(button(f"{act} {i}", _WORDS.get(value, value), pressed=value == current) for i, value in enumerate(values))
    return f'<span class="cp-label">{label}</span><span class="cp-presets" role="group" aria-label="{label}">{buttons}</span>'


# ---- the map


def _grid(state):
    model = _model()
    losses = model.medians(state.condition)
    cells = ['<span></span>', *(f'<span style="text-align:center">M{m}</span>' for m in MANTISSA_BITS)]
    for e in EXPONENT_BITS:
        cells.append(f'<span style="align-self:center">E{e}</span>')
        cells += [_cell(state, e, m, losses[e - 2, m]) for m in MANTISSA_BITS]
    style = "display:grid;grid-template-columns:max-content repeat(11,minmax(52px,1fr));gap:3px"
    return f'<div role="group" aria-label="Formats" data-up="up" data-down="down" style="{style}">{"".join(cells)}</div>'


def _cell(state, e, m, loss):
    kind = _model().class_of(state.condition, loss)
    here, split = (state.e, state.m) == (e, m), 1 + e + m == state.budget
    fill = _FILLS[kind]
    edge = "box-shadow:inset 0 0 0 3px #000" if here else "box-shadow:none"
    border = "2px dashed #000" if split else "2px solid transparent"
    style = f"background:{fill};color:{text_on(fill)};border:{border};{edge};padding:3px 2px;font-family:var(--code);white-space:nowrap"
    label = f"E{e}M{m}: {'lost' if not math.isfinite(loss) else f'loss {loss:.3g}'}, {kind}"
    return (
        f'<button data-act="cell {e} {m}" data-key="cell {e} {m}" aria-pressed="{str(here).lower()}" aria-label="{label}" '
        f'style="{style}">{_MARKS[kind]} {number(loss)}</button>'
    )


def _legend():
    words = {"as FP32": "trains as FP32", "worse": "trains, but worse", "hardly": "hardly trains", "not at all": "guesses, or worse"}
    marks = "".join(
        f'<span><b style="background:{_FILLS[kind]};color:{text_on(_FILLS[kind])};padding:0 5px">{_MARKS[kind]}</b> {words[kind]}</span> ' for kind in _FILLS
    )
    # Hardware's E4M3 and E2M1 spend no codes on Inf: a reader who knows 448 and 6 would think the map wrong.
    pattern = f"IEEE’s pattern, with Inf and NaN: E4M3 ends at {format_of(4, 3).max:g}, E2M1 at {format_of(2, 1).max:g}"
    words = ("number: median final loss of five seeds", "dashed: as many bits", pattern)
    return f'<p class="cp-legend">{marks}{" ".join(f"<span>{each}</span>" for each in words)}</p>'


# ---- one format


def _curve(state):
    """The format's losses along training, and FP32's; hidden from screen readers, who find the end in the table."""
    record, condition = load(), state.condition
    mine = record.curve(condition, state.e, state.m)
    theirs = np.array(record.diagrams[condition.key]["curve"][-1], dtype=float)
    high, low = 10.0, 0.01

    def place(i, loss):
        x = LEFT + (i + 0.5) / len(mine) * (WIDTH - LEFT - 60)
        y = TOP + (math.log(high) - math.log(min(high, max(low, loss)))) / math.log(high / low) * (HEIGHT - TOP - 34)
        return f"{x:.1f},{y:.1f}"

    def line(losses, extra):
        points = " ".join(place(i, loss) for i, loss in enumerate(losses) if math.isfinite(loss))
        return f'<polyline points="{points}" fill="none" stroke="currentColor" {extra}/>'

    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{float(place(0, v).split(",")[1]) + 4:.1f}" text-anchor="end">{v:g}</text>'
        f'<path d="M{LEFT} {place(0, v).split(",")[1]}H{WIDTH - 60}" stroke="currentColor" stroke-opacity=".2"/>' for v in (10, 1, 0.1, 0.01)
    )  # fmt: skip
    name = f"E{state.e}M{state.m}"
    at = {label: float(place(len(mine) - 1, losses[-1] if math.isfinite(losses[-1]) else high).split(",")[1]) for label, losses in ((name, mine), ("FP32", theirs))}
    if abs(at[name] - at["FP32"]) < 13:  # the labels would overlap
        at[name], at["FP32"] = sum(at.values()) / 2 - 6, sum(at.values()) / 2 + 8
    labels = "".join(f'<text x="{WIDTH - 56}" y="{y + 4:.1f}">{label}</text>' for label, y in at.items())
    axis = f'<text x="{(WIDTH - 14) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{STEPS} steps, means of {WINDOW}</text>'
    dashed, thick = 'stroke-dasharray="5 4" stroke-width="1.6"', 'stroke-width="2.4"'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{ticks}{line(theirs, dashed)}{line(mine, thick)}{labels}{axis}</svg>'


def facts(state) -> tuple:
    """Head, rows and caption about the format that is pointed at."""
    record, fmt = load(), format_of(state.e, state.m)
    final = np.sort(np.nan_to_num(record.final(state.condition)[state.e - 2, state.m], nan=np.inf))
    reference = np.sort(record.reference(state.condition))
    rows = [
        ("smallest number", f"{power(round(math.log2(fmt.min_subnormal or fmt.min_normal)))}"),
        ("smallest normal", f"{power(round(math.log2(fmt.min_normal)))}"),
        ("largest", f"{fmt.max:.6g}"),
        ("eps", f"{power(-state.m)}"),
        ("final loss, five seeds", "  ".join(number(loss) for loss in final)),
        ("FP32", "  ".join(number(loss) for loss in reference)),
        ("steps skipped by overflow", f"{100 * record.skipped(state.condition, state.e, state.m):.1f} %"),
    ]
    return ("", fmt.name), rows, f"{fmt.name}: {fmt.bits} bits"


# ---- the sentence


def say(state) -> str:
    """The sentence that says what the present state means."""
    model, condition = _model(), state.condition
    loss = model.medians(condition)[state.e - 2, state.m]
    kind, name = model.class_of(condition, loss), f"E{state.e}M{state.m}"
    ends = "loses its training to NaN" if not math.isfinite(loss) else f"ends at {loss:.3g}" if loss < 1000 else f"ends at {loss:.0f}"
    words = f"{name} {ends} (FP32: {np.median(load().reference(condition)):.3g})"
    if kind == "as FP32":
        words += ": it trains as FP32 does."
    else:
        found = model.remedies(condition, state.e, state.m)
        words += f". Mended by {' or by '.join(found)}." if found else ". No single change on this map mends it."
    return f"{words} {_budget_words(state)}"


def _budget_words(state):
    rows = _model().splits(state.condition, state.budget)
    best = min(loss for *_, loss in rows)
    if len(rows) == 1:
        return f"It is the only split of {state.budget} bits on this map."
    if not math.isfinite(best) or _model().class_of(state.condition, best) == "not at all":
        return f"No split of {state.budget} bits learns anything here."
    near = [f"E{e}M{m}" for e, m, loss in rows if loss <= 1.1 * best]
    if len(near) == len(rows):
        return f"With {state.budget} bits all {len(rows)} splits do alike ({best:.3g}, none more than a tenth above)."
    names = f"{' and '.join(near)} {'is' if len(near) == 1 else 'are'}"
    own = 1 + sum(loss < _model().medians(state.condition)[state.e - 2, state.m] for *_, loss in rows)
    return (
        f"With {state.budget} bits {names} best of {len(rows)} splits ({best:.3g}, the others more than a tenth above). "
        f"Your split is number {own} of {len(rows)}."
    )


# ---- where nothing runs


def _rows(state):
    losses = _model().medians(state.condition)
    return [(f"E{e}", *(f"{_MARKS[_model().class_of(state.condition, loss)]} {number(loss)}" for loss in losses[e - 2])) for e in EXPONENT_BITS]


def _caption(state):
    condition = state.condition
    return f"{condition.task}, learning rate {condition.lr:g}, weights: {_WORDS[condition.stored]}, scaling: {_WORDS[condition.scaling]}"


def table(state) -> str:
    """The state as plain tables."""
    head = ("", *(f"M{m}" for m in MANTISSA_BITS))
    return f"{plain_table(head, _rows(state), _caption(state))}{plain_table(*facts(state))}<p>{rich(say(state))}</p>"


def text(state) -> str:
    """The state as text."""
    rows = [("", *(f"M{m}" for m in MANTISSA_BITS)), *_rows(state)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([f"PhaseMap: {escape(_caption(state))}", *lines, say(state)])
