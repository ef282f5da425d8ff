"""How a ScalerTape looks: the scale as a line over the steps, the steps as buttons, one step in words and numbers."""

import itertools
import math

from .parts import binary, button, decimal, plain_table, power, presets, raised, rich, sentence

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 210, 58, 14, 30
WINDOW = 16  # steps that are buttons at a time
SIGNS = {"ordinary": "·", "spike": "▲", "nan": "N"}
MARKS = {"stepped": "✓", "w₂ lost": "○", "skipped": "✗", "spoiled": "!"}
WORDS = {"ordinary": "an ordinary step", "spike": "a spike", "nan": "a NaN"}


def _tape():
    from . import tape  # the states are there, and it imports this module

    return tape


# ---- numbers and sentences


def size(value) -> str:
    """A scale or a gradient as a power of two where it is one.

    >>> size(65536.0), size(0.0), size(3.5)
    ('2¹⁶', '0', '7 × 2⁻¹')
    """
    if not math.isfinite(value) or value == 0:
        return decimal(value)
    return power(round(math.log2(value))) if value > 0 and math.log2(value).is_integer() else binary(value)


def _weight(value):
    if not math.isfinite(value) or abs(value) > 2.0**-8 or value == 0:
        return decimal(value)
    return binary(value)


def say(state) -> str:
    """The sentence on the step that is shown, and how many were skipped."""
    steps = _tape().replay(state)
    step = steps[state.at]
    skipped = sum(s.skipped for s in steps)
    count = f"Skipped: {skipped} of {len(steps)}."
    return f"Step {step.number}, {step.kind if step.kind != 'nan' else 'NaN'}: {_what(step)} {count}"


def _what(step):
    if step.outcome == "spoiled":
        return _spoiled(step)
    if step.kind == "nan":
        cause = "the gradient is NaN whatever the scale, so that halving cannot cure it."
        return f"{cause} The step is skipped, the weights stay, and the scale goes to {size(step.next_scale)}{_gone(step)}."
    grown = step.scale * _tape().LARGE * (_tape().SPIKE if step.kind == "spike" else 1)
    reached = f"S × the largest gradient is {size(grown)}"
    if step.skipped:
        return f"{reached}, too large for FP16, so Inf. The step is skipped, the weights stay, the scale is halved to {size(step.next_scale)}, and the count begins again."
    small = "Both weights move" if all(step.moved) else "S × the smallest gradient underflows: w₂ stays where it is"
    growth = f", and that makes {_count(step.good_steps + 1)}, so the scale is doubled to {size(step.next_scale)}" if step.next_scale > step.scale else ""
    return f"{reached}, which FP16 holds. {small}{growth}."


def _count(steps):
    return "one good step" if steps == 1 else f"{steps} good steps"


def _gone(step):
    if step.next_scale == 0:
        return ", from where no doubling brings it back"
    return ", so small that its reciprocal is Inf in FP32" if step.next_scale <= 2.0**-128 else ""


def _spoiled(step):
    if any(step.moved):
        return (
            f"the gradients are finite, so the step is taken; but the scale is {size(step.scale)}, its reciprocal is Inf, and "
            "dividing by it makes NaN or Inf of every gradient. The weights are lost."
        )
    return "the weights are no numbers any more, and no later step brings them back."


# ---- the live page


def view(state) -> str:
    """The panel as HTML."""
    tape = _tape()
    steps = tape.replay(state)
    adds = "".join(button(f"add {kind} {n}", f"+ {words}") for kind, n, words in (
        ("ordinary", 1, "an ordinary step"), ("ordinary", 10, "ten"), ("spike", 1, "a spike"), ("nan", 1, "a NaN"), ("nan", 10, "ten NaN")))  # fmt: skip
    return (
        f'<div class="cp-bar">{_choices("scale", "First scale", tape._scales(state), state.init_scale, size)}'
        f"{_choices('interval', 'Growth interval', tape._intervals(state), state.growth_interval, str)}{presets(tape.PRESETS)}</div>"
        f"{drawing(state, steps)}{_strip(state, steps)}"
        f'<div class="cp-bar">{adds}{button("drop", "− the last")}</div>'
        f'<div class="cp-scroll">{_details(steps[state.at])}</div>{sentence(say(state), "")}'
    )


def _choices(act, label, values, current, write):
    options = "".join(f'<option value="{i}"{" selected" if value == current else ""}>{write(value)}</option>' for i, value in enumerate(values))
    return f'<label>{label} <select data-act="{act}" data-key="{act}">{options}</select></label>'


def _strip(state, steps):
    """The steps around the one that is shown, as buttons, and the slider that walks along the tape."""
    low = max(0, min(state.at - WINDOW // 2, len(steps) - WINDOW))
    buttons = "".join(
        button(f"flip {i}", f"{s.number} {SIGNS[s.kind]}{MARKS[s.outcome]}", pressed=i == state.at, label=f"step {s.number}, {s.kind}, {s.outcome}: change it")
        for i, s in list(enumerate(steps))[low : low + WINDOW]
    )
    return (
        f'<div class="cp-slide"><span class="cp-label">Step</span>{button("by -1", "‹", label="the step before")}'
        f'<input type="range" min="1" max="{len(steps)}" value="{state.at + 1}" data-act="at" data-key="at" aria-label="Step that is shown" '
        f'aria-valuetext="step {state.at + 1} of {len(steps)}">{button("by 1", "›", label="the next step")}</div>'
        f'<div class="cp-bar"><span class="cp-label">Press to change</span><div class="cp-presets" role="group" aria-label="Steps of the tape" '
        f'data-up="by -1" data-down="by 1">{buttons}</div></div>'
    )


def drawing(state, steps) -> str:
    """The scale over the steps as SVG; hidden from screen readers, since the table has its numbers."""
    tape = _tape()
    exponents = [math.log2(s.scale) if s.scale else None for s in steps]
    top = max(22, *(math.ceil(e) + 4 for e in exponents if e is not None))
    bottom = min(0, *(math.floor(e) - 2 for e in exponents if e is not None))
    x = lambda i: round(LEFT + (WIDTH - LEFT - 12) * (i + 0.5) / len(steps), 1)
    y = lambda e: round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * ((bottom if e is None else e) - bottom) / (top - bottom), 1)
    too_large, too_small = math.log2(65520 / tape.LARGE), math.log2(2.0**-25 / tape.SMALL)
    parts = [
        _band(y(top), y(too_large), f"S × {raised(size(tape.LARGE))}, the largest gradient, overflows", y(top) + 13),
        _band(y(too_small), y(bottom), f"S × {raised(size(tape.SMALL))}, the smallest, underflows", (y(too_small) + y(bottom)) / 2 + 4),
        f'<path d="M{x(state.at)} {TOP}V{HEIGHT - BOTTOM}" stroke="currentColor" stroke-width="8" stroke-opacity=".18"/>',
    ]
    parts += [_tick(e, y(e)) for e in _ticks(bottom, top)]
    line = "".join(f"{'L' if i else 'M'}{x(i)} {y(e)}" for i, e in enumerate(exponents))
    parts.append(f'<path d="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/>')
    parts += [_mark(s.outcome, x(i), y(e), small=len(steps) > 60) for i, (s, e) in enumerate(zip(steps, exponents))]
    numbers = sorted({1, len(steps), state.at + 1})
    parts += [f'<text x="{x(n - 1)}" y="{HEIGHT - 10}" text-anchor="middle">{n}</text>' for n in numbers if n == state.at + 1 or abs(x(n - 1) - x(state.at)) > 26]
    parts.append(f'<text x="4" y="{HEIGHT - 10}">step</text><text x="4" y="{TOP + 4}">scale S</text>')
    legend = {"✓ stepped": "stepped", "○ stepped, but w₂ lost its gradient": "w₂ lost", "✗ skipped": "skipped", "! the weights are lost": "spoiled"}
    signs = [words for words, outcome in legend.items() if any(s.outcome == outcome for s in steps)]
    signs += ["· ordinary, ▲ a spike (64 times as large), N a NaN"]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{"".join(parts)}</svg><p class="cp-legend">{" ".join(f"<span>{words}</span>" for words in signs)}</p>'


def _band(high, low, words, at):
    box = f'<rect x="{LEFT}" y="{high}" width="{WIDTH - LEFT - 12}" height="{round(low - high, 1)}" fill="currentColor" fill-opacity=".1"/>'
    return box + f'<text x="{WIDTH - 16}" y="{round(at, 1)}" text-anchor="end" class="cp-halo">{words}</text>'


def _ticks(bottom, top):
    step = 8 if top - bottom <= 60 else 32
    return [e for e in range(-160, 200) if e % step == 0 and bottom <= e <= top - 2]


def _tick(e, at):
    return f'<path d="M{LEFT} {at}H{WIDTH - 12}" stroke="currentColor" stroke-opacity=".15"/><text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{raised(power(e))}</text>'


def _mark(outcome, x, y, small):
    if outcome == "skipped":
        r = 2 if small else 4
        return f'<path d="M{x - r} {y - r}l{2 * r} {2 * r}M{x - r} {y + r}l{2 * r} {-2 * r}" stroke="currentColor" stroke-width="{1 if small else 2}"/>'
    if outcome == "spoiled":
        return f'<text x="{x}" y="{y - 3}" text-anchor="middle" font-weight="700" style="font-weight:700" class="cp-halo">!</text>'
    fill = "currentColor" if outcome == "stepped" else "var(--page)"
    return f'<circle cx="{x}" cy="{y}" r="{2 if small else 3.5}" fill="{fill}" stroke="currentColor"/>'


HEAD = ("step", "kind", "S", "gradients × S in FP16", "outcome", "w₁, w₂ after it", "good steps", "next S")


def _cells(step):
    gradients = ", ".join(size(g) for g in step.gradients)
    weights = ", ".join(_weight(w) for w in step.weights)
    return (step.kind, size(step.scale), gradients, step.outcome, weights, f"{step.good_steps} → {step.next_good_steps}", size(step.next_scale))


def _details(step):
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    cells = "".join(f"<td>{rich(cell)}</td>" for cell in _cells(step))
    return f'<table><thead><tr>{head}</tr></thead><tbody><tr><th scope="row">{step.number}</th>{cells}</tr></tbody></table>'


# ---- table and text


def runs(steps) -> list[tuple]:
    """Steps of one kind and outcome that follow each other, as (first, last)."""
    groups = (list(group) for _, group in itertools.groupby(steps, key=lambda s: (s.kind, s.outcome)))
    return [(group[0], group[-1]) for group in groups]


def _numbers(first, last):
    return f"{first.number}" if first is last else f"{first.number}–{last.number}"


def table(state) -> str:
    """The tape as a plain table, one row for each run of like steps."""
    rows = [
        (_numbers(a, b), a.kind, a.outcome, size(a.scale), f"{a.good_steps} → {b.next_good_steps}", size(b.next_scale), *map(_weight, b.weights))
        for a, b in runs(_tape().replay(state))
    ]
    head = ("steps", "kind", "outcome", "S before", "good steps", "S after", "w₁ after", "w₂ after")
    return plain_table(head, rows, f"Scale {size(state.init_scale)} at the start, growth interval {state.growth_interval}. {say(state)}")


def text(state) -> str:
    """The tape as text."""
    lines = [f"ScalerTape: scale {size(state.init_scale)} at the start, growth interval {state.growth_interval}"]
    for a, b in runs(_tape().replay(state)):
        name = "step" if a is b else "steps"
        lines.append(
            f"{name} {_numbers(a, b)}: {a.kind}, {a.outcome}, S {size(a.scale)}, good steps {a.good_steps} → {b.next_good_steps}, then S {size(b.next_scale)}, "
            f"w₁ = {_weight(b.weights[0])}, w₂ = {_weight(b.weights[1])}"
        )
    return "\n".join([*lines, say(state)])
