"""Numbers as text, and what one rounding did: against Fractions, NumPy and ml_dtypes."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from course.numerics.formats import BF16, E2M1, E4M3, E5M2, E8M0, FORMATS, FP16, FP32
from course.teaching.panels.outcome import clause, round_into
from course.teaching.panels.parts import binary, decimal, floor_log2, fraction, get_format, plain_table, rich, ulps

reals = st.fractions() | st.builds(lambda n, e: Fraction(n) * Fraction(2) ** e, st.integers(-(2**30), 2**30), st.integers(-1100, 1100))


def read(text):
    return Fraction(text.rstrip("…").replace("−", "-").replace("…e", "e"))


@given(reals, st.integers(1, 40))
@example(Fraction(10) ** 12, 12)
@example(Fraction(1, 10), 5)
def test_a_decimal_is_exact_or_says_that_it_goes_on(value, digits):
    text = decimal(value, digits)
    shown = read(text)
    if "…" in text:
        assert abs(shown) < abs(value) and abs(value - shown) <= abs(value) / 10 ** (min(digits, 12) - 1)
    else:
        assert shown == value


@given(reals)
def test_binary_and_fraction_are_the_same_number(value):
    if value.denominator & (value.denominator - 1) == 0:
        text = binary(value).replace("−", "-")
        number, _, power = text.partition("2" if " × " not in text else " × 2")
        if any(c in "⁻⁰¹²³⁴⁵⁶⁷⁸⁹" for c in text):
            exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
            odd = int(number) if number not in ("", "-") else int(f"{number}1")
            assert odd * Fraction(2) ** exponent == value
        else:
            assert Fraction(text) == value
    if "…" not in fraction(value):
        assert read(fraction(value)) == value


def test_words_for_special_values():
    assert [decimal(x) for x in (math.nan, math.inf, -math.inf, 0.0, -0.0, None)] == ["NaN", "Inf", "−Inf", "0", "−0", "none"]
    assert ulps(Fraction(-1, 2)) == "−1/2 ulp" and ulps(Fraction(0)) == "0"
    assert rich("<2⁻⁹>") == "&lt;2<sup>−9</sup>&gt;"
    assert decimal(Fraction(10) ** 5000) == "1e5000" and "…" in fraction(Fraction(7) ** 9000)


@given(st.fractions(min_value=Fraction(1, 10**40)))
def test_floor_log2(value):
    assert Fraction(2) ** floor_log2(value) <= value < Fraction(2) ** (floor_log2(value) + 1)


def test_a_number_in_a_plain_table_stays_on_one_line_and_a_text_may_wrap():
    cells = {
        "-1.17e-38": True, "0 01111011": True, "0.99951171875 (−2⁻¹¹)": True, "4/3 × 2^-13": True,
        "FP16": False, "65504": False, "0x3C00": False,  # cannot break: nothing to say
        "lost: a tie, and x is the even one": False, "1 (tie, −1/2 ulp)": False, "no code": False, "1 2 " * 20: False,
    }  # fmt: skip
    page = plain_table(("a", "b"), [(cell, cell) for cell in cells], "c")
    for cell, whole in cells.items():
        mark = ' style="white-space:nowrap"' if whole else ""
        assert f'<tr><th scope="row"{mark}>{cell}</th><td{mark}>{cell}</td></tr>' in page


def test_an_unknown_format_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="FP17.*FP16"):
        get_format("FP17")


PEERS = {"FP16": np.float16, "BF16": ml_dtypes.bfloat16, "E5M2": ml_dtypes.float8_e5m2, "E4M3": ml_dtypes.float8_e4m3fn}


@given(st.floats(width=32, allow_nan=False), st.sampled_from(sorted(PEERS)))
def test_values_agree_with_the_peers(x, name):
    with np.errstate(over="ignore"):
        theirs = float(np.float32(x).astype(PEERS[name]))
    ours = round_into(FORMATS[name], x if math.isinf(x) or not x else Fraction(x)).value
    assert ours == theirs or (math.isnan(ours) and math.isnan(theirs))


@given(reals, st.sampled_from([FP32, FP16, BF16, E5M2, E4M3, E2M1]))
def test_what_is_said_about_a_rounding_is_true(source, fmt):
    found = round_into(fmt, source)
    if found.kind == "exact":
        return
    assume(math.isfinite(found.value))
    error = Fraction(found.value) - source
    assert found.error == error != 0 and found.error_ulps * Fraction(fmt.ulp(found.value)) == error
    if found.kind in ("inexact", "tie"):
        assert ("too high" in clause(found)) == (error > 0) == ("too low" not in clause(found))
    below, above = fmt.neighbours(source)
    if found.kind == "tie" and abs(source) < fmt.max:
        assert source - Fraction(below) == Fraction(above) - source
    if found.kind == "inexact" and abs(source) < fmt.max:
        assert abs(error) < min(abs(Fraction(other) - source) for other in (below, above) if other != found.value)
    if found.kind == "underflow":
        assert found.value == 0 and 2 * abs(source) <= fmt.min_subnormal
    if found.kind == "overflow":
        assert abs(source) > fmt.max == abs(found.value) and fmt.specials == "finite"


@pytest.mark.parametrize(
    "fmt, source, words",
    [
        (FP16, Fraction(1, 3), "too low"),
        (FP16, Fraction(2049, 2048), "a tie"),
        (FP16, Fraction(2) ** -25, "exactly half of the smallest number, 2⁻²⁴"),
        (FP16, Fraction(2) ** -26, "less than half of the smallest number, 2⁻²⁴"),
        (FP16, Fraction(2) ** -24, "exactly, as a subnormal"),
        (FP16, Fraction(3, 2) * Fraction(2) ** -20 + Fraction(2) ** -26, "a subnormal: fewer bits"),
        (FP16, Fraction(65520), "overflows to Inf, for it ends at 65504"),
        (E4M3, Fraction(464), "a tie"),
        (E4M3, Fraction(465), "overflows to NaN, for it has no Inf and ends at 448"),
        (E2M1, Fraction(8), "stops at 6"),
        (E2M1, math.nan, "no code for NaN"),
        (E8M0, Fraction(-1), "no sign"),
        (E8M0, Fraction(0), "no zero"),
        (E8M0, math.inf, "NaN"),
        (BF16, math.inf, "Inf"),
    ],
)
def test_each_kind_of_outcome_has_its_words(fmt, source, words):
    assert words in clause(round_into(fmt, source))
