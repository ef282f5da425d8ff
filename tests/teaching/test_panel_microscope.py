"""SwampingMicroscope: fates and paths against torch, thresholds against every BF16 weight, every action, what is drawn."""

import html
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics import BF16, E4M3, FP16, FP32, round_to
from course.teaching.panels.microscope import MOST_STEPS, PRESETS, SIZES, SwampingMicroscope, size_stop, start, update, walk
from course.teaching.panels.microscope_view import crowd_bars, facts, fate, say, table, text, thresholds, view, window

weights = st.integers(0x3000, 0x5000).map(BF16.decode) | st.integers(0xB000, 0xD000).map(BF16.decode)
shares = st.floats(-2, 2, allow_nan=False).map(lambda v: np.float32(v).item())


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


def alert(state):
    return html.unescape(re.search('role="alert">([^<]*)<', view(state))[1])


# ---- what it says is what torch does


@given(weights, shares)
@settings(max_examples=300, deadline=None)
def test_a_step_is_torchs_bf16_addition(w, share):
    delta = share * BF16.ulp(w)
    state = start("BF16", w, delta)
    stored = torch.tensor(w, dtype=torch.bfloat16)
    after = (stored.double() + delta).float()  # exact: 24 bits are enough for both
    if Fraction(after.item()) != Fraction(w) + Fraction(delta):
        return
    after = after.bfloat16()
    assert walk(BF16, Fraction(w), Fraction(delta), 1)[-1] == after.item()
    assert ("lost" in fate(state)) == bool(delta and after == stored)


def test_thresholds_of_every_normal_weight_are_those_found_by_trying():
    """For all positive BF16 codes from 2⁻²⁰ to 2²⁰: at the threshold even codes stay and odd ones move, a hair beyond all move."""
    for code in range(BF16.encode(2.0**-20), BF16.encode(2.0**20), 7):
        w = BF16.decode(code)
        down, up = thresholds(BF16, w)
        for half, sign in ((down, -1), (up, 1)):
            hair = half / 2**20
            assert BF16.decode(BF16.encode(Fraction(w) + sign * (half - hair))) == w
            assert BF16.decode(BF16.encode(Fraction(w) + sign * (half + hair))) != w
            assert (BF16.decode(BF16.encode(Fraction(w) + sign * half)) == w) == (code % 2 == 0)


@pytest.mark.parametrize(
    "fmt, w, delta, found",
    [
        ("BF16", "1", "2^-8", "tie lost"), ("BF16", "1.0078125", "2^-8", "tie moves"), ("BF16", "1", "-2^-9", "tie lost"), ("BF16", "1", "-0.00196", "moves"),
        ("BF16", "1.23456", "-0.0001", "lost"), ("FP32", "1.23456", "-0.0001", "moves"), ("BF16", "1", "0", "nothing"), ("BF16", "256", "1", "tie lost"),
        ("FP16", "65504", "16", "end"), ("FP16", "65472", "80", "overflow"), ("E4M3", "448", "1", "end"), ("BF16", "1e39", "1", "end"),
    ],
)  # fmt: skip
def test_each_fate_and_its_sentence(fmt, w, delta, found):
    state = start(fmt, w, delta)
    assert fate(state) == found
    words = {
        "tie lost": "a tie, and the stored number is the even one", "tie moves": "the other number is the even one", "lost": "loses this update: it is",
        "moves": "moves: the update is", "nothing": "moves nothing", "end": "has no number further up", "overflow": "overflows: the sum is beyond 65504",
    }  # fmt: skip
    assert words[found] in say(state)
    assert view(state) and table(state) and text(state)


def test_many_steps_go_where_a_loop_goes():
    for fmt, w, delta, steps in ((BF16, "1", "0.005", 300), (BF16, "250", "1", 20), (FP16, "1.5", "-0.0004", 1000), (E4M3, "1", "0.1", 50), (FP32, "1", "1e-4", 2000)):
        state = do(start(fmt, w, delta), f"step {steps}")
        value = fmt.decode(fmt.encode(state.w))
        for _ in range(steps):
            value = fmt.decode(fmt.encode(Fraction(value) + state.delta))
        assert state.stored == value and state.exact == state.w + steps * state.delta


def test_steps_in_words():
    assert say(do(start("BF16", 1, "-3e-4"), "step 1000")).endswith("Nothing has moved in 1000 steps, and nothing ever will.")
    stalled = do(start("BF16", 250, 1), "step 10")
    assert stalled.stored == 256 and "It stalled after 6 steps; now, after 10, it is 40 % of the way off." in say(stalled)
    assert "After 4 steps it is exactly right." in say(do(start("BF16", 1, "2^-7"), "step 4"))
    assert "has no number further up than 448. Nothing has moved in 2 steps" in say(do(start("E4M3", 448, 1), "step 2"))


# ---- actions


def test_actions():
    state = start()
    assert state.stored == 1.234375 and do(state, "step 10").steps == 10 and do(do(state, "step 10"), "back").steps == 0
    assert do(state, "nudge 1").stored == 1.2421875 and do(state, "nudge -1").stored == 1.2265625
    assert do(state, "scale 1").stored == 2.46875 and do(state, "scale -1").stored == 0.6171875
    assert do(state, "turn").delta == -state.delta and do(state, "zoom 1").zoom == 1
    assert do(do(state, "step 10"), "turn").steps == 0  # another update is another story
    assert do(state, "format", "FP32").fmt == FP32
    assert do(do(state, "step 1000"), "restart") == state
    limited = do(do(state, f"step {MOST_STEPS}"), "step 1")
    assert limited.steps == MOST_STEPS and f"{MOST_STEPS} steps are as far as this goes" in alert(limited)
    with pytest.raises(Exception):
        do(state, "fly")


def test_moving_keeps_to_the_format():
    last = start("FP16", 65504, 1)
    assert do(last, "nudge 1").stored == 65504 and "no number further up" in alert(do(last, "nudge 1"))
    assert do(last, "scale 1").stored == 65504 and "outside FP16" in alert(do(last, "scale 1"))
    least = start("FP16", "2^-24", 1)
    assert do(least, "scale -1").stored == 2.0**-24


def test_nonsense_stays_in_its_box_and_changes_nothing():
    state = do(start(), "w", "heavy <b>")
    assert state.w == start().w and "'heavy <b>' is not a number" in alert(state) and 'value="heavy &lt;b&gt;"' in view(state)
    both = do(state, "delta", "inf")
    assert "no place" in alert(both) and both.delta == start().delta
    assert alert(do(do(both, "w", "2"), "delta", "0.5")) == "" and do(do(both, "w", "2"), "delta", "0.5").w == 2


@pytest.mark.parametrize("stop", [SIZES[0], -33, -32, -31, 0, 3, SIZES[-1]])
def test_the_slider_sets_exactly_what_its_stop_means(stop):
    state = do(start("BF16", 1, "-1e-4"), "size", str(stop))
    assert state.delta == -(1 + Fraction(stop % 4, 4)) * Fraction(2) ** (stop // 4) and size_stop(state.delta) == stop
    again = do(state, "delta", state.delta_text)  # the text in the box is read back as the same number
    assert again.delta == state.delta


@pytest.mark.parametrize("number", range(len(PRESETS)))
def test_presets(number):
    state = do(start("FP32", 3, 1, weights=[1.0, 2.0]), f"preset {number}")
    name = list(PRESETS)[number]
    assert state.crowd is not None and not alert(state)
    wanted = {"tie": "tie", "FP32": "moves", "norm": "lost", "0.01": "moves", "decay": "lost", "web": "lost", "half as much": "moves", "counter": "moves"}
    assert any(key in name and word in fate(state) for key, word in wanted.items())


# ---- the crowd


def test_the_crowd_is_counted_as_rounding_would():
    sizes = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * 0.05
    sizes[:3] = 0
    state = start("BF16", "0.1", "1e-4", weights=torch.from_numpy(sizes))
    stored = round_to(torch.from_numpy(np.abs(sizes[sizes != 0])).double(), BF16)
    moved = (round_to(stored - float(state.delta), BF16) != stored).numpy()
    bars = crowd_bars(state)
    assert sum(m for _, m, _ in bars) == moved.sum() and sum(t for *_, t in bars) == 4997
    for exponent, m, total in bars[1:]:
        inside = (np.abs(sizes[sizes != 0]) >= 2.0**exponent) & (np.abs(sizes[sizes != 0]) < 2.0 ** (exponent + 1))
        assert (m, total) == (moved[inside].sum(), inside.sum())
    few = crowd_bars(state, most=3)
    assert len(few) == 3 and few[1:] == bars[-2:] and sum(t for *_, t in few) == 4997
    assert f"Of the 4997 nonzero weights {100 * moved.mean():.1f} % would move" in say(state)
    assert "weights below" in text(state) and "weights below" in table(state) and "<rect" in view(state)


def test_small_weights_move_and_large_ones_do_not():
    bars = crowd_bars(start("BF16", 1, "1e-4", weights=[2.0**-7, 2.0**-6, 2.0**-4, 1.0]))
    assert [moved for _, moved, total in bars if total] == [1, 1, 0, 0]


def test_a_crowd_of_anything_else_is_refused():
    with pytest.raises(ValueError, match="finite"):
        start(weights=[1.0, math.nan])
    with pytest.raises(ValueError, match="one at least"):
        start(weights=[])


# ---- what is drawn


def test_the_shaded_stretch_is_that_of_the_thresholds():
    state = start("BF16", 1, "1e-3")
    low, high = window(state)
    x, width = map(float, re.search(r'<rect x="([\d.]+)" y="52" width="([\d.]+)" height="52"', view(state)).groups())
    per_unit = 704 / float(high - low)
    assert x == pytest.approx(8 + (1 - 2**-9 - float(low)) * per_unit, abs=0.2)
    assert width == pytest.approx((2**-9 + 2**-8) * per_unit, abs=0.2)


def test_zoom_widens_the_view_by_two():
    low, high = window(start("BF16", 1, "1e-3"))
    wide = window(do(start("BF16", 1, "1e-3"), "zoom 1"))
    assert wide[1] - wide[0] == 2 * (high - low) == 8 * Fraction(1, 128)


def test_facts_say_on_which_side_how_much_is_lost():
    lost = dict(facts(start("BF16", 1, "1e-3")))["lost"]
    assert lost == "up by as much as 2⁻⁸ (0.00390625); down by as much as 2⁻⁹ (0.001953125)"
    assert dict(facts(start("BF16", "1.0078125", "1e-3")))["lost"] == "up by less than 2⁻⁸ (0.00390625); down by less than 2⁻⁸ (0.00390625)"


def test_the_path_shows_where_both_weights_end():
    page = view(do(start("BF16", 250, 1), "step 10"))
    assert "BF16: 256" in page and "exact: 260" in page and "step 10" in page


def test_quick_enough_for_a_drag():
    import time

    state = do(start("BF16", "0.1", "1e-4", weights=np.linspace(-1, 1, 30_000)), "step 1000")
    view(state)
    before = time.process_time()
    for stop in range(-60, -40):
        view(do(state, "size", str(stop)))
    assert (time.process_time() - before) / 20 < 0.05


def test_panel_in_python():
    lens = SwampingMicroscope(E4M3, 1, "2^-5")
    assert lens.act({"act": "step 3"}).steps == 3
    kept = lens.state
    assert lens.act({"act": "nonsense"}) == kept and "could not be done" in lens.frame["html"]
    with pytest.raises(ValueError, match="no format"):
        SwampingMicroscope("FP12")


def test_ends_of_moves():
    state = do(start(), "step 10")
    assert do(state, "format", "FP16").steps == 0 and do(do(state, "turn"), "turn").delta_text == state.delta_text
    for act, limit in (("zoom 1", 12), ("zoom -1", -3)):
        zoomed = start()
        for _ in range(20):
            zoomed = do(zoomed, act)
        assert zoomed.zoom == limit
    assert do(start("BF16", 0, 1), "scale 1").stored == 0 and not alert(do(start("BF16", 0, 1), "scale 1"))
    gone = do(start("E5M2", 49152, 10000), "step 5")
    assert math.isinf(gone.stored) and len(gone.path) == 3 and say(gone).endswith("It has left the format after 2 steps.")
    assert say(do(start("BF16", 250, 1), "step 6")).endswith("After 6 steps it is exactly right.")  # it stalls with the next one


def test_the_rows_of_a_crowd_are_named_by_their_borders():
    said = text(start("BF16", 1, "5e-5", weights=[2.0**-7, 2.0**-6, 1.5 * 2.0**-6]))
    assert "weights from 2⁻⁶: 1 of 2 move" in said and "weights below 2⁻⁶: 1 of 1 move" in said
