"""What UnderflowWindow shows: the histogram with its zones, the shares, the table and the text of a `WindowState`."""

import math

import numpy as np

from ..style import BLACK, look
from .parts import button, decimal, escape, plain_table, power, presets, raised, rich, sentence

WIDTH, LEFT, RIGHT, TOP, BASE = 720, 14, 706, 58, 236
LOW, HIGH = -48, 24  # the axis, as powers of two; what lies beyond is gathered at the ends
KINDS = {"flushed": "flushed", "subnormal": "subnormal", "normal": "normal", "overflowed": "overflow"}
_FILLS = {"flushed": 0.0, "subnormal": 0.5, "normal": 1.0, "overflowed": 0.0}  # opacity of the format's colour


def _fate(state):
    from .window import fate

    return fate(state)


def percent(share) -> str:
    """A share in percent, to three digits; 100 only where it is all, 0 only where it is nothing.

    >>> percent(0.18594), percent(0.999999), percent(1.0), percent(0)
    ('18.6', '99.9', '100', '0')
    """
    return f"{min(100 * share, 99.9) if share < 1 else 100:.3g}"


def _part(value):
    return f"{value:.3g}"


# ---- the sentence


def say(state, approximately="") -> str:
    """The sentence that says what the present state means; `approximately` is put before what was measured."""
    found, mark = _fate(state), approximately
    count, name = found.count, state.fmt.name
    if count.total == count.zero:
        return "All of these gradients are exactly zero: there is nothing to lose."
    if count.overflowed:
        then = "which takes its place" if state.fmt.specials == "finite" else "so that the step would be skipped or spoilt"
        return (
            f"Too far: the largest gradient is beyond {name}'s largest number, {then}. "
            f"{mark}{percent(count.share('overflowed'))} % of the nonzero gradients overflow at this scale."
        )
    error = f"Rounding changes the tensor by {mark}{_part(found.error)} of its norm."
    if not count.flushed:
        return f"{name} keeps every gradient at this scale: none is flushed, none overflows. {error}"
    return (
        f"{name} flushes {mark}{percent(count.share('flushed'))} % of the nonzero gradients to zero; "
        f"they carry {mark}{_part(found.norms['flushed'])} of the tensor's norm. {error}"
    )


# ---- the drawing


def place(exponent) -> float:
    """Where a power of two stands on the axis, kept inside it."""
    inside = max(LOW, min(HIGH, exponent))
    return round(LEFT + (RIGHT - LEFT) * (inside - LOW) / (HIGH - LOW), 1)


def bars(state) -> list[tuple[int, dict]]:
    """For each power k of the axis the share of the nonzero entries in (2^(k-1), 2^k], by kind; the ends gather the rest."""
    x, _ = state.sizes.of(state.step, state.layer)
    edges = _fate(state).edges
    scaled = x * state.scale
    tops = [2.0**k for k in range(LOW + 1, HIGH)] + [math.inf]
    below = np.searchsorted(scaled, tops, side="right")
    below[-1] = x.size  # NaN too
    cuts = [np.searchsorted(scaled, edge, side=side) for edge, side in ((edges.flush, "right"), (edges.normal, "left"), (edges.overflow, "left"))]
    ends, total = [0, *map(int, cuts), x.size], max(1, x.size)
    out, start = [], 0
    for k, end in zip(range(LOW + 1, HIGH + 1), map(int, below)):
        kinds = {kind: max(0, min(end, b) - max(start, a)) / total for kind, a, b in zip(KINDS, ends, ends[1:])}
        out.append((k, kinds))
        start = end
    return out


def zones(edges) -> dict:
    """Kind to its stretch of the axis, as powers of two."""
    def log(value):
        return -math.inf if value <= 0 else math.log2(value) if math.isfinite(value) else math.inf

    marks = [-math.inf, log(edges.flush), log(edges.normal), log(edges.overflow), math.inf]
    return dict(zip(KINDS, zip(marks, marks[1:])))


def drawing(state, found) -> str:
    """The histogram as SVG; its content stands in the table, so that it is hidden from screen readers."""
    colour = look(state.fmt).colour
    colour = "currentColor" if colour == BLACK else colour
    return (
        f'<svg viewBox="0 0 {WIDTH} 266" aria-hidden="true">{_zones(found)}{_bars(state, colour)}{_axis()}{_largest(found)}</svg>'
        f'<p class="cp-legend"><span>across: |gradient| × loss scale, one bar for each power of two</span> <span>up: share of the entries</span> '
        f"<span>▲ the largest</span></p>"
    )


def _zones(found):
    parts = []
    for kind, (low, high) in zones(found.edges).items():
        a, b = place(low), place(high)
        if b <= a:
            continue
        tint = ".10" if kind in ("flushed", "overflowed") else ".04" if kind == "subnormal" else "0"
        parts.append(f'<rect x="{a}" y="{TOP - 6}" width="{round(b - a, 1)}" height="{BASE - TOP + 6}" fill="currentColor" fill-opacity="{tint}"/>')
        if low > LOW:
            parts.append(f'<path d="M{a} {TOP - 22}V{BASE}" stroke="currentColor" stroke-width="1.4" stroke-dasharray="5 4"/>')
        word, share = KINDS[kind], f"{percent(found.count.share(kind))} %"
        middle, up = (a + b) / 2, 0
        if b - a < 66:  # too narrow for its words: they stand higher, and may reach over the neighbours
            up, middle = 24, max(LEFT + 34, min(RIGHT - 34, middle))
        parts.append(f'<text x="{round(middle, 1)}" y="{TOP - 28 - up + 12}" text-anchor="middle" style="font-weight:700" class="cp-halo">{word} {share if up else ""}</text>')
        if not up:
            parts.append(f'<text x="{round(middle, 1)}" y="{TOP - 2}" text-anchor="middle" class="cp-halo">{share}</text>')
    return "".join(parts)


def _bars(state, colour):
    every = bars(state)
    highest = max((sum(kinds.values()) for _, kinds in every), default=0) or 1
    parts = []
    for k, kinds in every:
        a, b, y = place(k - 1), place(k), BASE
        for kind, share in kinds.items():
            height = round((BASE - TOP - 8) * share / highest, 1)
            if height <= 0:
                continue
            y = round(y - height, 1)
            line = "stroke-dasharray='2 2'" if kind == "flushed" else ""
            fill = "currentColor" if kind == "overflowed" else colour
            parts.append(
                f'<rect x="{round(a + 0.8, 1)}" y="{y}" width="{round(b - a - 1.6, 1)}" height="{height}" fill="{fill}" '
                f'fill-opacity="{0.85 if kind == "overflowed" else _FILLS[kind]}" stroke="{fill}" stroke-width="1.2" {line}/>'
            )
    return "".join(parts)


def _axis():
    parts = [f'<path d="M{LEFT} {BASE}H{RIGHT}" stroke="currentColor"/>']
    for k in range(LOW, HIGH + 1, 8):
        name = {LOW: "≤ ", HIGH: "≥ "}.get(k, "") + power(k)
        anchor = {LOW: "start", HIGH: "end"}.get(k, "middle")
        parts.append(f'<path d="M{place(k)} {BASE}v5" stroke="currentColor"/><text x="{place(k)}" y="{BASE + 23}" text-anchor="{anchor}">{raised(name)}</text>')
    return "".join(parts)


def _largest(found):
    if not found.largest or math.isnan(found.largest):
        return ""
    at = place(math.log2(found.largest)) if math.isfinite(found.largest) else RIGHT
    return f'<path d="M{at} {BASE + 1}l-5 8h10z" fill="currentColor"/>'


# ---- the panel


def view(state) -> str:
    """The panel as HTML."""
    from .window import PRESETS, SCALES

    found = _fate(state)
    steps, layers = list(state.sizes.steps), state.sizes.layers(state.step)
    data = _choice("step", steps, state.step, "Step") if len(steps) > 1 else ""
    data += _choice("layer", layers, state.layer, "Layer") if len(layers) > 1 else ""
    moves = button("double -1", "÷ 2") + button("double 1", "× 2") + button("largest", "largest without overflow")
    return (
        f'<div class="cp-bar">{presets(PRESETS)}</div>'
        f'<div class="cp-bar">{data}{_formats(state)}{_widths(state)}</div>'
        f'<div class="cp-slide"><span class="cp-label">Loss scale {rich(_scale_name(state))}</span><input type="range" min="{SCALES[0]}" '
        f'max="{SCALES[-1]}" step="1" value="{state.power}" data-act="scale" data-key="scale" aria-label="Loss scale" '
        f'aria-valuetext="2 to the power {state.power}"><span class="cp-steps" role="group" aria-label="Move the loss scale" '
        f'data-up="double 1" data-down="double -1">{moves}</span></div>'
        f'{drawing(state, found)}<div class="cp-scroll">{_live_table(state, found)}</div>{sentence(say(state), state.message)}'
    )


def _scale_name(state):
    return f"{power(state.power)} = {decimal(state.scale, 12)}"


def _choice(act, names, current, label):
    options = "".join(f"<option{' selected' if name == current else ''}>{escape(name)}</option>" for name in names)
    return f'<label>{label} <select data-act="{act}" data-key="{act}" aria-label="{label}">{options}</select></label>'


def _formats(state):
    from .window import CHOICES

    names = CHOICES if state.fmt.name in CHOICES else (state.fmt.name, *CHOICES)
    return _choice("format", names, state.fmt.name, "Format")


def _widths(state):
    rows = (("exponent", state.fmt.exponent_bits), ("mantissa", state.fmt.mantissa_bits))
    return "".join(
        f'<span class="cp-steps" role="group" aria-label="{name} bits" data-up="{name} 1" data-down="{name} -1">'
        f'{button(f"{name} -1", "−", label=f"one {name} bit less")}<span style="align-self:center">{width} {name} bits</span>'
        f'{button(f"{name} 1", "+", label=f"one {name} bit more")}</span>'
        for name, width in rows
    )


# ---- table and text

HEAD = ("kind", "where, after scaling", "share of the nonzero entries", "entries", "their part of the norm")


def _limits(state, found) -> dict:
    fmt, edges = state.fmt, found.edges
    tie = fmt.max + fmt.ulp(fmt.max) / 2
    return {
        "flushed": f"up to {_name(edges.flush)}",
        "subnormal": f"rounds to {_name(fmt.min_subnormal)} or more" if fmt.min_subnormal else "none without mantissa bits",
        "normal": f"rounds to {_name(fmt.min_normal)} … {decimal(fmt.max, 12)}",
        "overflowed": f"{'from' if edges.overflow == tie else 'above'} {decimal(tie, 12)}",
    }


def _name(value):
    return power(round(math.log2(value))) if value and math.log2(value) == round(math.log2(value)) else decimal(value, 6)


def _live_table(state, found):
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    body = "".join(
        f'<tr><th scope="row">{KINDS[kind]}</th><td>{rich(where)}</td><td>{percent(found.count.share(kind))} %</td>'
        f"<td>{getattr(found.count, kind):,}</td><td>{_part(found.norms[kind])}</td></tr>"
        for kind, where in _limits(state, found).items()
    )
    zeros = f"<tr><th scope=\"row\">exactly zero</th><td>before rounding</td><td>not counted</td><td>{found.count.zero:,}</td><td>0</td></tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}{zeros}</tbody></table>"


def _caption(state, found):
    parts = [state.step and (f"step {state.step}" if state.step.isdigit() else state.step), state.layer if len(state.sizes.layers(state.step)) > 1 else ""]
    where = ", ".join(filter(None, parts))
    return f"{where + ', ' if where else ''}{found.count.total:,} gradients, {state.fmt.name}, loss scale {power(state.power)}"


def table(state) -> str:
    """The state as a plain table."""
    found = _fate(state)
    rows = [(KINDS[kind], where, f"≈ {percent(found.count.share(kind))} %", f"≈ {_part(found.norms[kind])}") for kind, where in _limits(state, found).items()]
    return plain_table((*HEAD[:3], HEAD[4]), rows, f"{_caption(state, found)}. {say(state, '≈ ')}")


def text(state) -> str:
    """The state as text."""
    found = _fate(state)
    lines = [f"UnderflowWindow: {_caption(state, found)}"]
    for kind, where in _limits(state, found).items():
        share, part = percent(found.count.share(kind)), _part(found.norms[kind])
        lines.append(f"{KINDS[kind]:<10} {where:<26} ≈ {share} % of them, ≈ {part} of the norm")
    return "\n".join([*lines, say(state, "≈ ")])
