"""UnderflowWindow: its shares against the rounding itself, what is drawn against the counts, and every action."""

import html
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics import BF16, E4M3, E5M2, FORMATS, FP16, FloatFormat, round_to
from course.teaching.panels.window import CHOICES, PRESETS, SCALES, Sizes, UnderflowWindow, fate, largest_power, own_format, start, update
from course.teaching.panels.window_view import HIGH, LOW, bars, percent, place, say, table, text, view, zones
from course.training.counters import count_gradients

CONFIG = Path(__file__).parents[1] / "nbval.cfg"
DRAWS = np.random.default_rng(3)
SPREAD = torch.from_numpy((DRAWS.standard_normal(4000) * 2.0 ** DRAWS.uniform(-40, 2, 4000)).astype(np.float32))
SPREAD[:50] = 0
LAYERED = {0: {"first": SPREAD[:2000], "last": SPREAD[2000:]}, 10: {"first": SPREAD[:100], "last": SPREAD[100:300], "new": SPREAD[300:]}}


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


@pytest.mark.parametrize("power", [-16, -3, 0, 1, 12, 17, 40])
@pytest.mark.parametrize("fmt", [FP16, BF16, E4M3, E5M2, FORMATS["E2M1"], FloatFormat("E6M3", 6, 3)], ids=lambda fmt: fmt.name)
def test_shares_and_error_are_those_of_the_rounding(fmt, power):
    found = fate(start(SPREAD, fmt, power))
    assert found.count == count_gradients(SPREAD, fmt, 2.0**power)
    scaled = SPREAD.double() * 2.0**power
    rounded = round_to(scaled, fmt)
    flushed = (rounded == 0) & (SPREAD != 0)
    assert found.norms["flushed"] == pytest.approx((scaled[flushed].norm() / scaled.norm()).item(), rel=1e-12)
    assert sum(part**2 for part in found.norms.values()) == pytest.approx(1)
    if found.count.overflowed:
        assert found.error == math.inf
    else:
        assert found.error == pytest.approx(((rounded - scaled).norm() / scaled.norm()).item(), rel=1e-9)
    assert found.largest == scaled.abs().max()


@pytest.mark.parametrize("power", [-16, 0, 20, 40])
@pytest.mark.parametrize("name", ["FP16", "BF16", "E4M3", "E5M2"])
def test_the_bars_hold_every_entry_once_and_each_in_its_own_power_of_two(name, power):
    state = start(SPREAD, name, power)
    drawn, count = bars(state), fate(state).count
    for kind in ("flushed", "subnormal", "normal", "overflowed"):
        assert sum(kinds[kind] for _, kinds in drawn) == pytest.approx(count.share(kind))
    scaled = np.abs(SPREAD.double().numpy()[SPREAD.numpy() != 0]) * 2.0**power
    assert [k for k, _ in drawn] == list(range(LOW + 1, HIGH + 1))
    for k, kinds in drawn[1:-1]:
        assert sum(kinds.values()) == pytest.approx(np.mean((scaled > 2.0 ** (k - 1)) & (scaled <= 2.0**k)))
    assert sum(drawn[0][1].values()) == pytest.approx(np.mean(scaled <= 2.0 ** (LOW + 1)))
    assert sum(drawn[-1][1].values()) == pytest.approx(np.mean(scaled > 2.0 ** (HIGH - 1)))


def test_a_value_at_the_border_is_flushed_in_the_bar_below_it():
    state = start([2.0**-25, math.nextafter(2.0**-25, 1)])
    by_power = dict(bars(state))
    assert by_power[-25] == {"flushed": 0.5, "subnormal": 0, "normal": 0, "overflowed": 0}
    assert by_power[-24]["subnormal"] == 0.5


def test_the_zones_are_drawn_where_the_borders_are():
    found = zones(fate(start(SPREAD)).edges)
    assert found["subnormal"][0] == -25 and found["normal"][0] == pytest.approx(-14, abs=1e-3) and found["overflowed"][0] == math.log2(65520)
    assert place(LOW) < place(-25) < place(0) < place(HIGH) == place(HIGH + 9) and place(-80) == place(LOW)
    assert "subnormal" not in view(start(SPREAD, "BF16")).split("<svg")[1].split("</svg>")[0]  # BF16's lie far beyond the axis


def test_the_largest_scale_is_the_last_without_overflow():
    for name in CHOICES:
        state = start(SPREAD, name)
        power = largest_power(state)
        if power is None:
            assert count_gradients(SPREAD, FORMATS[name], 2.0 ** SCALES[0]).overflowed
            continue
        assert not count_gradients(SPREAD, FORMATS[name], 2.0**power).overflowed
        assert power == SCALES[-1] or count_gradients(SPREAD, FORMATS[name], 2.0 ** (power + 1)).overflowed
    assert do(start([1e30]), "largest").message == "FP16 overflows at every scale on the slider."
    assert largest_power(start([65504.0])) == 0 and largest_power(start([65520.0])) == -1


def test_steps_and_layers():
    state = start(LAYERED, step=10)
    assert start(LAYERED).step == "0" and (state.step, state.layer) == ("10", "all layers") and fate(state).count.total == 4000
    one = do(state, "layer", "new")
    assert fate(one).count.total == 3700
    assert fate(do(one, "step", "0")).count.total == 4000  # step 0 has no such layer: all of them
    assert fate(do(do(state, "layer", "first"), "step", "0")).count.total == 2000
    only = start({"weights": SPREAD})
    assert only.layer == "weights" and "Layer" not in view(only) and "Step" not in view(only)
    for act in ("step", "layer"):
        with pytest.raises(ValueError, match="there is no"):
            do(state, act, "nonsense")
    with pytest.raises(ValueError, match="there is no step '9': choose one of 0, 10"):
        start(LAYERED, step=9)
    with pytest.raises(ValueError, match="no gradients: give a tensor"):
        Sizes({})


def test_formats_of_ones_own_and_the_ones_that_cannot_be():
    state = do(do(start(SPREAD), "exponent 1"), "mantissa -1")
    assert (state.fmt.name, state.fmt.exponent_bits, state.fmt.mantissa_bits) == ("E6M9", 6, 9)
    assert '<option selected>E6M9</option>' in view(state) and do(do(state, "exponent -1"), "mantissa 1").fmt is FP16
    assert own_format(8, 7) is BF16 and own_format(5, 2) is E5M2
    assert own_format(4, 3).max == 240 and do(start(SPREAD, own_format(4, 3)), "format", "E4M3 (IEEE)").fmt.max == 240
    assert "go from 2 to 8 here" in do(start(SPREAD, "FP32"), "exponent 1").message
    assert "go from 0 to 23 here" in do(start(SPREAD, "FP32"), "mantissa 1").message
    assert set(FORMATS) - set(CHOICES) == {"FP64", "E8M0"}
    with pytest.raises(ValueError, match="E8M0 has no zero"):
        start(SPREAD, "E8M0")
    with pytest.raises(ValueError, match="power=99: choose a whole number from -16 to 40"):
        start(SPREAD, power=99)


def test_the_sentence_fits_the_state():
    assert say(start([0.0, 0.0])) == "All of these gradients are exactly zero: there is nothing to lose."
    assert "FP16 keeps every gradient at this scale" in say(start([1.0, 2.0]))
    assert say(start([65520.0, 1.0])).startswith("Too far: the largest gradient is beyond FP16's largest number")
    assert "50 % of the nonzero gradients overflow" in say(start([65520.0, 1.0]))
    assert "flushes 50 % of the nonzero gradients to zero; they carry 2.98e-08 of" in say(start([2.0**-25, 1.0, 0.0]))
    assert "Too far" in say(start([math.nan, 1.0])) and "Too far" in say(start([math.inf, 1.0]))


def test_no_share_is_rounded_to_all_or_nothing():
    assert percent(1 - 1e-9) == "99.9" and percent(1.0) == "100" and percent(0.0) == "0" and percent(1e-9) == "1e-07"


def test_every_measured_number_of_the_stored_texts_is_masked():
    """Gradients differ in the last digits between processors: without the numbers behind ≈ both texts must be the same."""
    pattern = next(line.removeprefix("regex: ") for line in CONFIG.read_text(encoding="utf-8").splitlines() if "≈" in line and line.startswith("regex"))
    for power in (0, 3):
        one, other = start(SPREAD, power=power), start(torch.nextafter(SPREAD, torch.ones(())) * 1.01, power=power)
        for shown in (text, table):
            assert shown(one) != shown(other)
            assert re.sub(pattern, "≈ N", shown(one)) == re.sub(pattern, "≈ N", shown(other))


actions = st.one_of(
    st.sampled_from(["double 1", "double -1", "largest", "exponent 1", "exponent -1", "mantissa 1", "mantissa -1", "restart"]).map(lambda act: {"act": act}),
    st.integers(0, len(PRESETS) - 1).map(lambda n: {"act": f"preset {n}"}),
    st.integers(-30, 60).map(lambda v: {"act": "scale", "value": str(v)}),
    st.sampled_from(CHOICES).map(lambda name: {"act": "format", "value": name}),
    st.sampled_from(["0", "10"]).map(lambda name: {"act": "step", "value": name}),
    st.sampled_from(["first", "last", "all layers"]).map(lambda name: {"act": "layer", "value": name}),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, max_size=12))
def test_any_sequence_of_actions_keeps_a_state_that_can_be_shown(sequence):
    panel = UnderflowWindow(LAYERED)
    for action in sequence:
        panel.act(action)
        assert "nothing was changed" not in panel.frame["html"], (action, panel.frame["html"][-200:])
        layers = LAYERED[int(panel.state.step)]
        shown = torch.cat(list(layers.values())) if panel.state.layer == "all layers" else layers[panel.state.layer]
        assert fate(panel.state).count == count_gradients(shown, panel.state.fmt, panel.state.scale)
        assert panel.state.power in SCALES and len(panel.frame["html"]) < 40_000
        assert panel.table(panel.state) and panel.text(panel.state)


def test_start_over_and_the_ends_of_the_slider():
    first = start(LAYERED, "BF16", 3, step=10)
    state = first
    for act, value in (("preset 2", ""), ("step", "0"), ("layer", "last"), ("exponent -1", ""), ("scale", "40")):
        state = do(state, act, value)
        assert do(state, "restart") == first != state
    assert do(state, "double 1").power == 40 and "slider ends at 2^40" in do(state, "double 1").message
    assert do(do(state, "scale", "-16"), "double -1").power == -16


def test_layer_names_are_escaped_and_the_slider_speaks():
    state = start({"<b>": SPREAD, "other": SPREAD}, power=16)
    assert "<b>" not in view(do(state, "layer", "<b>")) + table(do(state, "layer", "<b>"))
    assert 'aria-valuetext="2 to the power 16"' in view(state) and "= 65536" in html.unescape(view(state))


def test_presets_do_what_they_are_named_after():
    state = start(SPREAD)
    for number, name in enumerate(PRESETS):
        after = do(state, f"preset {number}")
        assert name.startswith(after.fmt.name)
        assert after.power == (0 if "no scaling" in name else 16 if "2¹⁶" in name else after.power)
        if "largest" in name:
            assert after.power == largest_power(after)
        assert bool(fate(after).count.overflowed) == ("too far" in name or (after.fmt.name, after.power) == ("FP16", 16) and largest_power(after) < 16)


def test_a_large_model_answers_within_a_tenth_of_a_second():
    panel = UnderflowWindow(np.tile(SPREAD.numpy(), 100))  # 400 000 gradients
    panel.act({"act": "scale", "value": "1"})
    begun = time.process_time()
    for power in range(2, 12):
        panel.act({"act": "scale", "value": str(power)})
    assert (time.process_time() - begun) / 10 < 0.1


def test_a_format_without_infinity_does_not_spoil_the_step():
    assert "beyond E2M1's largest number, which takes its place. 50 %" in say(start([9.0, 1.0], "E2M1"))
    assert "skipped or spoilt" in say(start([500.0, 1.0], "E4M3"))  # where NaN takes its place


def test_borders_in_words_say_to_which_side_the_tie_belongs():
    assert "from 65520 " in text(start([1.0])) and "above 464 " in text(start([1.0], "E4M3")) and "from 61440 " in text(start([1.0], "E5M2"))


def test_a_nan_has_its_place_at_the_end_and_a_message_goes_with_the_next_action():
    assert sum(sum(kinds.values()) for _, kinds in bars(start([math.nan, 1.0]))) == 1 and bars(start([math.nan, 1.0]))[-1][1]["overflowed"] == 0.5
    state = do(start([1e30]), "largest")
    assert state.message and not do(state, "double 1").message
    too_far = do(start(SPREAD), f"preset {list(PRESETS).index('FP16, one doubling too far')}")
    assert too_far.power == largest_power(too_far) + 1
