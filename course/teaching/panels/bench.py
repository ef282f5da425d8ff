"""RoundingBench: one real number, every format, every way to round it, side by side."""

from dataclasses import dataclass, field, replace
from fractions import Fraction

from course.numerics.formats import FORMATS, OVERFLOWS, FloatFormat

from ..panel import Panel
from .outcome import Outcome, round_into
from .parts import (
    button, can_start_over, decimal, entry, escape, fraction, get_format, is_finite, plain_table, presets, read_number, rich, sentence, ulps,
)
from .places import as_typed, short

MODES = ("nearest-even", "toward-zero", "stochastic")
PRESETS = {
    "one tenth": "0.1", "one third": "1/3", "a tie in FP16": "2049/2048", "a tie in BF16": "257/256", "a tie in E4M3": "17/16",
    "typical gradient 3e-6": "3e-6", "minus 0.3": "-0.3", "just over 464": "464.5", "FP16 too large": "65520",
    "below every 8-bit format": "1e-8", "Inf": "inf", "NaN": "nan",
}  # fmt: skip


@dataclass(frozen=True)
class BenchState:
    """The formats, the exact number with the text it was typed as, and what happens beyond the largest value."""

    fmts: tuple[FloatFormat, ...]
    source: Fraction | float
    typed: str
    overflow: str = "ieee"
    draft: str | None = None  # a text that made no sense, shown until the number changes
    message: str = ""
    first: "BenchState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back


def start(value="0.1", fmts=None) -> BenchState:
    """The first state; `fmts` defaults to all of them."""
    text = as_typed(value)
    fmts = tuple(FORMATS.values()) if fmts is None else tuple(get_format(fmt) for fmt in fmts)
    if not fmts:
        raise ValueError("no formats: give one at least, or leave fmts out for all of them")
    return BenchState(fmts, read_number(text), text)


@can_start_over
def update(state: BenchState, action: dict) -> BenchState:
    """Apply one action: type | preset n | overflow n | restart."""
    name, *rest = action["act"].split()
    if name == "type":
        text = str(action.get("value", "")).strip()
        try:
            return replace(state, source=read_number(text), typed=text, draft=None, message="")
        except ValueError as error:
            return replace(state, draft=text, message=f"{error}. The panel still shows {short(state.typed, state.source)}.")
    number = int(rest[0])
    if name == "preset":
        text = list(PRESETS.values())[number]
        return replace(state, source=read_number(text), typed=text, draft=None, message="")
    if name == "overflow":
        return replace(state, overflow=OVERFLOWS[number])
    raise ValueError(f"{name!r} is no action of this panel")


# ---- the outcomes


def outcomes(fmt, source, rounding, overflow) -> list[tuple[Outcome, Fraction]]:
    """What a number can become, with the probability of each: one outcome, or two where rounding is stochastic.

    >>> from course.numerics.formats import FP16
    >>> [(o.value, p) for o, p in outcomes(FP16, Fraction(1, 10), "stochastic", "ieee")]
    [(0.0999755859375, Fraction(3, 5)), (0.10003662109375, Fraction(2, 5))]
    """
    if rounding != "stochastic":
        return [(round_into(fmt, source, rounding, overflow), Fraction(1))]
    up = _share_up(fmt, source)
    stay, away = (round_into(fmt, source, rounding, overflow, draw) for draw in (up, Fraction(0)))
    if not up or stay.code == away.code:
        return [(stay, Fraction(1))]
    return [(stay, 1 - up), (away, up)]


def _share_up(fmt, source):
    """The dropped fraction: how far the number lies on the way from its neighbour towards zero to the next one outwards."""
    if not is_finite(source) or (source < 0 and not fmt.signed):
        return Fraction(0)
    size = abs(Fraction(source))
    inner = Fraction(fmt.decode(fmt.encode(size, "toward-zero")))
    gap = Fraction(fmt.ulp(inner))  # the spacing outwards from inner
    return max((size - inner) / gap, Fraction(0)) if size < inner + gap else Fraction(0)


def note(outcome) -> str:
    """The error in ulps and what kind of rounding it was."""
    if outcome.kind == "none":
        return "no code for NaN"
    if outcome.error is None:
        return {"overflow": "overflow", "nan": "no negative numbers" if outcome.source == outcome.source else ""}.get(outcome.kind, "exact")
    if not outcome.error:
        return "exact"
    word = {"tie": "tie, ", "underflow": "underflow, ", "overflow": "the largest, "}.get(outcome.kind, "")
    return word + ulps(outcome.error_ulps)


def say(state) -> str:
    """The sentence that says what the present state means."""
    source, count = state.source, len(state.fmts)
    nearest = [round_into(fmt, source, "nearest-even", state.overflow) for fmt in state.fmts]
    chopped = [round_into(fmt, source, "toward-zero", state.overflow) for fmt in state.fmts]
    exact = [outcome.fmt.name for outcome in nearest if outcome.kind == "exact"]
    shown = short(state.typed, source)
    if source != source:
        return f"NaN has no size to round: of {count} formats {sum(o.kind == 'nan' for o in nearest)} have a code for it."
    parts = [f"{shown} is exact in {len(exact)} of {count} formats" + (f" ({', '.join(exact)})" if 0 < len(exact) < count else "")]
    for kind, words in (("underflow", "rounds to 0 in"), ("tie", "is a tie in"), ("overflow", "is too large for")):
        names = [outcome.fmt.name for outcome in nearest if outcome.kind == kind]
        parts += [f"it {words} {', '.join(names)}"] * bool(names)
    differ = [a.fmt.name for a, b in zip(nearest, chopped) if a.code != b.code]
    parts += [f"to nearest and toward zero differ in {', '.join(differ)}"] * bool(differ)
    return "; ".join(parts) + "."


# ---- the live page, the table and the text


_RULES = {"ieee": "what the format's standard says", "saturate": "the largest value"}


def view(state: BenchState) -> str:
    """The panel as HTML."""
    switches = "".join(button(f"overflow {i}", f"{name}: {_RULES[name]}", pressed=state.overflow == name) for i, name in enumerate(OVERFLOWS))
    head = "".join(f'<th scope="col">{name}</th>' for name in ("format", *MODES))
    return (
        f'<div class="cp-bar">{entry("type", "Number", state.typed if state.draft is None else state.draft)}{presets(PRESETS)}</div>'
        f'<div class="cp-bar"><span class="cp-label">Beyond the largest value</span>'
        f'<span class="cp-steps" role="group" aria-label="Overflow">{switches}</span></div>'
        f'<div class="cp-scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(_row(state, fmt) for fmt in state.fmts)}</tbody></table></div>'
        f"{sentence(say(state), state.message)}"
    )


def _row(state, fmt):
    cells, marked = [], False
    for mode in MODES:
        found = outcomes(fmt, state.source, mode, state.overflow)
        marked |= any(outcome.kind == "overflow" for outcome, _ in found)
        cells.append("".join(_live_cell(outcome, chance) for outcome, chance in found))
    return f'<tr{_MARK if marked else ""}><th scope="row">{escape(fmt.name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


_MARK = ' class="cp-mark"'


def _live_cell(outcome, chance):
    odds = f" · p = {fraction(chance, 14)}" if chance != 1 else ""
    return f"<div>{rich(decimal(outcome.value, 18))} <small>{rich(note(outcome) + odds)}</small></div>"


def _cell(fmt, state, mode):
    return " or ".join(
        f"{decimal(outcome.value, 24)} ({', '.join(filter(None, [note(outcome), f'p = {fraction(chance, 14)}' if chance != 1 else '']))})"
        for outcome, chance in outcomes(fmt, state.source, mode, state.overflow)
    ).replace(" ()", "")


def _title(state):
    return f"{state.typed}, overflow {state.overflow}. {say(state)}"


def table(state: BenchState) -> str:
    """The state as a plain table."""
    rows = [(fmt.name, *(_cell(fmt, state, mode) for mode in MODES)) for fmt in state.fmts]
    return plain_table(("format", *MODES), rows, _title(state))


def text(state: BenchState) -> str:
    """The state as text."""
    rows = [f"{fmt.name:<9}" + " | ".join(_cell(fmt, state, mode) for mode in MODES) for fmt in state.fmts]
    return "\n".join([f"RoundingBench: {state.typed}, overflow {state.overflow}", f"{'':<9}{' | '.join(MODES)}", *rows, say(state)])


class RoundingBench(Panel):
    """One real number in every format, rounded in every mode, with the error of each in ulps.

    `value` is a number or text, `fmts` formats or their names (all by default). Stochastic rounding shows its two
    outcomes with their exact probabilities. Raises `ValueError` for an unknown format or a text that is no number.

    >>> print(RoundingBench("0.1", ["E4M3", "BF16"]))
    RoundingBench: 0.1, overflow ieee
             nearest-even | toward-zero | stochastic
    E4M3     0.1015625 (+1/5 ulp) | 0.09375 (−4/5 ulp) | 0.09375 (−4/5 ulp, p = 1/5) or 0.1015625 (+1/5 ulp, p = 4/5)
    BF16     0.10009765625 (+1/5 ulp) | 0.099609375 (−4/5 ulp) | 0.099609375 (−4/5 ulp, p = 1/5) or 0.10009765625 (+1/5 ulp, p = 4/5)
    0.1 is exact in 0 of 2 formats; to nearest and toward zero differ in E4M3, BF16.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, value="0.1", fmts=None):
        super().__init__(start(value, fmts))
