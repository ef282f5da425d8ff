"""What ScaleBench shows: the tensor's magnitudes over the windows of all recipes, the table and the text of a `ScaleState`."""

import math

from ..style import look
from .parts import button, plain_table, power, presets, raised, rich, sentence
from .window_view import percent

WIDTH, LEFT, RIGHT, ROW, TOP, FIRST = 720, 112, 640, 21, 18, 92
LOW, HIGH = -44, 36  # the axis, as powers of two
HEAD = ("recipe", "bits per value", "SQNR, others", "SQNR, all", "flushed", "saturated", "outlier back")


def _results(state):
    from .scalebench import results

    return results(state)


def _has_outlier(state):
    from .scalebench import NONE

    return state.outlier != NONE


def decibel(value) -> str:
    """Decibels to a tenth.

    >>> decibel(31.52), decibel(-0.01), decibel(math.inf)
    ('31.5 dB', '0.0 dB', 'exact')
    """
    return "exact" if value == math.inf else f"{value + 0.0 if abs(value) >= 0.05 else 0.0:.1f} dB".replace("-", "−")


def _back(state, result, mark=""):
    """The outlier after the way there and back, over what it was."""
    if not _has_outlier(state):
        return "none"
    return "whole" if result.outlier == 1 else f"{mark}{result.outlier:.2g} of it"


# ---- the sentence


def say(state, mark="") -> str:
    """The sentence that says what the present state means; `mark` is put before what was measured."""
    found = _results(state)
    if state.chosen is not None:
        return _about(state, list(found)[state.chosen], mark)
    lead = f"One number is {power(state.outlier)} times the others." if _has_outlier(state) else "No outlier: the numbers are of one size."
    best = max(result.rest for result in found.values())
    near = [name for name, result in found.items() if result.rest > best - 2.5]
    lost = [name for name, result in found.items() if result.flushed > 0.5]
    cut = [name for name, result in found.items() if _has_outlier(state) and result.outlier < 0.9]
    parts = [lead, f"{len(near)} of {len(found)} recipes keep the others within 2.5 dB of the best ({mark}{decibel(best)})."]
    parts += [f"More than half is flushed to zero by: {'; '.join(lost)}."] * bool(lost)
    parts += [f"The outlier itself is cut off by: {'; '.join(cut)}."] * bool(cut)
    return " ".join(parts)


def _about(state, name, mark):
    result = _results(state)[name]
    here, there = ((power(math.ceil(math.log2(low))), power(math.floor(math.log2(high)))) for low, high in result.windows)
    where = f"from {here[0]} to {here[1]}" + ("" if here == there else f" in the outlier's block, from {there[0]} to {there[1]} elsewhere")
    back = _back(state, result, mark)
    outlier = f" The outlier comes back {'whole' if back == 'whole' else 'as ' + back.removesuffix(' of it') + ' of itself'}." if _has_outlier(state) else ""
    return (
        f"{name}: the window reaches {where} (powers of two inside it). It flushes {mark}{percent(result.flushed)} % of the numbers and keeps "
        f"the others to {mark}{decibel(result.rest)}.{outlier}"
    )


# ---- the drawing


def place(exponent) -> float:
    """Where a power of two stands on the axis, kept inside it."""
    return round(LEFT + (RIGHT - LEFT) * (max(LOW, min(HIGH, exponent)) - LOW) / (HIGH - LOW), 1)


def drawing(state) -> str:
    """Histogram and windows as SVG; their content stands in the table, so that it is hidden from screen readers."""
    found = _results(state)
    height = FIRST + ROW * len(found) + 40
    body = "".join(_window(i, name, result, state.chosen == i) for i, (name, result) in enumerate(found.items()))
    legend = (
        '<p class="cp-legend"><span>across: magnitude</span> <span>above: the numbers, and ▼ the outlier</span> '
        "<span>bar: what a recipe keeps in the outlier's block</span> <span>line: and elsewhere</span> <span>right: SQNR of the others</span></p>"
    )
    return f'<svg viewBox="0 0 {WIDTH} {height}" aria-hidden="true">{_numbers(state, height)}{body}{_axis(height)}</svg>{legend}'


def _numbers(state, height):
    parts, most = [], max(state.numbers.counts.values())
    for exponent, count in state.numbers.counts.items():
        a, b, tall = place(exponent + state.size), place(exponent + state.size + 1), max(1, round(48 * count / most, 1))
        if b > a:
            parts.append(f'<rect x="{a}" y="{FIRST - 14 - tall}" width="{round(b - a - 0.8, 1)}" height="{tall}" fill="currentColor" fill-opacity=".55"/>')
    if _has_outlier(state):
        at = place(state.outlier + state.size)
        parts.append(f'<path d="M{at} {FIRST - 16}l-6 -11h12z" fill="currentColor"/><path d="M{at} {FIRST - 14}V{height - 34}" stroke="currentColor" stroke-dasharray="3 3"/>')
        parts.append(f'<text x="{min(at, RIGHT - 20)}" y="{FIRST - 32}" text-anchor="middle" class="cp-halo" style="font-weight:700">outlier</text>')
    return "".join(parts)


def _window(i, name, result, chosen):
    colour = look(result.fmt).colour
    y = FIRST + ROW * i
    (low, high), (low2, high2) = (tuple(place(math.log2(end)) for end in ends) for ends in result.windows)
    weight = ' style="font-weight:700"' if chosen else ""
    return (
        f'<text x="{LEFT - 6}" y="{y + 12}" text-anchor="end"{weight}>{name}</text>'
        f'<path d="M{low2} {y + 8}H{high2}" stroke="{colour}" stroke-width="3"/>'
        f'<rect x="{low}" y="{y + 2}" width="{max(1, round(high - low, 1))}" height="12" fill="{colour}" fill-opacity=".45" stroke="{colour}" stroke-width="1.4"/>'
        f'<text x="{RIGHT + 10}" y="{y + 12}"{weight}>{decibel(result.rest)}</text>'
    )


def _axis(height):
    y = height - 34
    parts = [f'<path d="M{LEFT} {y}H{RIGHT}" stroke="currentColor"/>']
    for k in range(LOW + 4, HIGH + 1, 8):
        parts.append(f'<path d="M{place(k)} {y}v5" stroke="currentColor"/><text x="{place(k)}" y="{y + 22}" text-anchor="middle">{raised(power(k))}</text>')
    return "".join(parts)


# ---- the panel


def view(state) -> str:
    """The panel as HTML."""
    from .scalebench import OUTLIERS, PRESETS, SIZES

    word = f"{power(state.outlier)} times the others" if _has_outlier(state) else "none"
    return (
        f'<div class="cp-bar">{presets(PRESETS)}</div>'
        f'{_slider("outlier", "Outlier", word, state.outlier, OUTLIERS)}{_slider("size", "The others", f"around {power(state.size)}", state.size, SIZES)}'
        f'{drawing(state)}<div class="cp-scroll">{_live_table(state)}</div>{sentence(say(state), state.message)}'
    )


def _slider(act, label, word, value, allowed):
    moves = button(f"move {act} -1", "÷ 2", label=f"{label} divided by 2") + button(f"move {act} 1", "× 2", label=f"{label} times 2")
    return (
        f'<div class="cp-slide"><span class="cp-label" style="min-width:15em">{label}: {rich(word)}</span><input type="range" min="{allowed[0]}" '
        f'max="{allowed[-1]}" step="1" value="{value}" data-act="{act}" data-key="{act}" aria-label="{label}" aria-valuetext="{word}">'
        f'<span class="cp-steps" role="group" aria-label="Move {label.lower()}" data-up="move {act} 1" data-down="move {act} -1">{moves}</span></div>'
    )


def _live_table(state):
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    body = "".join(
        f'<tr><th scope="row">{button(f"recipe {i}", name, pressed=state.chosen == i)}</th>' + "".join(f"<td>{rich(cell)}</td>" for cell in _cells(state, result)) + "</tr>"
        for i, (name, result) in enumerate(_results(state).items())
    )
    # Seven columns have to fit beside an open side bar.
    return f'<table style="font-size:11px"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cells(state, result, mark=""):
    shares = (f"{mark}{percent(share)} %" for share in (result.flushed, result.saturated))
    return (f"{result.bits:.5g}", mark + decibel(result.rest), mark + decibel(result.sqnr), *shares, _back(state, result, mark))


def _caption(state):
    rows, columns = state.numbers.matrix.shape
    outlier = f", an outlier of {power(state.outlier)} times that" if _has_outlier(state) else ", no outlier"
    return f"{rows} × {columns} numbers around {power(state.size)}{outlier}"


def table(state) -> str:
    """The state as a plain table."""
    rows = [(name, *_cells(state, result, "≈ ")) for name, result in _results(state).items()]
    return plain_table(HEAD, rows, f"{_caption(state)}. {say(state, '≈ ')}")


def text(state) -> str:
    """The state as text."""
    lines = [f"ScaleBench: {_caption(state)}"]
    for name, result in _results(state).items():
        bits, rest, _, flushed, saturated, back = _cells(state, result, "≈ ")
        lines.append(f"{name:<16} {bits:>9} bits, the others {rest}, flushed {flushed}, saturated {saturated}, outlier: {back}")
    return "\n".join([*lines, say(state, "≈ ")])
