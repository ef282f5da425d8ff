"""UlpRuler: where additions land (against NumPy), what is drawn (against every code), and every action."""

import html
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics.formats import FORMATS
from course.teaching.panels.ruler import PRESETS, UlpRuler, finite, start, update
from course.teaching.panels.ruler_scale import Scale, delta_slider, marks
from course.teaching.panels.ruler_view import landing, landings, say, table, text, view

FP16, BF16, E4M3, FP32 = (FORMATS[name] for name in ("FP16", "BF16", "E4M3", "FP32"))
halves = st.integers(0, 0x7BFF).map(lambda code: FP16.decode(code)) | st.integers(0x8000, 0xFBFF).map(lambda code: FP16.decode(code))


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


def draft(state, box):
    """What stands in a box."""
    return html.unescape(re.search(rf'data-act="{box}"[^>]* value="([^"]*)"', view(state))[1])


def alert(state):
    return html.unescape(re.search('role="alert">([^<]*)<', view(state))[1])


@given(halves, halves)
def test_a_sum_lands_where_an_fp16_addition_lands(x, delta):
    with np.errstate(over="ignore"):
        theirs = float(np.float16(x) + np.float16(delta))
    found = landing(FP16, Fraction(x), Fraction(delta))
    assert found.result == theirs
    assert found.lost == (delta != 0 and theirs == x)
    if found.verdict == "kept exactly":
        assert Fraction(x) + Fraction(delta) == Fraction(theirs)


def test_from_one_fp16_moves_up_by_more_than_half_a_gap_and_down_by_half_of_that():
    """The threshold, found by bisection on the panel's own verdicts."""
    for sign, expected in ((1, Fraction(1, 2048)), (-1, Fraction(1, 4096))):
        lost, moves = Fraction(0), Fraction(1)
        for _ in range(60):
            middle = (lost + moves) / 2
            if landing(FP16, Fraction(1), sign * middle).lost:
                lost = middle
            else:
                moves = middle
        assert lost <= expected <= moves and moves - lost < Fraction(1, 2**55)
        assert landing(FP16, Fraction(1), sign * expected).verdict == "lost: a tie, and x is the even one"


@pytest.mark.parametrize(
    "name, x, delta, words",
    [
        ("FP16", "1", "2^-11", "lost: a tie"), ("FP16", "1", "0.0004", "lost: less than half"), ("FP16", "1", "1/1024", "kept exactly"),
        ("FP16", "1.0009765625", "2^-11", "a tie, rounded to the even number"), ("FP16", "2048", "1", "lost: a tie"), ("BF16", "256", "1", "lost: a tie"),
        ("FP16", "0", "2^-25", "lost: a tie"), ("FP16", "0", "2^-26", "less than half"), ("FP16", "2^-24", "-0.6e-7", "rounded to 0"),
        ("FP16", "65504", "16", "overflow"), ("FP16", "65504", "15", "less than half"), ("FP16", "1e9", "1", "beyond 65504"),
        ("E4M3", "448", "16", "lost: a tie"), ("E4M3", "448", "17", "overflow"), ("E2M1", "6", "9", "x is the last number"),
        ("E2M1", "4", "9", "stops at its largest"), ("E8M0", "1", "-3", "no negative numbers"), ("FP16", "1", "0", "nothing added"),
        ("FP16", "1", "0.0009", "too much"), ("FP16", "1", "-0.001", "too little"),
    ],
)  # fmt: skip
def test_each_verdict(name, x, delta, words):
    found = landing(FORMATS[name], finite(x), finite(delta))
    assert words in found.verdict
    if "too" in found.verdict:  # too much: it moved further than asked
        moved = abs(Fraction(found.result) - Fraction(found.start))
        assert ("too much" in found.verdict) == (moved > abs(finite(delta)))


windows = st.tuples(st.fractions(-600, 600), st.integers(-12, 10)).map(lambda pair: (pair[0] - Fraction(2) ** pair[1], pair[0] + Fraction(2) ** pair[1]))


@settings(deadline=None)
@given(windows, st.sampled_from(["E4M3", "E5M2", "E2M1", "E8M0", "E3M2", "E4M3FNUZ"]))
def test_every_number_in_view_is_a_tick_or_inside_a_band_and_nothing_else_is(window, name):
    fmt, scale = FORMATS[name], Scale(*window, 8, 712)
    ticks, middles, bands = marks(fmt, scale)
    numbers = {fmt.decode(code) for code in range(1 << fmt.bits)}
    seen = {scale(value) for value in numbers if math.isfinite(value) and scale.shows(value)}
    for place in seen - set(ticks):
        assert any(low <= place <= high for low, high, _ in bands), (place, bands)
    assert set(ticks) <= seen
    if not bands:
        ordered = sorted(value for value in numbers if math.isfinite(value))
        between = {scale((Fraction(a) + Fraction(b)) / 2) for a, b in zip(ordered, ordered[1:])}
        assert set(middles) <= between


def test_places_are_exact_where_floats_would_not_be():
    scale = Scale(Fraction(2) ** 60, Fraction(2) ** 60 + 4, 0, 400)
    assert [scale(Fraction(2) ** 60 + k) for k in range(5)] == [0, 100, 200, 300, 400]


@pytest.mark.parametrize("zoom", range(-20, 6))
def test_the_spacing_drawn_doubles_at_a_power_of_two(zoom):
    scale = Scale(1 - Fraction(2) ** zoom, 1 + Fraction(2) ** zoom, 0, 704)
    ticks = marks(FP16, scale)[0]
    if zoom in range(-9, -3):
        below = [b - a for a, b in zip(ticks, ticks[1:]) if b <= 352]
        above = [b - a for a, b in zip(ticks, ticks[1:]) if a >= 352]
        assert np.allclose(np.mean(above), 2 * np.mean(below), rtol=0.02) if below else True


actions = st.one_of(
    st.sampled_from(["nudge 1", "nudge -1", "scale 1", "scale -1", "zoom 1", "zoom -1", "fit", "add", "remove", "restart"]).map(lambda act: {"act": act}),
    st.integers(0, len(PRESETS) - 1).map(lambda n: {"act": f"preset {n}"}),
    st.integers(-200, 200).map(lambda v: {"act": "slide", "value": str(v)}),
    st.sampled_from(sorted(FORMATS)).map(lambda name: {"act": "format 0", "value": name}),
    st.tuples(st.sampled_from(["x", "delta"]), st.text(max_size=12) | st.sampled_from(
        ["0.1", "1/3", "inf", "nan", "-0", "1e400", "1e-400", "-2^-24", "70000", "zz", "<b>"])).map(lambda p: {"act": p[0], "value": p[1]}),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, max_size=12))
def test_any_sequence_of_actions_keeps_a_state_that_can_be_shown(sequence):
    panel = UlpRuler()
    for action in sequence:
        panel.act(action)
        assert "nothing was changed" not in panel.frame["html"], (action, panel.frame["html"][-200:])
        for row in landings(panel.state):
            if row.start is not None:
                assert row.start == row.fmt.decode(row.fmt.encode(panel.state.x))
                assert row.result == row.fmt.decode(row.fmt.encode(Fraction(row.start) + panel.state.delta)) or math.isnan(row.result)
        assert "<b>" not in panel.frame["html"] and panel.table(panel.state) and panel.text(panel.state)
        assert len(panel.frame["html"]) < 40_000  # one small message for each action


@pytest.mark.parametrize("box", ["x", "delta"])
@pytest.mark.parametrize("typed", ["zz", "inf", "nan", "-inf", "", "1/0"])
def test_what_has_no_place_on_the_line_is_refused_and_the_picture_kept(box, typed):
    before = start()
    state = do(before, box, typed)
    assert (state.x, state.delta, state.zoom) == (before.x, before.delta, before.zoom)
    kept = {"x": "x = 1", "delta": "delta = 0"}[box]
    assert alert(state).endswith(f"The panel still shows {kept}.") and draft(state, box) == typed


@pytest.mark.parametrize("typed", ["0x3C00", "inf", "zz"])
def test_a_text_that_made_no_sense_stays_until_its_own_box_is_edited(typed):
    stuck = do(start(), "x", typed)
    for act, value in (("delta", "0.001"), ("slide", "9"), ("zoom 1", ""), ("fit", ""), ("format 1", "FP32"), ("add", ""), ("remove", "")):
        after = do(stuck, act, value)
        assert draft(after, "x") == typed and alert(after) == alert(stuck) and draft(after, "delta") == after.delta_text
    for act, value in (("x", "3"), ("nudge 1", ""), ("scale 1", ""), ("preset 0", ""), ("restart", "")):
        after = do(stuck, act, value)
        assert draft(after, "x") == after.x_text and not alert(after)
    both = do(stuck, "delta", "nonsense")
    assert draft(both, "x") == typed and draft(both, "delta") == "nonsense" and alert(both).count("still shows") == 2
    assert alert(do(both, "slide", "3")) == alert(stuck)
    assert alert(do(both, "x", "yy")).count("still shows") == 2  # one message for each box, the newest


def test_a_code_is_sent_to_the_bit_panel():
    assert "codes such as 0x3C00 work in the BitPanel; here type a number" in alert(do(start(), "x", "0x3C00"))
    assert do(start(), "x", "0x1.8p1").x == 3


def test_start_over_brings_formats_numbers_and_window_back():
    first = start(["FP16", "BF16"], "2", "0.5")
    state = first
    for act, value in (("preset 7", ""), ("add", ""), ("zoom 1", ""), ("format 0", "FP32"), ("x", "zz")):
        state = do(state, act, value)
        assert do(state, "restart") == first != state and view(do(state, "restart")) == view(first)
    assert do(first, "restart") == first


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(FORMATS)), min_size=1, max_size=5), st.fractions(-600, 600) | st.integers(-160, 130).map(lambda e: Fraction(2) ** e))
def test_the_slider_reaches_a_gap_of_the_coarsest_format_with_few_stops(names, x):
    fmts = [FORMATS[name] for name in names]
    stops, step, _, _, _ = delta_slider(fmts, x)
    starts = [(fmt, fmt.decode(fmt.encode(x))) for fmt in fmts]
    gaps = [Fraction(fmt.ulp(start)) for fmt, start in starts if math.isfinite(start)]
    assert 96 <= stops <= 200 and step.numerator & (step.numerator - 1) == 0 and step.denominator & (step.denominator - 1) == 0
    if gaps:
        assert stops * step == max(3 * gaps[0], *gaps)
        assert step >= min(gaps) / 32 and (step == min(gaps) / 32 or stops * 2 > 200)  # no finer than useful, no coarser than it must be


def test_the_slider_takes_bf16_to_its_upper_neighbour_beside_fp16():
    state = start(["FP16", "BF16"], "1")
    page = view(state)
    assert "delta, ±2<sup>−7</sup>, one gap of BF16" in page and "3 ulp of FP16" in view(start(["FP16"], "1"))
    last = int(re.search(r'max="(\d+)"', page)[1])
    ends = [do(state, "slide", str(stop)) for stop in (last, -last, 10 * last)]
    assert [end.delta for end in ends] == [Fraction(BF16.ulp(1)), -Fraction(BF16.ulp(1)), Fraction(BF16.ulp(1))]
    assert landings(ends[0])[1].result == BF16.neighbours(1)[1] and f'value="{last}"' in view(ends[0])
    half = [landings(do(state, "slide", str(last // 2 + by)))[1].result for by in (0, 1)]
    assert half == [1, BF16.neighbours(1)[1]]  # the tie and the stop beyond it
    assert 'aria-valuetext="8 ulp of FP16"' in view(ends[0])


def test_the_legend_names_what_is_drawn_at_this_zoom():
    def legend(state):
        return re.findall("<span>([^<]*)</span>", view(state).split('class="cp-legend">')[1].split("</p>")[0])

    number, middle, dense, circle = "| a number of the format", "◇ half-way: a tie", "shaded: numbers too dense to draw", "○ x + delta before rounding"
    assert legend(start(["FP16"], "1")) == [number, middle]
    assert legend(start(["FP16"], "1", "2^-12")) == [number, middle, circle]
    assert legend(start(["FP16", "BF16", "FP32"], "1")) == [number, middle, dense]
    wide = start(["FP16"], "1")
    for _ in range(4):
        wide = do(wide, "zoom 1")
    assert legend(wide) == [number]  # ticks that are too near for marks between them
    for _ in range(6):
        wide = do(wide, "zoom 1")
    assert dense in legend(wide) and middle not in legend(wide)


def test_small_powers_of_two_are_written_as_such():
    assert do(start(["FP16"], "2^-24"), "scale -1").x_text == "2^-25" and do(start(["FP16"], "-2^-24"), "scale -1").x_text == "-2^-25"


def test_the_slider_moves_delta_in_parts_of_an_ulp_of_the_first_format():
    state = do(start(["FP16"], "1"), "slide", "16")
    assert state.delta == Fraction(FP16.ulp(1)) / 2 and finite(state.delta_text) == state.delta
    assert do(start(["FP16"], "2^-24"), "slide", "5").delta == Fraction(5, 32) * Fraction(FP16.min_subnormal)
    assert finite(do(start(["FP32"], "2^-140"), "slide", "-5").delta_text) == -Fraction(5, 32) * Fraction(2) ** -149


def test_moving_x():
    state = start(["FP16"], "1")
    assert do(state, "nudge 1").x == Fraction(FP16.neighbours(1)[1]) and do(state, "nudge -1").x == Fraction(FP16.neighbours(1)[0])
    assert do(state, "scale 1").x == 2 and do(state, "scale -1").x == Fraction(1, 2)
    assert "no number further up" in do(start(["E4M3"], "448"), "nudge 1").message
    for _ in range(1100):
        state = do(state, "scale 1")
    assert "far outside" in state.message


def test_the_window_fits_the_coarsest_format_and_zooms_by_two():
    state = start(["FP16", "BF16"], "1")
    assert state.window == (1 - Fraction(1, 64), 1 + Fraction(1, 64))
    wide, close = do(state, "zoom 1"), do(state, "zoom -1")
    assert wide.window[1] - 1 == Fraction(1, 32) and close.window[1] - 1 == Fraction(1, 128)
    assert do(wide, "fit") == state


def test_formats_are_added_up_to_five_and_one_stays():
    state = start(["FP16"])
    for _ in range(6):
        state = do(state, "add")
    assert len(state.fmts) == 5 == len(set(state.fmts)) and "Five formats" in state.message
    for _ in range(6):
        state = do(state, "remove")
    assert len(state.fmts) == 1 and "has to stay" in state.message


@pytest.mark.parametrize("number, words", [(0, "changes nothing in FP16 and BF16"), (1, "nothing in BF16; FP16 gives 1.0009765625"), (3, "nothing in FP16; FP32 gives 2049"),
                                           (4, "nothing in BF16; FP16 gives 257"), (6, "nothing in FP16; BF16 gives"), (7, "nothing in E4M3")])  # fmt: skip
def test_presets_show_what_they_are_called(number, words):
    assert words in say(do(start(), f"preset {number}"))


def test_the_sentence_names_the_asymmetry_and_the_floor():
    assert "gap above x is 2⁻¹⁰, the gap below only 2⁻¹¹" in say(start(["FP16"], "1"))
    assert "gap below x is 2⁻¹⁰, the gap above only 2⁻¹¹" in say(start(["FP16"], "-1"))
    assert "both sides. These are subnormals" in say(start(["FP16"], "2^-20"))
    assert "last number" in say(start(["FP16"], "65504")) and "beyond 65504" in say(start(["FP16"], "1e6"))


def test_drawing_and_table_agree_on_the_result():
    state = start(["FP16", "BF16"], "1", "0.001")
    assert re.findall(r"→ ([\d.]+)<", view(state)) == ["1.0009765625", "1"]
    assert "1.0009765625" in table(state) and "lost: less than half" in text(state)


@pytest.mark.parametrize("fmts, x, words", [([], 1, "one to five"), (["FP16"], "inf", "no place"), (["FP16"], "q", "not a number"), (["F"], 1, "'F'")])
def test_a_ruler_that_cannot_start_says_why(fmts, x, words):
    with pytest.raises(ValueError, match=words):
        UlpRuler(fmts, x)


@pytest.mark.parametrize("typed", ["1e400", "1E4000", "-1e4000", "1e-4000"])
def test_numbers_far_outside_every_format_are_shown_out_of_sight(typed):
    for box in ("x", "delta"):
        panel = UlpRuler(["E2M1", "FP64"], "1", "0")
        panel.act({"act": box, "value": typed})
        assert "could not be done" not in panel.frame["html"]
