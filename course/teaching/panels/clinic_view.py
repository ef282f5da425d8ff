"""What ClinicBed shows: the symptom as a curve, readings, the editor, the verdict; the table and the text of a `ClinicState`."""

import math

from .. import clinic
from ..clinic.instruments import INSTRUMENTS
from ..progress import load
from ..style import GREEN, VERMILLION
from .parts import button, escape, plain_table, rich, sentence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BASE = 720, 190, 74, 700, 30, 150
_AREA = "width:100%;font:12.5px/1.5 var(--code);white-space:pre;overflow:auto;tab-size:4;background:var(--jp-input-background,#f5f5f5);color:inherit;border:1px solid var(--line);border-radius:4px;padding:6px 8px"


def _symptom(id):
    from .clinic import symptom

    return symptom(id)


def number(value) -> str:
    """A measured number, marked as one; NaN and Inf are exact.

    >>> number(0.0123), number(float("nan")), number(0.0)
    ('≈ 0.012', 'NaN', '0')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf"
    return f"≈ {value:.2g}" if value else "0"


def view(state) -> str:
    """The panel as HTML."""
    case = state.case
    instruments = "".join(button(f"instrument {key}", name, pressed=state.instrument == key) for key, (name, _) in INSTRUMENTS.items())
    reading = ""
    if state.reading:
        reading = f"<p>{rich(state.reading.says)}</p>"
        if state.reading.rows:
            reading += plain_table(state.reading.head, [tuple(map(str, row)) for row in state.reading.rows], "Reading with seed 0")
    rows = max(16, min(34, state.source.count("\n") + 2))
    return (
        f'<div class="cp-bar">{_choose(state)}<span class="cp-kind">{case.difficulty}, {case.minutes} minutes</span></div>'
        f'<p class="cp-label">Symptom</p><p>{rich(case.symptom)}</p>{draw(_symptom(state.id), state.curve, case.curve_label)}'
        f'<div class="cp-bar" style="margin-top:8px"><span class="cp-label">Instruments</span><span class="cp-presets" role="group" aria-label="Instruments">{instruments}</span></div>'
        f'<div class="cp-card cp-scroll" style="min-height:64px">{reading or "<p>Choose an instrument: it runs the trainer below and watches it.</p>"}</div>'
        f'<p class="cp-label" style="margin:10px 0 4px"><label for="trainer-{state.id}">The trainer</label></p>'
        f'<textarea id="trainer-{state.id}" data-act="edit" data-key="trainer" rows="{rows}" spellcheck="false" autocomplete="off" style="{_AREA}">\n{escape(state.source)}</textarea>'
        f'<div class="cp-bar" style="margin-top:6px">{button("check", "Check")}{button("broken", "the broken one again")}{button("hint", _hint_name(state))}{button("solution", "Solution", pressed=state.solution)}</div>'
        f"{_help(state)}{_verdict(state)}{sentence(say(state), state.trouble)}"
    )


def _choose(state):
    solved = {id for id, entry in load()["exercises"].items() if entry.get("solved")}
    groups = []
    for key, name in clinic.GROUPS.items():
        mine = [case for case in clinic.CASES.values() if case.group == key]
        options = "".join(f'<option value="{case.id}"{" selected" if case.id == state.id else ""}>{case.id} {"✓ " if case.id in solved else ""}{escape(case.title)}</option>' for case in mine)
        groups.append(f'<optgroup label="{escape(name)}">{options}</optgroup>')
    return f'<select data-act="case" data-key="case" aria-label="Case" style="max-width:36em">{"".join(groups)}</select>'


def _hint_name(state):
    return f"Hint {state.hints + 1} of 3" if state.hints < 3 else "All hints shown"


def _help(state):
    parts = [f"<li>{'<code>' if i == 2 else ''}{rich(hint)}{'</code>' if i == 2 else ''}</li>" for i, hint in enumerate(state.case.hints[: state.hints])]
    hints = f"<ol>{''.join(parts)}</ol>" if parts else ""
    if not state.solution:
        return hints
    lines = set(state.case.broken_text.splitlines())
    code = "\n".join(f"<strong>{escape(line)}</strong>" if line not in lines else escape(line) for line in state.case.solution_text.splitlines())
    return f'{hints}<div class="cp-card cp-scroll"><p>{rich(state.case.why)} Met in {rich("; ".join(state.case.threads))}.</p><pre>{code}</pre></div>'


def _verdict(state):
    if not state.verdict:
        return ""
    return f'<div class="cp-card">{state.verdict._repr_html_()}</div>'


# ---- the curve


def draw(broken, mine, label) -> str:
    """The symptom as a curve, and that of a checked trainer beside it."""
    finite = [value for value in (*broken, *mine) if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    positive = [value for value in finite if value > 0]
    log = bool(positive) and low >= 0 and high > 1000 * min(positive)
    low = min(positive) if log else low
    low, high = (math.log10(low), math.log10(high)) if log else (min(low, 0.0), high)
    high = high if high > low else low + 1

    def place(value):
        value = math.log10(value) if log else value
        return BASE - (BASE - TOP) * (value - low) / (high - low)

    names = [f"{10**edge:.1e}" if log else f"{edge:.3g}" for edge in (low, high)]
    ends = f'<text x="{LEFT - 6}" y="{BASE}" text-anchor="end">{names[0]}</text><text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{names[1]}</text>'
    steps = f'<text x="{LEFT}" y="{BASE + 18}">start</text><text x="{RIGHT}" y="{BASE + 18}" text-anchor="end">end ({len(broken)} entries)</text>'
    frame = f'<path d="M{LEFT} {TOP}V{BASE}H{RIGHT}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
    scale = ", logarithmic" if log else ""
    lines = _line(broken, place, VERMILLION, "") + (_line(mine, place, GREEN, ' stroke-dasharray="7 4"') if mine else "")
    key = f'<text x="{LEFT}" y="{BASE + 36}">solid: the broken trainer{"; dashed: yours" if mine else ""}</text>'
    title = f'<text x="{LEFT}" y="16" font-weight="700">{escape(label)}{scale}</text>'
    words = f"{label}, from {number(broken[0])} to {number(broken[-1])}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(words)}">{title}{frame}{ends}{steps}{lines}{key}</svg>'


def _line(values, place, colour, style):
    pieces, wild, current = [], [], []
    for i, value in enumerate(values):
        x = LEFT + (RIGHT - LEFT) * i / max(1, len(values) - 1)
        drawn = math.isfinite(value) and (value > 0 or place is None or not _needs_positive(place))
        if drawn:
            current.append(f"{x:.1f} {place(value):.1f}")
        else:
            wild.append((x, value))
            pieces, current = pieces + [current], []
    paths = "".join(f'<path d="M{"L".join(piece)}" fill="none" stroke="{colour}" stroke-width="2.2"{style}/>' for piece in [*pieces, current] if len(piece) > 1)
    dots = "".join(f'<circle cx="{piece[0].split()[0]}" cy="{piece[0].split()[1]}" r="3" fill="{colour}"/>' for piece in [*pieces, current] if len(piece) == 1)
    if not wild:
        return paths + dots
    kind = "NaN" if math.isnan(wild[0][1]) else "Inf" if math.isinf(wild[0][1]) else "0"
    height = BASE if kind == "0" else TOP - 2
    mark = f'<path d="M{wild[0][0]:.1f} {height}H{max(wild[-1][0], wild[0][0] + 4):.1f}" stroke="{colour}" stroke-width="5"/><text x="{wild[0][0] + 4:.1f}" y="{height + (-6 if kind == "0" else 16)}">{kind} from here</text>'
    return paths + dots + mark


def _needs_positive(place):
    try:
        place(0.0)
    except ValueError:
        return True
    return False


# ---- words


def say(state) -> str:
    """The sentence that says what the present state means."""
    solved = sum(load()["exercises"].get(id, {}).get("solved", False) for id in clinic.CASES)
    score = f"You have repaired {solved} of {len(clinic.CASES)}."
    if state.verdict:
        if state.verdict.status == "right":
            return f"Repaired: the fault is gone and the training works. {score}"
        named = f" ({state.verdict.misconception})" if state.verdict.misconception else ""
        return f"Not yet{named}: read what was measured, and look again. {score}"
    if state.reading:
        return f"Reading of the {INSTRUMENTS[state.instrument][0]}: {state.reading.says}"
    if state.source != state.case.broken_text:
        return f"The trainer is changed and kept. Check it when you are ready. {score}"
    return f"Symptom first: what would you measure to find its cause? {score}"


def _samples(id):
    curve = _symptom(id)
    return [(f"{share} of the run", number(curve[round(part * (len(curve) - 1))])) for share, part in (("start", 0), ("a quarter", 0.25), ("half", 0.5), ("three quarters", 0.75), ("end", 1))]


def table(state) -> str:
    """The state as a plain table."""
    case = state.case
    shown = plain_table(("when", case.curve_label), _samples(state.id), f"Case {case.id}: {case.title}")
    return f"<p>{rich(case.symptom)}</p>{shown}<pre>{escape(case.broken_text)}</pre>{_verdict(state)}"


def text(state) -> str:
    """The state as text."""
    case = state.case
    lines = [f"ClinicBed {case.id}: {case.title} ({clinic.GROUPS[case.group]}, {case.difficulty}, {case.minutes} minutes)", f"Symptom: {case.symptom}"]
    lines += [f"  {case.curve_label}, {when}: {value}" for when, value in _samples(state.id)]
    if state.verdict:
        lines.append(repr(state.verdict))
    return "\n".join(lines)
