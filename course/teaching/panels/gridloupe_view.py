"""What GridLoupe shows: the weights between −1 and 1 under the loupe, the points of each grid, the table and the text of a `LoupeState`."""

from .parts import button, plain_table, presets, rich, sentence

WIDTH, LEFT, RIGHT, ROW, TOP = 720, 150, 690, 44, 74
EDGE = 1.15  # the loupe shows −EDGE … EDGE
HEAD = ("grid", "bits per weight", "gap beside 0, at the outlier", "gap beside 0, elsewhere", "others that become 0", "error of the others")
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")


def _results(state):
    from .gridloupe import results

    return results(state.outlier, state.bits)


def _outlier(state):
    from .gridloupe import NONE

    return "no outlier" if state.outlier == NONE else f"an outlier of {2**state.outlier}"


def _caption(state):
    return f"256 weights within ±1, {_outlier(state)}, {state.bits} bits"


# ---- the sentence


def say(state, mark="") -> str:
    """The sentence that says what the present state means; `mark` is put before what was measured."""
    found = _results(state)
    one, best = found["one scale"], min(found, key=lambda name: found[name].error)
    lead = f"With one scale the points are {one.gaps[0]:.3g} apart, and {one.zeros} of the other 255 weights become 0."
    fine = min(range(4), key=lambda i: list(found.values())[i].zeros)
    spared = f" “{list(found)[fine]}” makes the fewest zeros, {list(found.values())[fine].zeros}."
    return f"{lead}{spared} “{best}” has the smallest error, {mark}{found[best].error:.2g} against {mark}{one.error:.2g}."


# ---- the drawing


def place(x) -> float:
    """Where a number stands on the axis."""
    return round(LEFT + (RIGHT - LEFT) * (x + EDGE) / (2 * EDGE), 1)


def drawing(state) -> str:
    """The weights and the points as SVG; the numbers stand in the table, so that it is hidden from screen readers."""
    found = _results(state)
    height = TOP + ROW * len(found) + 34
    rows = "".join(_points(i, name, each) for i, (name, each) in enumerate(found.items()))
    legend = (
        '<p class="cp-legend"><span>top: the weights, ▶ the outlier beyond the edge</span> <span>tall lines: points of a grid in the outlier’s block</span> '
        "<span>short lines: and elsewhere</span></p>"
    )
    return f'<svg viewBox="0 0 {WIDTH} {height}" aria-hidden="true">{_weights(state)}{rows}{_axis(height)}</svg>{legend}'


def _weights(state):
    from .gridloupe import NONE, weights

    values, counts = weights().flatten().tolist(), {}
    parts = [f'<text x="{LEFT - 10}" y="46" text-anchor="end">the weights</text>']
    for value in sorted(values):
        step = round(value * 16)  # a column for each sixteenth
        counts[step] = counts.get(step, 0) + 1
    most = max(counts.values())
    for step, count in counts.items():
        tall, left = round(44 * count / most, 1), place((step - 0.5) / 16)
        parts.append(f'<rect x="{left}" y="{58 - tall}" width="{round(place(1 / 16) - place(0) - 1, 1)}" height="{tall}" fill="currentColor" fill-opacity=".55"/>')
    if state.outlier != NONE:
        at = place(min(2.0**state.outlier, EDGE))
        parts.append(f'<path d="M{at} 40l-12 -7v14z" fill="currentColor"/><text x="{at - 16}" y="45" text-anchor="end" class="cp-halo" style="font-weight:700">{2**state.outlier}</text>')
    return "".join(parts)


def _points(i, name, found):
    y, colour = TOP + ROW * i, COLOURS[i]
    parts = [f'<text x="{LEFT - 10}" y="{y + 20}" text-anchor="end">{name}</text><path d="M{LEFT} {y + 22}H{RIGHT}" stroke="currentColor" stroke-opacity=".35"/>']
    for (top, bottom, width), points in zip(((y, y + 20, 2), (y + 24, y + 34, 1.4)), found.points):
        seen = sorted({place(p) for p in points if abs(p) <= EDGE})
        ticks = "".join(f"M{x} {top}V{bottom}" for x in seen)
        parts.append(f'<path d="{ticks}" stroke="{colour}" stroke-width="{width}" fill="none"/>')
    return "".join(parts)


def _axis(height):
    y = height - 28
    parts = [f'<path d="M{LEFT} {y}H{RIGHT}" stroke="currentColor"/>']
    for k in (-1, -0.5, 0, 0.5, 1):
        label = f"{k:g}".replace("-", "−")
        parts.append(f'<path d="M{place(k)} {y}v5" stroke="currentColor"/><text x="{place(k)}" y="{y + 20}" text-anchor="middle">{label}</text>')
    return "".join(parts)


# ---- the panel


def view(state) -> str:
    """The panel as HTML."""
    from .gridloupe import BITS, PRESETS

    bits = "".join(button(f"bits {n}", f"{n} bits", pressed=n == state.bits) for n in BITS)
    return (
        f'<div class="cp-bar">{presets(PRESETS)}</div>{_slider(state)}'
        f'<div class="cp-bar" role="group" aria-label="Bits of the integer grids">{bits}</div>'
        f'{drawing(state)}<div class="cp-scroll">{_live_table(state)}</div>{sentence(say(state), state.message)}'
    )


def _slider(state):
    from .gridloupe import NONE, OUTLIERS

    word = "none" if state.outlier == NONE else str(2**state.outlier)
    moves = button("move outlier -1", "÷ 2", label="Outlier divided by 2") + button("move outlier 1", "× 2", label="Outlier times 2")
    return (
        f'<div class="cp-slide"><span class="cp-label" style="min-width:9em">Outlier: {word}</span><input type="range" min="{OUTLIERS[0]}" '
        f'max="{OUTLIERS[-1]}" step="1" value="{state.outlier}" data-act="outlier" data-key="outlier" aria-label="Outlier" aria-valuetext="{word}">'
        f'<span class="cp-steps" role="group" aria-label="Move outlier" data-up="move outlier 1" data-down="move outlier -1">{moves}</span></div>'
    )


def _live_table(state):
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    body = "".join(f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{rich(cell)}</td>" for cell in _cells(each)) + "</tr>" for name, each in _results(state).items())
    return f'<table style="font-size:11px"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cells(found, mark=""):
    return (f"{found.bits:.5g}", *(f"{gap:.3g}" for gap in found.gaps), str(found.zeros), f"{mark}{found.error:.2g}")


def table(state) -> str:
    """The state as a plain table."""
    rows = [(name, *_cells(each, "≈ ")) for name, each in _results(state).items()]
    return plain_table(HEAD, rows, f"{_caption(state)}. {say(state, '≈ ')}")


def text(state) -> str:
    """The state as text."""
    lines = [f"GridLoupe: {_caption(state)}"]
    for name, each in _results(state).items():
        bits, here, there, zeros, error = _cells(each, "≈ ")
        lines.append(f"{name:<18}{bits:>7} bits, gap {here} at the outlier, {there} elsewhere, {zeros} others become 0, error {error}")
    return "\n".join([*lines, say(state, "≈ ")])
