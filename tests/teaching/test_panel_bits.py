"""BitPanel: every action, nonsense included, and that what is shown is what the code means."""

import math
import re
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics.formats import FORMATS, FloatFormat, parse_number
from course.teaching.panels import bits
from course.teaching.panels.bits import BitPanel, start, update, view
from course.teaching.panels.bits_view import error_text, formula, outcomes, say, table, text
from course.teaching.panels.parts import decimal
from course.teaching.panels.places import PRESETS, at_order, bit_name, field_of, last, order, writable

FP16, BF16, E4M3, E2M1, E8M0 = (FORMATS[name] for name in ("FP16", "BF16", "E4M3", "E2M1", "E8M0"))


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


def pressed_codes(page, state):
    """The codes as the bit buttons of a page show them, by aria-pressed and by digit."""
    found = []
    for i, fmt in enumerate(state.fmts):
        buttons = re.findall(rf'data-act="flip {i} (\d+)"[^>]*aria-pressed="(\w+)"[^>]*>(\d)<small>(\w)', page)
        assert [int(bit) for bit, *_ in buttons] == list(reversed(range(fmt.bits)))
        assert all((pressed == "true") == (digit == "1") for _, pressed, digit, _ in buttons)
        letters = "S" * fmt.signed + "E" * fmt.exponent_bits + "M" * fmt.mantissa_bits
        assert "".join(letter for *_, letter in buttons) == letters
        found.append(int("".join(digit for _, _, digit, _ in buttons), 2))
    return found


class Balance(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.open = []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        assert tag in {"div", "label", "input", "button", "section", "select", "option", "code", "span", "small", "b", "sup", "p",
                       "table", "caption", "thead", "tbody", "tr", "th", "td"}, tag  # fmt: skip
        assert len({name for name, _ in attrs}) == len(attrs)
        if tag != "input":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def sane(state):
    """Everything that must hold for any state, and for the page that shows it."""
    page = view(state)
    Balance(page), Balance(table(state))
    assert pressed_codes(page, state) == [code or 0 for code in state.codes]
    for i, (fmt, code, result) in enumerate(zip(state.fmts, state.codes, outcomes(state))):
        if code is None:
            assert fmt.nan_code is None and state.source != state.source
            continue
        value = fmt.decode(code)
        assert result.value == value or (math.isnan(value) and math.isnan(result.value))
        assert decimal(value, 64) in text(state)
        if state.origin == i:
            assert state.source == value or math.isnan(value)
        else:
            assert code == fmt.encode(state.source)


actions = st.one_of(
    st.builds(lambda i, b: {"act": f"flip {i} {b}"}, st.integers(0, 1), st.integers(0, 7)),
    st.builds(lambda i, by: {"act": f"step {i} {by}"}, st.integers(0, 1), st.sampled_from([-1, 1])),
    st.builds(lambda i, v: {"act": f"slide {i}", "value": str(v)}, st.integers(0, 1), st.integers(-70000, 70000)),
    st.builds(lambda n: {"act": f"preset {n}"}, st.integers(0, len(PRESETS) - 1)),
    st.builds(lambda i, name: {"act": f"format {i}", "value": name}, st.integers(0, 1), st.sampled_from(sorted(FORMATS))),
    st.just({"act": "restart"}),
    st.builds(lambda t: {"act": "type", "value": t}, st.text(max_size=20) | st.sampled_from(
        ["0.1", "0x3C00", "0b1", "inf", "-inf", "nan", "-0", "1/3", "nonsense", "", "1e400", "1e-400", "0xFFFFFFFFF", "<script>"])),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, max_size=12))
def test_any_sequence_of_actions_keeps_a_sane_state(sequence):
    panel = BitPanel()
    for action in sequence:
        panel.act(action)
        sane(panel.state)


@pytest.mark.parametrize("name", FORMATS)
def test_every_bit_of_every_format_flips_that_bit(name):
    fmt = FORMATS[name]
    for bit in range(fmt.bits):
        state = do(start([name, "FP32"], "1"), f"flip 0 {bit}")
        assert state.codes[0] == fmt.encode(1) ^ 1 << bit
        assert bit_name(fmt, bit).replace("2⁻¹⁰", "") and field_of(fmt, bit) in bit_name(fmt, bit)
        sane(state)


@pytest.mark.parametrize("code", [0x3C00, 0x2E66, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0x8001, 0xFBFF])
def test_the_formula_with_its_numbers_filled_in_gives_the_value(code):
    left = formula(FP16, code).split(" = ")[0].replace("−", "-").replace("×", "*").replace("2^", "Fraction(2)**")
    left = re.sub(r"(\d+)/(\d+)", r"Fraction(\1,\2)", left)
    value = np.array([code], np.uint16).view(np.float16)[0]
    assert eval(left, {"Fraction": Fraction}) == Fraction(float(value))


def test_typing_rounds_into_every_format_and_shows_the_exact_error():
    state = do(start(["FP16", "BF16", "FP32"]), "type", " 0.1 ")
    assert [fmt.decode(code) for fmt, code in zip(state.fmts, state.codes)] == [float(np.float16(0.1)), 0.10009765625, float(np.float32(0.1))]
    assert [error_text(result) for result in outcomes(state)][:2] == ["−1/40960 = −2/5 ulp", "+1/10240 = +1/5 ulp"]
    assert state.origin is None and state.source == Fraction(1, 10)


def test_a_typed_number_is_rounded_once():
    """1.0625 + 2^-40 lies just above a tie of E4M3: rounding to FP32 first would lose that."""
    state = do(start(["E4M3"]), "type", str(Fraction(17, 16) + Fraction(1, 2**40)))
    assert E4M3.decode(state.codes[0]) == 1.125


@pytest.mark.parametrize("typed, code", [("0x3C00", 0x3C00), ("0XfFfF", 0xFFFF), ("0b1", 1), ("0b0_01111_0000000000", 0x3C00), ("0x0", 0)])
def test_a_code_is_a_code_of_the_first_format(typed, code):
    state = do(start(["FP16", "BF16"]), "type", typed)
    assert state.codes[0] == code and state.origin == 0 and not state.message and state.typed == typed
    sane(state)


def test_a_nan_keeps_its_payload():
    state = do(start(["FP16", "E2M1"]), "type", "0xFE01")
    assert state.codes == (0xFE01, None) and "E2M1 has no code for NaN" in say(state)
    assert do(state, "flip 0 0").codes[0] == 0xFE00


def test_a_hexadecimal_float_is_a_number_not_a_code():
    assert do(start(["FP16"]), "type", "0x1.8p1").source == 3


@pytest.mark.parametrize(
    "typed, words",
    [
        ("nonsense", "not a number I can read"), ("", "not a number I can read"), ("1/0", "not a number I can read"),
        ("0xZZ", "write 0x and hexadecimal digits"), ("0x13C00", "needs 17 bits, and FP16 has 16"), ("3,5", "not a number I can read"),
        ("1e999999999", "not a number I can read"), ("1" * 3000, "not a number I can read"),
    ],
)  # fmt: skip
def test_nonsense_keeps_the_number_and_says_what_can_be_typed(typed, words):
    before = do(start(), "type", "0.1")
    state = do(before, "type", typed)
    assert words in state.message and state.message.endswith("The panel still shows 0.1.")
    assert (state.codes, state.source, say(state)) == (before.codes, before.source, say(before))
    assert 'value="0.1"' not in view(state)  # the text stays in the box, to be corrected
    sane(state)


def test_after_nonsense_the_next_action_clears_box_and_message():
    stuck = do(do(start(), "type", "0.1"), "type", "abc")
    kept = do(stuck, "format 1", "E4M3")  # another format is no other number
    assert kept.draft == "abc" and kept.message == stuck.message and 'value="abc"' in view(kept)
    for act, value in (("step 0 1", ""), ("flip 0 0", ""), ("slide 0", "7"), ("preset 0", ""), ("type", "2")):
        state = do(kept, act, value)
        assert state.message == "" and "abc" not in view(state)


def test_start_over_brings_the_first_state_back():
    first = start(["FP16", "E4M3"], "0.1")
    state = first
    for act, value in (("format 1", "FP32"), ("flip 0 3", ""), ("preset 4", ""), ("type", "zz")):
        state = do(state, act, value)
        assert do(state, "restart") == first != state
    again = do(do(do(state, "restart"), "flip 0 1"), "restart")
    assert again == first == do(first, "restart") and view(again) == view(first)
    assert 'data-act="restart"' in view(first)


def rows_of(state):
    """For each card the names of its rows and of its fields."""
    cards = view(state).split("<section")[1:]
    return [(re.findall("<b>([^<]*)</b><span>[^<]", card), re.findall(r'<span class="cp-(\w+)">\w+ [SEM] = [^<]', card)) for card in cards]


@pytest.mark.parametrize("name", FORMATS)
def test_a_card_has_the_same_rows_whatever_it_holds(name):
    fmt = FORMATS[name]
    expected = [field for field, bits in (("sign", fmt.signed), ("exponent", fmt.exponent_bits), ("mantissa", fmt.mantissa_bits)) if bits]
    for i in range(len(PRESETS)):
        rows, fields = rows_of(do(start([name, "E2M1"]), f"preset {i}"))[0]
        assert rows == ["formula", "value", "exactly", "ulp here", "error"] and fields == expected


def test_a_power_of_two_is_typed_as_one_and_a_hexadecimal_float_is_called_one():
    names = list(PRESETS)
    state = do(start(["FP16"]), f"preset {names.index('smallest subnormal')}")
    assert state.typed == "2^-24" and "2^-24" in say(state)
    assert do(start(["BF16"]), f"preset {names.index('smallest normal')}").typed == "2^-126"
    assert "3 × 2<sup>−1</sup> (hex float 0x1.8p0)" in view(start(["FP16"], "1.5"))


@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_what_the_box_is_given_for_a_code_is_read_back_as_its_value(name, data):
    fmt = FORMATS[name]
    code = data.draw(st.integers(0, (1 << fmt.bits) - 1))
    value, back = fmt.decode(code), parse_number(writable(fmt, code))
    assert back == value or (back != back and value != value)
    assert len(writable(fmt, code)) <= 25


def test_what_is_typed_is_escaped():
    state = do(start(), "type", '<script>alert("1")</script>')
    for page in (view(state), table(state)):
        assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;1&quot;)" in view(state)


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].bits <= 16])
def test_the_slider_runs_through_every_number_in_order(name):
    fmt = FORMATS[name]
    low = -last(fmt) if fmt.signed else 0
    values = [fmt.decode(at_order(fmt, place)) for place in range(low, last(fmt) + 1)]
    assert all(one < other for one, other in zip(values, values[1:]))
    every = {fmt.decode(code) for code in range(1 << fmt.bits)}
    assert {value for value in every if value == value} == set(values)
    assert [order(fmt, at_order(fmt, place)) for place in range(low, last(fmt) + 1)] == list(range(low, last(fmt) + 1))
    assert at_order(fmt, 10**9) == at_order(fmt, last(fmt))


def test_steps_are_neighbours_and_stop_at_the_ends():
    state = start(["FP16"], "1")
    assert FP16.decode(do(state, "step 0 1").codes[0]) == FP16.neighbours(1)[1]
    assert FP16.decode(do(state, "step 0 -1").codes[0]) == FP16.neighbours(1)[0]
    assert do(do(state, "type", "65504"), "step 0 1").source == math.inf
    assert do(do(state, "type", "inf"), "step 0 1").source == math.inf
    assert "no neighbours" in do(do(state, "type", "nan"), "step 0 1").message


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items()])
def test_presets_are_what_they_are_called(name):
    fmt = FORMATS[name]
    values = {}
    for i, preset in enumerate(PRESETS):
        state = do(start([name]), f"preset {i}")
        sane(state)
        values[preset] = None if state.codes[0] is None else fmt.decode(state.codes[0])
        if preset == "a tie" and fmt.mantissa_bits:
            assert outcomes(state)[0].kind == "tie"
        if preset == "just too large":
            tie = Fraction(fmt.max) + Fraction(fmt.ulp(fmt.max)) / 2
            assert outcomes(state)[0].kind == "overflow" and tie <= state.source <= tie + Fraction(fmt.ulp(fmt.max)) / 32
            assert (state.source == tie) == (fmt.encode(tie) != fmt.encode(fmt.max) or fmt.encode(fmt.max) % 2 == 1)  # a tie goes to the even one
            assert len(state.typed) <= 25 and len(say(state)) < 200
    assert values["one"] == 1 and values["largest"] == fmt.max
    if fmt.min_subnormal:
        assert values["smallest subnormal"] == fmt.min_subnormal and values["smallest normal"] == fmt.min_normal
        assert values["largest subnormal"] == fmt.min_normal - fmt.min_subnormal


def test_changing_a_format_keeps_the_number():
    state = do(do(start(["FP16", "BF16"]), "type", "0.1"), "format 1", "FP32")
    assert state.source == Fraction(1, 10) and FORMATS["FP32"].decode(state.codes[1]) == float(np.float32(0.1))
    flipped = do(state, "flip 0 0")
    kept = do(flipped, "format 1", "E4M3")
    assert kept.codes[0] == flipped.codes[0]
    sane(do(flipped, "format 0", "E8M0"))


def test_a_learners_own_format_can_be_shown():
    state = start([FloatFormat("E3M4", 3, 4), "BF16"], "0.1")
    sane(state)
    assert "E3M4" in view(state)
    sane(do(state, "format 1", "FP16"))


@pytest.mark.parametrize("fmts, value, words", [(["FP17"], "1", "FP17"), ([], "1", "one to four"), (["FP16"], "x", "not a number"), (["FP16"] * 5, 1, "one to four")])
def test_a_panel_that_cannot_start_says_why(fmts, value, words):
    with pytest.raises(ValueError, match=words) as error:
        BitPanel(fmts, value)
    assert "still shows" not in str(error.value)  # nothing is shown yet


def test_a_python_float_is_taken_as_the_number_it_is():
    assert start(["FP32"], 0.1).source == Fraction(0.1)
    assert math.copysign(1, start(["FP32"], -0.0).source) == -1
    assert start(["FP32"], Fraction(1, 3)).source == Fraction(1, 3)


def test_without_sign_or_zero():
    assert "has no −0 and gives 0" in say(start(["FP16", "E4M3FNUZ"], "-0"))
    state = start(["E8M0"], "-1")
    assert state.codes == (E8M0.nan_code,) and "no sign" in say(state)
    assert do(state, "flip 0 0").origin == 0


def test_the_module_offers_what_the_panel_uses():
    panel = BitPanel()
    assert panel.update is bits.update and panel.view is bits.view
    assert E2M1.nan_code is None and BF16.bits == 16


def test_just_too_large_for_e4m3_is_beyond_the_tie_that_goes_back_to_448():
    state = do(start(["E4M3", "FP16"]), f"preset {list(PRESETS).index('just too large')}")
    assert state.typed == "465" and math.isnan(E4M3.decode(state.codes[0]))
    assert do(start(["FP16"]), f"preset {list(PRESETS).index('just too large')}").typed == "65520"  # there the tie overflows
    largest = FORMATS["FP32"].max
    assert parse_number(PRESETS["just too large"](FORMATS["FP32"])) - Fraction(largest) == 2**103 and PRESETS["just too large"](FORMATS["FP32"]) == "0x1.ffffffp127"
