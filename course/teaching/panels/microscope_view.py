"""What SwampingMicroscope shows: the lens, the path of the weight, the crowd of weights, the table and the text."""

import math
from fractions import Fraction

import numpy as np

from .parts import binary, button, decimal, entry, escape, plain_table, power, presets, raised, rich, sentence
from .places import short
from .ruler_scale import Scale, marks
from .ruler_view import row_colour

WIDTH, LEFT = 720, 8
LENS, PATH, CROWD = 138, 150, 158  # heights of the three drawings


# ---- what there is to say


def thresholds(fmt, stored) -> tuple:
    """How far an update may reach (down, up) and still be lost: half of each gap; None at an end of the format.

    >>> from course.numerics import BF16
    >>> thresholds(BF16, 1.0)
    (Fraction(1, 512), Fraction(1, 256))
    """
    if not math.isfinite(stored):
        return None, None
    below, above = (None if n is None or math.isinf(n) else Fraction(n) for n in fmt.neighbours(stored))
    here = Fraction(stored)
    return None if below is None else (here - below) / 2, None if above is None else (above - here) / 2


def fate(state) -> str:
    """What the next update does: "nothing", "end", "lost", "tie lost", "tie moves", "moves", "overflow"."""
    if not state.delta:
        return "nothing"
    half = thresholds(state.fmt, state.stored)[state.delta > 0]
    if half is None:
        return "end"
    after = state.fmt.decode(state.fmt.encode(Fraction(state.stored) + state.delta))
    tie = "tie " if abs(state.delta) == half else ""
    if after == state.stored:
        return f"{tie}lost"
    return f"{tie}moves" if math.isfinite(after) else "overflow"


def say(state) -> str:
    """The sentence that says what the present state means."""
    kind, name = fate(state), state.fmt.name
    if kind == "nothing":
        return "An update of 0 moves nothing: type another one, or drag its size."
    if kind == "end":
        last = f"{name} has no number further {'up' if state.delta > 0 else 'down'} than {decimal(state.stored, 14)}."
        return f"{last} {_say_steps(state, kind)}".strip()
    half = thresholds(state.fmt, state.stored)[state.delta > 0]
    share = decimal(Fraction(round(abs(state.delta) / half * 10000), 10000), 12) if abs(state.delta) / half < 1000 else "over 1000"
    first = {
        "lost": f"{name} loses this update: it is {share} of half the gap.",
        "tie lost": f"{name} loses this update: it is half the gap exactly, a tie, and the stored number is the even one.",
        "tie moves": f"{name} moves by a whole gap: the update is half of it, a tie, and the other number is the even one.",
        "moves": f"{name} moves: the update is {share} times half the gap.",
        "overflow": f"{name} overflows: the sum is beyond {decimal(state.fmt.max, 12)}.",
    }[kind]
    return " ".join(filter(None, [first, _say_steps(state, kind), _say_crowd(state)]))


def _say_steps(state, kind):
    if not state.steps:
        return ""
    moved = len(state.path) - 1
    if not moved:
        return f"Nothing has moved in {_count(state.steps)}, and nothing ever will."
    if not math.isfinite(state.stored):
        return f"It has left the format after {_count(moved)}."
    error = abs(Fraction(state.stored) - state.exact)
    off = "exactly right" if not error else f"{decimal(Fraction(round(error / abs(state.steps * state.delta) * 1000), 10), 6)} % of the way off"
    if "lost" in kind and moved < state.steps:
        return f"It stalled after {_count(moved)}; now, after {state.steps}, it is {off}."
    return f"After {_count(state.steps)} it is {off}."


def _count(steps):
    return f"{steps} step{'s' if steps > 1 else ''}"


def _say_crowd(state):
    if state.crowd is None or not state.delta:
        return ""
    moved, total = sum(moved for _, moved, _ in crowd_bars(state)), state.crowd.sizes.size
    return f"Of the {total} nonzero weights {100 * moved / max(1, total):.1f} % would move under an update of this size."


def crowd_bars(state, most=24) -> list:
    """For each binade of the crowd from small to large: (exponent, how many would move, how many there are).

    Of more than `most` binades the smallest share one entry, under the exponent of the largest of them.

    Each weight is rounded into the format first; an update of this size that shrinks it and one that grows it may
    fare differently at a power of two only: the shrinking one is counted.
    """
    import torch

    from course.numerics import round_to

    if state.crowd is None:
        return []
    sizes = round_to(torch.from_numpy(state.crowd.sizes), state.fmt)
    moved = (round_to(sizes - float(abs(state.delta)), state.fmt) != sizes).numpy()
    exponents = np.frexp(state.crowd.sizes)[1] - 1
    lowest = max(exponents.min(), exponents.max() + 1 - most)
    exponents = exponents.clip(lowest)
    return [(int(e), int(moved[exponents == e].sum()), int((exponents == e).sum())) for e in range(lowest, exponents.max() + 1)]


def _crowd_rows(state):
    """The crowd in words: what moves, binade by binade from large to small; the last entry holds all the rest."""
    bars = crowd_bars(state, most=8)[::-1]
    names = [f"weights from {power(e)}" for e, *_ in bars[:-1]] + [f"weights below {power(e + 1)}" for e, *_ in bars[-1:]]
    return [(name, f"{moved} of {total} move") for name, (_, moved, total) in zip(names, bars)]


# ---- the live page


def view(state) -> str:
    """The panel as HTML."""
    from .microscope import CHOICES, PRESETS, SIZES, size_stop

    boxes = {"w": state.w_text, "delta": state.delta_text} | {box: typed for box, typed, _ in state.drafts}
    message = " ".join(filter(None, [state.message, *(why for *_, why in state.drafts)]))
    names = CHOICES if state.fmt.name in CHOICES else (state.fmt.name, *CHOICES)
    options = "".join(f"<option{' selected' if name == state.fmt.name else ''}>{escape(name)}</option>" for name in names)
    steps = "".join(button(f"step {n}", f"+ {n}") for n in (1, 10, 100, 1000)) + button("back", "back to 0")
    moves = "".join([button("nudge -1", "◂ next below"), button("nudge 1", "next above ▸"), button("scale -1", "w ÷ 2"), button("scale 1", "w × 2")])
    zooms = button("zoom 1", "− wider") + button("zoom -1", "+ closer")
    slider = (
        f'<div class="cp-slide"><span class="cp-label">size of the update</span><input type="range" min="{SIZES[0]}" max="{SIZES[-1]}" step="1" '
        f'value="{size_stop(state.delta)}" data-act="size" data-key="size" aria-label="size of the update, four stops to a power of two" '
        f'aria-valuetext="{decimal(abs(state.delta), 12)}">{button("turn", "± turn its sign")}</div>'
    )
    return (
        f'<div class="cp-bar">{entry("w", "Weight w", boxes["w"])}{entry("delta", "Update", boxes["delta"])}'
        f'<select data-act="format" data-key="format" aria-label="Format of the stored weight">{options}</select>'
        f'<span class="cp-label">Zoom</span><span class="cp-steps" role="group" aria-label="Zoom">{zooms}</span></div>'
        f'<div class="cp-bar">{presets(PRESETS)}</div>{slider}'
        f'<div class="cp-bar"><span class="cp-label">Steps</span><span class="cp-steps" role="group" aria-label="Steps">{steps}</span>'
        f'<span class="cp-label">Move w</span><span class="cp-steps" role="group" aria-label="Move w">{moves}</span></div>'
        f"{lens(state)}{path_drawing(state)}{crowd_drawing(state)}{_facts(state)}{sentence(say(state), message)}"
    )


def _facts(state):
    cells = "".join(f'<span class="cp-label">{escape(name)}</span><span>{rich(value)}</span>' for name, value in facts(state))
    return f'<div class="cp-facts" style="min-height:0">{cells}</div>'


def facts(state) -> list:
    """Name and value of what the drawings show, as text."""
    down, up = thresholds(state.fmt, state.stored)
    lost = "; ".join(
        f"{'up' if way else 'down'} by {'as much as' if _even(state) else 'less than'} {binary(half)}" + (f" ({decimal(half, 12)})" if binary(half) != decimal(half, 12) else "")
        for way, half in ((1, up), (0, down)) if half is not None
    )  # fmt: skip
    return [
        ("stored weight", decimal(state.stored, 20)),
        ("exact weight", decimal(state.exact, 20)),
        ("update", f"{decimal(state.delta, 20)}, {_count(state.steps)} made" if state.steps else decimal(state.delta, 20)),
        ("lost", lost or "nothing to lose at the end of the format"),
    ]


def _even(state):
    return state.fmt.encode(state.stored) % 2 == 0


# ---- the lens


def window(state) -> tuple:
    """The stretch in view: two gaps to each side at zoom 0, twice as much with each step of zoom."""
    here = Fraction(state.stored)
    half = 2 * Fraction(state.fmt.ulp(state.stored)) * Fraction(2) ** state.zoom
    return here - half, here + half


def lens(state) -> str:
    """The number line around the stored weight: its format's numbers, the stretch of lost updates, where the sum lands."""
    if not math.isfinite(state.stored):
        return ""
    scale, line = Scale(*window(state), LEFT, WIDTH - LEFT), 78
    here, colour = scale(state.stored), row_colour(state.fmt)
    ticks, _, bands = marks(state.fmt, scale)
    down, up = thresholds(state.fmt, state.stored)
    left, right = (max(LEFT, min(WIDTH - LEFT, scale(Fraction(state.stored) + shift))) for shift in (-(down or 0), up or 0))
    parts = [
        f'<rect x="{left}" y="{line - 26}" width="{round(max(right - left, 1), 1)}" height="52" fill="currentColor" fill-opacity=".13"/>',
        f'<path d="M{LEFT} {line}H{WIDTH - LEFT}" stroke="currentColor" stroke-opacity=".5"/>',
        *(f'<rect x="{a}" y="{line - 9}" width="{round(b - a, 1)}" height="18" fill="{colour}" fill-opacity=".4"/>' for a, b, _ in bands),
        f'<path d="{"".join(f"M{x} {line - 11}v22" for x in ticks)}" stroke="{colour}" stroke-width="2"/>' if ticks else "",
        f'<path d="M{here} {line + 12}l-5 8h10z" fill="currentColor"/>',
        f'<text x="{here}" y="{line + 34}" text-anchor="middle" class="cp-halo">stored {decimal(state.stored, 14)}</text>',
    ]
    if right - left > 60:
        parts.append(f'<text x="{(left + right) / 2}" y="{line + 54}" text-anchor="middle" class="cp-halo">an update that ends in the grey part is lost</text>')
    parts += _neighbour_names(state, scale, line) + _sum_arrow(state, scale, line)
    label = f"The number line of {state.fmt.name} around the stored weight"
    return f'<svg viewBox="0 0 {WIDTH} {LENS}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _neighbour_names(state, scale, line):
    names = []
    for value in state.fmt.neighbours(state.stored):
        if value is None or math.isinf(value) or not scale.shows(value) or abs(scale(value) - scale(state.stored)) < 150:
            continue
        names.append(f'<text x="{scale(value)}" y="{line + 34}" text-anchor="middle" class="cp-halo">{decimal(value, 12)}</text>')
    return names


def _sum_arrow(state, scale, line):
    """From the stored weight to the exact sum, and on to the number that is stored for it."""
    if not state.delta:
        return []
    target = Fraction(state.stored) + state.delta
    here = scale(state.stored)
    at = max(LEFT, min(WIDTH - LEFT, scale(target)))
    beyond = not scale.shows(target)
    words = ("beyond the view: " if beyond else "") + f"w + update = {decimal(target, 12)}"
    anchor = "start" if at < 200 else "end" if at > WIDTH - 200 else "middle"
    parts = [
        f'<path d="M{here} 26H{at}" stroke="currentColor" stroke-width="2" stroke-dasharray="4 3"/>',
        f'<circle cx="{at}" cy="26" r="5" fill="none" stroke="currentColor" stroke-width="2"/>',
        f'<text x="{at}" y="14" text-anchor="{anchor}" class="cp-halo">{words}</text>',
    ]
    after = state.fmt.decode(state.fmt.encode(target))
    if math.isfinite(after) and scale.shows(after) and not beyond:
        to = scale(after)
        parts.append(f'<path d="M{at} 32L{to} {line - 14}" stroke="currentColor" stroke-width="2"/><path d="M{to} {line - 11}l-4 -7h8z" fill="currentColor"/>')
    return parts


# ---- the path, the crowd


def path_drawing(state) -> str:
    """The stored weight (steps) and the exact one (a line) over the steps made."""
    if not state.steps or not math.isfinite(state.stored):
        return ""
    low, high = sorted((min(Fraction(state.w), state.exact, *map(Fraction, state.path)), max(Fraction(state.w), state.exact, *map(Fraction, state.path))))
    spread = high - low or Fraction(1)
    across = (WIDTH - 2 * LEFT - 200) / state.steps

    def place(step, value):
        return f"{round(LEFT + step * across, 1)} {round(float(PATH - 24 - (Fraction(value) - low) / spread * (PATH - 48)), 1)}"

    shown = [i * (len(state.path) - 1) // 400 for i in range(401)] if len(state.path) > 401 else range(len(state.path))
    corners = "".join(f"H{place(i, state.path[i]).split()[0]}V{place(i, state.path[i]).split()[1]}" for i in list(shown)[1:])
    colour, end = row_colour(state.fmt), round(LEFT + state.steps * across, 1)
    ends = [float(place(state.steps, v).split()[1]) for v in (state.stored, state.exact)]
    if abs(ends[0] - ends[1]) < 16:
        middle, above = sum(ends) / 2, ends[0] <= ends[1]
        ends = [middle - 8, middle + 8] if above else [middle + 8, middle - 8]
    return (
        f'<svg viewBox="0 0 {WIDTH} {PATH}" role="img" aria-label="Stored and exact weight over {_count(state.steps)}">'
        f'<path d="M{place(0, state.w)}L{place(state.steps, state.exact)}" stroke="currentColor" stroke-dasharray="5 4" fill="none"/>'
        f'<path d="M{place(0, state.path[0])}{corners}H{end}" stroke="{colour}" stroke-width="2.5" fill="none"/>'
        f'<text x="{end + 8}" y="{ends[0] + 4}">{escape(state.fmt.name)}: {decimal(state.stored, 10)}</text>'
        f'<text x="{end + 8}" y="{ends[1] + 4}">exact: {decimal(state.exact, 10)}</text>'
        f'<text x="{LEFT}" y="{PATH - 4}">step 0</text><text x="{end}" y="{PATH - 4}" text-anchor="end">step {state.steps}</text></svg>'
    )


def crowd_drawing(state) -> str:
    """Bars of the crowd by binade: full where the update moves the weight, hatched where it is lost."""
    bars = crowd_bars(state)
    if not bars:
        return ""
    tallest, wide = max(total for *_, total in bars), (WIDTH - 2 * LEFT) / len(bars)
    high, parts = CROWD - 58, []
    for i, (exponent, moved, total) in enumerate(bars):
        x, full, part = LEFT + i * wide, high * total / tallest, high * moved / tallest
        base = CROWD - 22
        parts.append(f'<rect x="{x + 1:.1f}" y="{base - full:.1f}" width="{wide - 2:.1f}" height="{full:.1f}" fill="currentColor" fill-opacity=".13" stroke="currentColor" stroke-opacity=".6" stroke-dasharray="3 2"/>')
        parts.append(f'<rect x="{x + 1:.1f}" y="{base - part:.1f}" width="{wide - 2:.1f}" height="{part:.1f}" fill="{row_colour(state.fmt)}"/>' if moved else "")
        if i % max(1, len(bars) // 12) == 0:
            parts.append(f'<text x="{x + wide / 2:.1f}" y="{CROWD - 6}" text-anchor="middle">{raised(power(exponent))}</text>')
    words = f"weights by size: filled ones move under an update of {decimal(abs(state.delta), 8)}, dashed ones do not"
    return f'<svg viewBox="0 0 {WIDTH} {CROWD}" role="img" aria-label="{escape(words)}"><text x="{LEFT}" y="16">{escape(words)}</text>{"".join(parts)}</svg>'


# ---- table and text


def table(state) -> str:
    """The state as a plain table."""
    rows = facts(state) + _crowd_rows(state)
    return plain_table(("", state.fmt.name), rows, f"w = {short(state.w_text, state.w)}, update {short(state.delta_text, state.delta)}. {say(state)}")


def text(state) -> str:
    """The state as text."""
    made = f", {_count(state.steps)}" if state.steps else ""
    lines = [f"SwampingMicroscope: {state.fmt.name}, w = {state.w_text}, update {state.delta_text}{made}"]
    down, up = thresholds(state.fmt, state.stored)
    if None not in (down, up):
        exact = f", exactly it would be {decimal(state.exact, 20)}" if state.steps else ""
        lines.append(f"stored {decimal(state.stored, 20)}{exact}; gap below {binary(2 * down)}, above {binary(2 * up)}")
        lines.append(f"lost: updates {_up_to(up, state)} upwards and {_up_to(down, state)} downwards")
    lines += [": ".join(row) for row in _crowd_rows(state)]
    return "\n".join([*lines, say(state)])


def _up_to(half, state):
    return f"{'up to' if _even(state) else 'below'} {binary(half)}"
