"""RoundingBench: values against NumPy and ml_dtypes, chances against the draws themselves, and every action."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics.formats import FORMATS
from course.teaching.panels.bench import MODES, PRESETS, RoundingBench, outcomes, say, start, table, text, update, view

reals = st.fractions(-1000, 1000) | st.builds(lambda n, e: Fraction(n) * Fraction(2) ** e, st.integers(-999, 999), st.integers(-160, 130))


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


@settings(deadline=None)
@given(reals, st.sampled_from(sorted(FORMATS)), st.sampled_from(["ieee", "saturate"]), st.data())
def test_the_chances_are_those_of_the_rounding_itself(source, name, overflow, data):
    fmt = FORMATS[name]
    found = outcomes(fmt, source, "stochastic", overflow)
    assert sum(chance for _, chance in found) == 1 and all(chance > 0 for _, chance in found)
    draw = data.draw(st.fractions(0, 1).filter(lambda d: d < 1))
    up = found[-1][1] if len(found) == 2 else 0
    expected = found[-1] if draw < up else found[0]
    assert fmt.encode(source, "stochastic", overflow, draw) == expected[0].code
    if len(found) == 2 and all(math.isfinite(outcome.value) for outcome, _ in found) and abs(source) <= fmt.max:
        assert sum(Fraction(outcome.value) * chance for outcome, chance in found) == source  # unbiased


@given(st.floats(width=16, allow_nan=False, allow_infinity=False), st.integers(1, 2**20))
def test_nearest_and_toward_zero_agree_with_the_peers(x, part):
    source = Fraction(x) * Fraction(part, 2**20)  # 31 bits at most: exact in FP64
    for name, theirs in (("FP32", np.float32), ("FP16", np.float16)):  # NumPy rounds FP64 once
        assert outcomes(FORMATS[name], source, "nearest-even", "ieee")[0][0].value == float(theirs(float(source)))
    single = np.float32(float(source))
    chopped = (single.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert outcomes(FORMATS["BF16"], Fraction(float(single)), "toward-zero", "ieee")[0][0].value == float(chopped)
    assert outcomes(FORMATS["BF16"], Fraction(float(single)), "nearest-even", "ieee")[0][0].value == float(single.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("typed, name, mode, overflow, value", [
    ("465", "E4M3", "nearest-even", "ieee", "NaN"), ("465", "E4M3", "nearest-even", "saturate", "448"), ("465", "E4M3", "toward-zero", "ieee", "448"),
    ("65520", "FP16", "nearest-even", "ieee", "Inf"), ("65520", "FP16", "nearest-even", "saturate", "65504"), ("9", "E2M1", "nearest-even", "ieee", "6"),
    ("inf", "E4M3", "nearest-even", "saturate", "448"), ("nan", "BF16", "stochastic", "ieee", "NaN"), ("nan", "E3M2", "stochastic", "ieee", "none"),
])  # fmt: skip
def test_overflow_and_specials(typed, name, mode, overflow, value):
    state = do(do(start("1", [name]), "type", typed), f"overflow {['ieee', 'saturate'].index(overflow)}")
    row = text(state).splitlines()[2]
    assert row[9:].split(" | ")[MODES.index(mode)].split(" (")[0] == value
    assert 'aria-pressed="true"' in view(state)


def test_the_switch_shows_which_rule_is_on():
    for number in (0, 1):
        page = view(do(start(), f"overflow {number}"))
        assert page.count('aria-pressed="true"') == 1 == page.count('aria-pressed="false"')
        assert page.index('aria-pressed="true"') > page.index(f'data-act="overflow {number}"')


@pytest.mark.parametrize("number", range(len(PRESETS)))
def test_presets_are_what_they_are_called(number):
    state = do(start(), f"preset {number}")
    name = list(PRESETS)[number]
    if name.startswith("a tie in "):
        fmt = FORMATS[name.split()[-1]]
        assert outcomes(fmt, state.source, "nearest-even", "ieee")[0][0].kind == "tie"
        assert [chance for _, chance in outcomes(fmt, state.source, "stochastic", "ieee")] == [Fraction(1, 2)] * 2
    if name == "below every 8-bit format":
        assert all(outcomes(FORMATS[n], state.source, "nearest-even", "ieee")[0][0].value == 0 for n in ("E4M3", "E5M2", "E4M3FNUZ", "E5M2FNUZ"))
    assert table(state) and say(state) in table(state).replace("&#x27;", "'")


@pytest.mark.parametrize("typed", ["", "zz", "0x3C00", "1/0", "<script>"])
def test_nonsense_keeps_the_table(typed):
    before = start()
    state = do(before, "type", typed)
    assert state.message.endswith("The panel still shows 0.1.") and state.source == before.source
    assert say(state) == say(before) and "<script>" not in view(state)
    other_rule = do(state, "overflow 1")  # is no other number: the text stays, to be corrected
    assert (other_rule.draft, other_rule.message) == (typed, state.message) and "<script>" not in say(other_rule)
    assert not do(other_rule, "preset 1").message and not do(other_rule, "type", "2").message


def test_a_code_is_sent_to_the_bit_panel():
    assert "codes such as 0x3C00 work in the BitPanel; here type a number" in do(start(), "type", "0x3c00").message
    assert do(start(), "type", "0x1.8p3").source == 12
    with pytest.raises(ValueError, match="BitPanel"):
        RoundingBench("0b1")


def test_start_over_brings_the_first_state_back():
    first = start("1/3", ["FP16"])
    state = do(do(do(first, "preset 2"), "overflow 1"), "type", "zz")
    assert do(state, "restart") == first == do(first, "restart") != state and view(do(state, "restart")) == view(first)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["overflow 0", "overflow 1", *(f"preset {i}" for i in range(len(PRESETS)))]).map(lambda act: {"act": act})
                | st.text(max_size=10).map(lambda t: {"act": "type", "value": t}), max_size=6))  # fmt: skip
def test_any_sequence_of_actions_can_be_shown(sequence):
    panel = RoundingBench("0.1", ["FP32", "E4M3", "E2M1", "E8M0"])
    for action in sequence:
        panel.act(action)
        assert "nothing was changed" not in panel.frame["html"]
        assert panel.table(panel.state) and panel.text(panel.state)


def test_a_bench_that_cannot_start_says_why():
    with pytest.raises(ValueError, match="no formats"):
        RoundingBench("1", [])
    with pytest.raises(ValueError, match="not a number"):
        RoundingBench("one")
    with pytest.raises(ValueError, match="FP17"):
        RoundingBench("1", ["FP17"])
