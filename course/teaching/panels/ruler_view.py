"""What UlpRuler shows: the sums and their verdicts, the drawing, the table and the text of a `RulerState`."""

import math
from dataclasses import dataclass
from fractions import Fraction

from .outcome import judge
from .parts import binary, button, choose_format, decimal, entry, escape, plain_table, power, presets, raised, rich, sentence, ulps
from .ruler_scale import Scale, delta_slider, marks

# ---- what one addition does


@dataclass(frozen=True)
class Landing:
    """x rounded into a format, its neighbours, and the rounded x + delta. Values are floats; `start` None if x overflows."""

    fmt: object
    start: float | None
    below: float | None
    above: float | None
    exact: Fraction | None
    result: float | None
    verdict: str
    lost: bool


def landing(fmt, x, delta) -> Landing:
    """Add `delta` to `x` in a format: x rounded first, then the exact sum rounded, to nearest, ties to even."""
    start = fmt.decode(fmt.encode(x))
    if not math.isfinite(start):
        return Landing(fmt, None, None, None, None, None, f"x is beyond {decimal(fmt.max, 12)}, its largest number", False)
    below, above = fmt.neighbours(start)
    exact = Fraction(start) + delta
    code = fmt.encode(exact)
    result = fmt.decode(code)
    lost = bool(delta) and result == start
    verdict = _say_lost(fmt, start, exact, above if delta > 0 else below) if lost else _verdict(fmt, start, delta, judge(fmt, exact, code))
    return Landing(fmt, start, below, above, exact, result, verdict, lost)


def _say_lost(fmt, start, exact, neighbour):
    ends_here = neighbour is None or math.isinf(neighbour)
    gap = Fraction(fmt.ulp(start)) if ends_here else abs(Fraction(neighbour) - Fraction(start))
    twice = 2 * abs(exact - Fraction(start))
    if twice > gap:
        return "lost: x is the last number, and it saturates"
    return "lost: a tie, and x is the even one" if twice == gap else "lost: less than half of the gap"


def _verdict(fmt, start, delta, outcome):
    if not delta:
        return "nothing added"
    if outcome.kind == "overflow":
        return f"overflow: {decimal(fmt.max, 12)} is its largest number" if not math.isfinite(outcome.value) else "stops at its largest number"
    if outcome.kind == "nan":
        return "NaN: it has no negative numbers"
    if outcome.kind == "exact":
        return "kept exactly"
    if outcome.kind == "underflow":
        return "rounded to 0 (underflow)"
    tie = "a tie, rounded to the even number" if outcome.kind == "tie" else "rounded"
    share = Fraction(outcome.value) - Fraction(start)
    return f"{tie}: {decimal(share, 12)} was added, {ulps(outcome.error_ulps).lstrip('+−')} too {'much' if (outcome.error > 0) == (delta > 0) else 'little'}"


def landings(state) -> list[Landing]:
    return [landing(fmt, state.x, state.delta) for fmt in state.fmts]


def say(state) -> str:
    """The sentence that says what the present state means."""
    rows = landings(state)
    return f"{_say_gaps(rows[0])} {_say_sums(state, rows)}"


def _say_gaps(row):
    name = row.fmt.name
    if row.start is None:
        return f"{name}: {row.verdict}."
    if None in (row.below, row.above) or math.inf in (row.above, -row.below):
        missing, last = ("above", row.above) if row.above is None or row.above == math.inf else ("below", row.below)
        return f"{name}: {decimal(row.start)} is the last number, {'Inf' if last else 'and nothing'} is {missing} it."
    up, down = Fraction(row.above) - Fraction(row.start), Fraction(row.start) - Fraction(row.below)
    if up == down:
        floor = " These are subnormals: the spacing no longer shrinks towards zero." if abs(row.start) < row.fmt.min_normal else ""
        return f"{name}: the numbers next to {decimal(row.start, 14)} are {binary(up)} away on both sides.{floor}"
    small, large = ("below", "above") if down < up else ("above", "below")
    return f"{name}: the gap {large} x is {binary(max(up, down))}, the gap {small} only {binary(min(up, down))}, for a new binade begins at x."


def _say_sums(state, rows):
    if not state.delta:
        return "Type or drag a delta to see where x + delta lands."
    lost = [row.fmt.name for row in rows if row.lost]
    kept = [f"{row.fmt.name} gives {decimal(row.result, 14)}" for row in rows if not row.lost and row.result is not None]
    head = f"Adding delta changes nothing in {' and '.join(lost)}" if lost else "With delta added"
    return f"{head}{'; ' if lost and kept else ', ' if kept else ''}{', '.join(kept)}.".replace("….", "…") if lost or kept else ""


# ---- the drawing

WIDTH, LEFT, ROW, TOP = 720, 8, 92, 28


def view(state) -> str:
    """The panel as HTML."""
    rows = landings(state)
    boxes = {"x": state.x_text, "delta": state.delta_text} | {box: text for box, text, _ in state.drafts}
    message = " ".join(filter(None, [state.message, *(why for *_, why in state.drafts)]))
    moves = "".join([
        button("nudge -1", "◂ next below"), button("nudge 1", "next above ▸"), button("scale -1", "x ÷ 2"), button("scale 1", "x × 2"),
    ])  # fmt: skip
    zooms = button("zoom 1", "− wider") + button("fit", "fit") + button("zoom -1", "+ closer")
    picks = "".join(choose_format(f"format {i}", fmt, f"Format {i + 1}") for i, fmt in enumerate(state.fmts))
    return (
        f'<div class="cp-bar">{entry("x", "x", boxes["x"])}{entry("delta", "delta", boxes["delta"])}{presets(_preset_names())}</div>'
        f'<div class="cp-bar"><span class="cp-label">Move x</span><span class="cp-steps" role="group" aria-label="Move x">{moves}</span>'
        f'<span class="cp-label">Zoom</span><span class="cp-steps" role="group" aria-label="Zoom">{zooms}</span></div>'
        f"{_slider(state)}{drawing(state, rows)}"
        f'<div class="cp-bar"><span class="cp-label">Formats</span>{picks}{button("add", "add one")}{button("remove", "remove the last")}</div>'
        f'<div class="cp-scroll">{_live_table(rows)}</div>{sentence(say(state), message)}'
    )


def _slider(state):
    stops, step, words, first, gap = delta_slider(state.fmts, state.x)
    place = max(-stops, min(stops, int(state.delta / step)))
    return (
        f'<div class="cp-slide"><span class="cp-label">delta, {rich(words)}</span><input type="range" min="{-stops}" max="{stops}" step="1" '
        f'value="{place}" data-act="slide" data-key="slide" aria-label="delta, {escape(words)}" '
        f'aria-valuetext="{decimal(state.delta / gap, 12)} ulp of {escape(first.name)}"></div>'
    )


def _preset_names():
    from .ruler import PRESETS

    return PRESETS


def drawing(state, rows) -> str:
    """The number line as SVG, with a legend; the table below has its content, so that it is hidden from screen readers."""
    low, high = state.window
    scale = Scale(low, high, LEFT, WIDTH - LEFT)
    height = TOP + ROW * len(rows) + 18
    found = [marks(row.fmt, scale) for row in rows]
    body = _binades(scale, height) + "".join(_row(scale, row, drawn, TOP + ROW * i) for i, (row, drawn) in enumerate(zip(rows, found)))
    edges = (
        f'<text x="{LEFT}" y="{height - 3}">{decimal(low, 14)}</text>'
        f'<text x="{WIDTH - LEFT}" y="{height - 3}" text-anchor="end">{decimal(high, 14)}</text>'
        f'<text x="{WIDTH / 2}" y="{height - 3}" text-anchor="middle">x ± {raised(power(state.zoom))}</text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {height}" aria-hidden="true">{body}{edges}</svg>{_legend(scale, rows, found)}'


def _legend(scale, rows, found):
    """What the signs in the drawing mean: those that it shows at this zoom."""
    ticks, middles, bands = (any(kind) for kind in zip(*found))
    signs = {
        "| a number of the format": ticks, "◇ half-way: a tie": middles, "shaded: numbers too dense to draw": bands,
        "○ x + delta before rounding": any(_has_arrow(scale, row) for row in rows),
    }  # fmt: skip
    return f'<p class="cp-legend">{"".join(f"<span>{words}</span> " for words, shown in signs.items() if shown)}</p>'


def _binades(scale, height):
    parts, free = [], -1e9
    for value, name in scale.powers():
        x = scale(value)
        parts.append(f'<path d="M{x} 21V{height - 16}" stroke="currentColor" stroke-opacity=".35" stroke-dasharray="2 4"/>')
        if x - free > 34:
            parts.append(f'<text x="{x}" y="16" text-anchor="{_anchor(x)}" class="cp-halo">{raised(name)}</text>')
            free = x
    return "".join(parts)


def _row(scale, row, drawn, top):
    line = top + 52
    look = row_colour(row.fmt)
    ticks, halves, bands = drawn
    parts = [f'<path d="M{LEFT} {line}H{WIDTH - LEFT}" stroke="currentColor" stroke-opacity=".5"/>']
    parts += [
        f'<rect x="{a}" y="{line - 11}" width="{round(b - a, 1)}" height="22" fill="{look}" fill-opacity=".35"/>'
        + (f'<text x="{round((a + b) / 2, 1)}" y="{line + 4}" text-anchor="middle" class="cp-halo">{raised(name)} apart</text>' if b - a > 74 else "")
        for a, b, name in bands
    ]
    parts.append(f'<path d="{"".join(f"M{x} {line - 11}v22" for x in ticks)}" stroke="{look}" stroke-width="2"/>' if ticks else "")
    parts.append(f'<path d="{"".join(f"M{x - 2.5} {line}l2.5 -3.5 2.5 3.5 -2.5 3.5z" for x in halves)}" fill="none" stroke="currentColor" stroke-opacity=".8"/>' if halves else "")
    parts.append(f'<text x="{LEFT}" y="{top + 14}" font-weight="700" style="font-weight:700" class="cp-halo">{escape(row.fmt.name)}</text>')
    if row.start is None:
        return "".join(parts) + f'<text x="{WIDTH / 2}" y="{line - 20}" text-anchor="middle">{escape(row.verdict)}</text>'
    return "".join(parts) + _labels(scale, row, line) + _arrow(scale, row, line, top)


def row_colour(fmt):
    """A format's colour on a page that may be dark: black is drawn in the page's own ink."""
    from ..style import BLACK, look

    colour = look(fmt).colour
    return "currentColor" if colour == BLACK else colour


def _labels(scale, row, line):
    """The values of x and of its neighbours under their ticks, as far as there is room."""
    here = scale(row.start)
    beside = [value for value in (row.below, row.above) if value is not None and math.isfinite(value) and scale.shows(value)]
    names = {value: decimal(value, 12) for value in beside}
    room = min((abs(scale(value) - here) for value in beside), default=0)
    if room < 7 * max(map(len, [*names.values(), f"x = {decimal(row.start, 12)}"])) + 6:
        names = {}
    if scale.shows(row.start):
        names[row.start] = f"x = {decimal(row.start, 12)}"
    parts = [f'<text x="{scale(value)}" y="{line + 26}" text-anchor="{_anchor(scale(value))}" class="cp-halo">{name}</text>' for value, name in names.items()]
    if scale.shows(row.start):
        parts.append(f'<path d="M{here} {line + 11}l-4 6h8z" fill="currentColor"/>')
    return "".join(parts)


def _anchor(at):
    return "start" if at < 40 else "end" if at > WIDTH - 40 else "middle"


def _has_arrow(scale, row):
    return row.start is not None and row.exact != Fraction(row.start) and scale.shows(row.exact)


def _arrow(scale, row, line, top):
    """From the exact sum (a circle above the line) to the number it is rounded to."""
    if not _has_arrow(scale, row):
        return ""
    at = scale(row.exact)
    parts = [f'<circle cx="{at}" cy="{top + 24}" r="4" fill="none" stroke="currentColor" stroke-width="2"/>']
    parts.append(f'<path d="M{at} {top + 28}V{line}" stroke="currentColor" stroke-dasharray="2 2"/>')
    if math.isfinite(row.result) and scale.shows(row.result):
        to = scale(row.result)
        parts.append(f'<path d="M{at} {top + 28}L{to} {line - 14}" stroke="currentColor" stroke-width="2" fill="none"/>')
        parts.append(f'<path d="M{to} {line - 11}l-4 -7h8z" fill="currentColor"/>')
    name = f"{'lost' if row.lost else 'x + delta'} → {decimal(row.result, 12)}"
    anchor, shift = ("end", -8) if at + 7 * len(name) > WIDTH else ("start", 8)
    parts.append(f'<text x="{at + shift}" y="{top + 22}" text-anchor="{anchor}" class="cp-halo">{name}</text>')
    return "".join(parts)


# ---- table and text

HEAD = ("format", "x in it", "next below", "next above", "x + delta", "verdict")


def table_rows(rows, digits=24) -> list:
    """One row of text for each format, as `HEAD` names them."""
    out = []
    for row in rows:
        if row.start is None:
            out.append((row.fmt.name, "overflow", *["–"] * 3, row.verdict))
            continue
        out.append((row.fmt.name, decimal(row.start, digits), _next(row, row.below, digits), _next(row, row.above, digits), decimal(row.result, digits), row.verdict))
    return out


def _next(row, value, digits):
    if value is None or math.isinf(value):
        return decimal(value)
    gap = Fraction(value) - Fraction(row.start)
    return f"{decimal(value, digits)} ({'+' if gap > 0 else ''}{binary(gap)})"


def _live_table(rows):
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{rich(cell)}</td>" for cell in cells)}<td class="cp-words">{escape(verdict)}</td></tr>'
        for name, *cells, verdict in table_rows(rows, 14)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table(state) -> str:
    """The state as a plain table."""
    return plain_table(HEAD, table_rows(landings(state)), f"x = {state.x_text}, delta = {state.delta_text}. {say(state)}")


def text(state) -> str:
    """The state as text."""
    lines = [f"UlpRuler: x = {state.x_text}, delta = {state.delta_text}"]
    for name, start, below, above, result, verdict in table_rows(landings(state)):
        lines.append(f"{name:<9} x {start}, below {below}, above {above}, x + delta → {result}: {verdict}")
    return "\n".join([*lines, say(state)])
