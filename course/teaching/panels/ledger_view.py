"""What MemoryLedger shows: two bars in true proportion, the account by kind, and what fits on which card."""

import re
from fractions import Fraction
from math import log10

from ..style import look, text_on
from .ledger_sizes import CARDS, RECIPES, REFERENCE, SIZES, cards_needed, largest_model, ledger, name_size, total
from .parts import button, entry, escape, plain_table, presets, rich, sentence

WIDTH, BAR, FULL = 900, 40, 18  # pixels; a bar of full width stands for 18 bytes
HIGH = 236  # pixels of the account with the most rows, so that nothing below it jumps
_NAMES = {"first moment": "moment m", "second moment": "moment v"}
_SHORT = {"first moment": "m", "second moment": "v"}  # where the segment is narrow
_WIDTHS = {4: "FP32", 2: "BF16", 1: "E4M3"}  # the look of a segment is that of a format as wide


def view(state) -> str:
    """The panel as HTML."""
    recipes = "".join(button(f"recipe {i}", name, pressed=state.recipe == name) for i, name in enumerate(RECIPES))
    return (
        f'<div class="cp-bar">{entry("type", "Parameters", state.typed if state.draft is None else state.draft)}{presets(SIZES)}</div>'
        f"{_slider(state)}"
        f'<div class="cp-bar"><span class="cp-label">Recipe</span><span class="cp-presets" role="group" aria-label="Recipe">{recipes}</span></div>'
        f"{drawing(state)}"
        f'<div class="cp-cards"><div class="cp-card" style="min-height:{HIGH}px">{plain_table(*account(state))}</div>'
        f'<div class="cp-card">{plain_table(*fits(state))}</div></div>'
        f"{sentence(_unbroken(say(state)), state.message)}"
    )


def _unbroken(text):
    """The text with spaces inside numbers that no line ends at."""
    return re.sub(r"(?<=\d) (?=\d{3}\b)", "\u00a0", text)


def _slider(state):
    place = max(120, min(260, round(20 * log10(state.parameters))))
    return (
        f'<div class="cp-slide"><span class="cp-label">10<sup>6</sup> … 10<sup>13</sup></span><input type="range" min="120" max="260" step="1" '
        f'value="{place}" data-act="slide" data-key="slide" aria-label="Number of parameters, from a million to ten million million" '
        f'aria-valuetext="{escape(name_size(state.parameters))}"></div>'
    )


# ---- the picture


def drawing(state) -> str:
    """The recipe's bar above that of FP32 and Adam; the tables have the same content, so that it is hidden from screen readers."""
    names = [state.recipe] + [REFERENCE] * (state.recipe != REFERENCE)
    bars = "".join(_bar(name, 18 + i * (BAR + 30)) for i, name in enumerate(names))
    height = 2 * (BAR + 30) + 4  # as high with one bar as with two: nothing below may jump
    return f'<svg viewBox="0 0 {WIDTH} {height}" aria-hidden="true">{bars}</svg>{_legend(names)}'


def _bar(name, top):
    parts, x = [f'<text x="0" y="{top - 5}">{escape(name)}: {number(total(name))} bytes per parameter</text>'], 0.0
    for kind, size in ledger(name).items():
        width = float(size) * WIDTH / FULL
        style = look(_width_name(size))
        parts.append(
            f'<rect x="{x + 1:.2f}" y="{top}" width="{max(width - 3, 0.5):.2f}" height="{BAR}" fill="{style.colour}" stroke="currentColor"/>'
        )
        if width > 40:  # a narrower segment has its name in the table only
            label = f'<text x="{x + width / 2:.2f}" text-anchor="middle" style="fill:{text_on(style.colour)}"'
            name = (_NAMES if width > 70 else _SHORT).get(kind, kind)
            parts.append(f'{label} y="{top + 17}">{name}</text>{label} y="{top + 33}">{number(size)}</text>')
        x += width
    return "".join(parts)


def _width_name(size):
    return _WIDTHS[4 if size >= 4 else 2 if size >= 2 else 1]


def _legend(names):
    words = {4: "black: 4 bytes (FP32)", 2: "orange-red: 2 bytes (BF16, or the 16 bits of a remainder)", 1: "green: 1 byte or less (8 bits, scales)"}
    shown = {_width_name(size) for name in names for size in ledger(name).values()}
    return f'<p class="cp-legend">{"".join(f"<span>{text}</span> " for width, text in words.items() if _WIDTHS[width] in shown)}</p>'


# ---- numbers, tables, the sentence


def number(value: Fraction, places=2) -> str:
    """A size with at most so many decimals; what is there is never shown as 0.

    >>> number(Fraction(112)), number(Fraction(10, 3)), number(Fraction(1, 10**4))
    ('112', '3.33', '0.0001')
    """
    if 0 < value < Fraction(1, 100):
        return f"{float(value):.1g}"
    text = f"{float(value):,.{places}f}".replace(",", " ")
    return text.rstrip("0").rstrip(".") if "." in text else text


def account(state) -> tuple:
    """Head, rows and caption of the account by kind."""
    kinds = [*ledger(state.recipe).items(), ("together", total(state.recipe))]
    rows = []
    for kind, size in kinds:
        amount = state.parameters * size
        rows.append((kind, number(size, 5), number(amount / 10**9), number(amount / 2**30)))
    return ("kind", "bytes each", "GB", "GiB"), rows, f"{state.typed} parameters, {state.recipe}"


def fits(state) -> tuple:
    """Head, rows and caption of what fits on which card."""
    rows = [
        (f"{card} GB", f"{cards_needed(state.parameters, state.recipe, card):,}".replace(",", " "), about(largest_model(state.recipe, card)))
        for card in CARDS
    ]
    return ("card", "cards needed", "largest model on one"), rows, "Without activations; 1 GB = 10⁹ bytes"


def about(parameters: int) -> str:
    """A number of parameters cut (not rounded) to three digits: so many still fit.

    >>> about(8_812_500_000), about(1_500_000_000)
    ('8.81 B', '1.5 B')
    """
    unit = 10 ** max(len(str(parameters)) - 3, 0)
    return name_size(parameters // unit * unit)


def say(state) -> str:
    """The sentence that says what the present state means."""
    size = state.parameters * total(state.recipe)
    each = f"It keeps {number(total(state.recipe), 5)} bytes per parameter, {number(size / 10**9)} GB or {number(size / 2**30)} GiB"
    return f"{state.recipe}: {RECIPES[state.recipe][1]}. {each}, {_compare(state.recipe)}. {_room(state, size)}"


def _compare(recipe):
    if recipe == REFERENCE:
        return "which the other recipes are compared with"
    difference = total(recipe) - total(REFERENCE)
    if not difference:
        return f"exactly as much as {REFERENCE}"
    share = number(abs(difference) / total(REFERENCE) * 100, 1)
    return f"{share} % {'more' if difference > 0 else 'less'} than {REFERENCE}"


def _room(state, size):
    for card in CARDS:
        if size <= card * 10**9:
            return f"That fits on one card of {card} GB, with {number(Fraction(card) - size / 10**9)} GB left for activations."
    needed = cards_needed(state.parameters, state.recipe, CARDS[-1])
    return f"That needs {needed:,} cards of {CARDS[-1]} GB before the first activation is stored.".replace(",", " ")


def table(state) -> str:
    """The state as plain tables."""
    return f"{plain_table(*account(state))}{plain_table(*fits(state))}<p>{rich(say(state))}</p>"


def text(state) -> str:
    """The state as text."""
    lines = [f"MemoryLedger: {state.typed} parameters, {state.recipe}"]
    for head, rows, _ in (account(state), fits(state)):
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join([*lines, say(state)])
