"""What BitPanel shows: the sentence, the live page, the table and the text of a `BitState`."""

import math

from course.numerics.explain import explain

from .outcome import Outcome, clause, judge
from .parts import (
    binary, button, choose_format, decimal, entry, escape, fraction, plain_table, power, presets, rich, sentence, ulps,
)
from .places import PRESETS, bit_name, field_of, grain, last, order


# ---- words


def outcomes(state) -> list[Outcome]:
    """What became of the source in each format."""
    missing = [Outcome(fmt, state.source, None, None, "none", None, None) for fmt in state.fmts]
    return [none if code is None else judge(none.fmt, state.source, code) for none, code in zip(missing, state.codes)]


def formula(fmt, code) -> str:
    """The value as its fields make it, with the numbers filled in."""
    parts = explain(code=code, fmt=fmt)
    sign = {None: "", 0: "+", 1: "−"}[parts.sign]
    if parts.kind == "nan":
        return "NaN: this code means “not a number”"
    if parts.kind == "inf":
        return f"{sign}Inf: all exponent bits 1, all mantissa bits 0"
    if parts.kind == "zero":
        return f"{sign}0: all exponent and mantissa bits 0"
    if not fmt.mantissa_bits:
        return f"{sign}2^({parts.exponent_field} − {fmt.bias}) = {power(parts.exponent)}"
    leading, field = (1, parts.exponent_field) if parts.kind == "normal" else (0, 1)
    share = f"{parts.mantissa_field}/{1 << fmt.mantissa_bits}"
    return f"{sign}2^({field} − {fmt.bias}) × ({leading} + {share}) = {sign}{power(parts.exponent)} × {decimal(parts.significand, 24)}"


def say(state) -> str:
    """The sentence that says what the present state means."""
    results = outcomes(state)
    if state.origin is None:
        head = state.deed
        rest = results
    else:
        own = results[state.origin]
        kind = explain(code=own.code, fmt=own.fmt).kind
        head = f"{state.deed} {own.fmt.name} holds {decimal(own.value)} ({_MEANING[kind]})"
        rest = [result for i, result in enumerate(results) if i != state.origin]
    if rest and all(result.kind == "exact" for result in rest) and len(rest) > 1:
        return f"{head}. {' and '.join(result.fmt.name for result in rest)} hold it exactly."
    return ". ".join([head, *(f"{result.fmt.name} {clause(result)}" for result in rest)]) + "."


_MEANING = {
    "normal": "a normal number: the leading 1 is not stored",
    "subnormal": "a subnormal: no hidden leading 1, so fewer bits count",
    "zero": "zero",
    "inf": "infinity: what IEEE 754 gives beyond the largest number",
    "nan": "not a number: every sum and product with it is NaN, and it equals nothing, itself included",
}


def _facts(fmt, code, result):
    """The rows below the bits: (name, text)."""
    rows = dict.fromkeys(("formula", "value", "exactly", "ulp here", "error"), "–")  # always the same rows: nothing jumps
    if code is None:
        return list((rows | {"value": f"{fmt.name} has no code for NaN"}).items())
    parts = explain(code=code, fmt=fmt)
    rows |= {"formula": formula(fmt, code), "value": decimal(result.value, 120 if fmt.bits > 16 else 33), "error": error_text(result)}
    if parts.exponent is not None and result.value:
        rows["exactly"] = f"{binary(result.value)} (hex float {parts.hex_value})"
    if math.isfinite(result.value):
        rows["ulp here"] = f"{power(round(math.log2(fmt.ulp(result.value))))} = {decimal(fmt.ulp(result.value), 24)}"
    return list(rows.items())


def error_text(result) -> str:
    """The rounding error as exact fraction and in ulps."""
    if result.kind == "exact" or result.error == 0:
        return "0 (exact)"
    if result.error is None:
        return {"overflow": "unbounded: it overflowed", "nan": "none: NaN"}.get(result.kind, "none")
    sign = "+" if result.error > 0 else ""
    return f"{sign}{fraction(result.error)} = {ulps(result.error_ulps)}" + (" (a tie)" if result.kind == "tie" else "")


# ---- the live page


def view(state) -> str:
    """The panel as HTML."""
    cards = "".join(_card(state, i, result) for i, result in enumerate(outcomes(state)))
    return (
        f'<div class="cp-bar">{entry("type", "Number or code", state.typed if state.draft is None else state.draft)}{presets(PRESETS)}</div>'
        f'<div class="cp-cards">{cards}</div>{sentence(say(state), state.message)}'
    )


def _card(state, index, result):
    fmt, code = state.fmts[index], state.codes[index]
    kind, code_text = "no NaN", "no code"
    if code is not None:
        parts = explain(code=code, fmt=fmt)
        kind, code_text = parts.kind, parts.hex_code
    facts = "".join(f"<b>{name}</b><span>{rich(text)}</span>" for name, text in _facts(fmt, code, result))
    return (
        f'<section class="cp-card{" cp-wide" if fmt.bits > 16 else ""}" aria-label="{escape(fmt.name)}"><div class="cp-head">'
        f'{choose_format(f"format {index}", fmt, f"Format {index + 1}")}<code>{code_text}</code><span class="cp-kind">{kind}</span></div>'
        f"{_bits(fmt, index, code)}{_fields(fmt, code)}{_slider(fmt, index, code)}<div class=\"cp-facts\">{facts}</div></section>"
    )


def _bits(fmt, index, code):
    code = code or 0
    buttons, previous = [], None
    for bit in reversed(range(fmt.bits)):
        field, digit = field_of(fmt, bit), code >> bit & 1
        gap = " cp-gap" if previous not in (None, field) else ""
        buttons.append(
            f'<button class="cp-bit cp-{field}{gap}" data-act="flip {index} {bit}" data-key="bit {index} {bit}" '
            f'aria-pressed="{"true" if digit else "false"}" aria-label="{fmt.name} {bit_name(fmt, bit)}">{digit}<small>{field[0].upper()}</small></button>'
        )
        previous = field
    return (
        f'<div class="cp-bits" role="group" aria-label="Bits of {escape(fmt.name)}" data-up="step {index} 1" '
        f'data-down="step {index} -1">{"".join(buttons)}</div>'
    )


def _fields(fmt, code):
    numbers = ("–", "–", "–")
    if code is not None:
        parts = explain(code=code, fmt=fmt)
        numbers = parts.sign, parts.exponent_field, parts.mantissa_field
    chips = zip(("sign", "exponent", "mantissa"), "SEM", numbers, (fmt.signed, fmt.exponent_bits, fmt.mantissa_bits))
    return '<div class="cp-fields">' + "".join(
        f'<span class="cp-{name}">{name} {letter} = {number}</span>' for name, letter, number, bits in chips if bits
    ) + "</div>"  # fmt: skip


def _slider(fmt, index, code):
    place, size = order(fmt, code), grain(fmt)
    low = -(last(fmt) // size) if fmt.signed else 0
    spoken = "NaN" if place is None else decimal(fmt.decode(code), 12)
    return (
        f'<div class="cp-slide"><input type="range" data-act="slide {index}" data-key="slide {index}" min="{low}" max="{last(fmt) // size}" '
        f'step="1" value="{0 if place is None else int(place / size) if size > 1 else place}" aria-label="{escape(fmt.name)} on the number line" aria-valuetext="{spoken}">'
        f'<div class="cp-steps" role="group" aria-label="Steps of {escape(fmt.name)}">'
        f'{button(f"step {index} -1", "▾ next below", label=f"{fmt.name}: next number below")}'
        f'{button(f"step {index} 1", "▴ next above", label=f"{fmt.name}: next number above")}</div></div>'
    )


# ---- where nothing runs


def _static_rows(state):
    rows = []
    for fmt, code, result in zip(state.fmts, state.codes, outcomes(state)):
        if code is None:
            rows.append((fmt.name, "no code", "–", "–", "no NaN", "none", "none"))
            continue
        parts = explain(code=code, fmt=fmt)
        rows.append((fmt.name, parts.hex_code, *_field_digits(parts), parts.kind, decimal(result.value, 64), error_text(result)))
    return rows


def _field_digits(parts):
    sign, exponent, mantissa = parts.fields
    return f"{sign or '–'} {exponent}", mantissa or "–"


def table(state) -> str:
    """The state as a plain table."""
    rows = [(name, code, bits, mantissa, kind, value, error) for name, code, bits, mantissa, kind, value, error in _static_rows(state)]
    head = ("format", "code", "S and E", "M", "class", "value", "rounding error")
    return plain_table(head, rows, say(state))


def text(state) -> str:
    """The state as text."""
    lines = [
        f"{name:<9} {code}  {bits} {mantissa}  {kind}, {value}, error {error}" for name, code, bits, mantissa, kind, value, error in _static_rows(state)
    ]
    return "\n".join(["BitPanel", *lines, say(state)])
