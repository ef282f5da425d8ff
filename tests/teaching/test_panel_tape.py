"""ScalerTape: the scaler is torch's, the two thresholds are FP16's, presets are what they are called, actions hold."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.teaching.panels.tape import (
    INTERVALS, KINDS, LARGE, LONGEST, LR, PRESETS, SCALES, SMALL, SPIKE, ScalerTape, replay, start, table, text, update, view,
)  # fmt: skip
from course.teaching.panels.tape_view import say

tapes = st.lists(st.sampled_from(KINDS), min_size=1, max_size=25)


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


def preset(name):
    return do(start(["ordinary"]), f"preset {list(PRESETS).index(name)}")


@settings(max_examples=60, deadline=None)
@given(tapes, st.sampled_from(SCALES), st.sampled_from(INTERVALS))
def test_the_tape_is_what_torchs_scaler_does(kinds, scale, interval):
    state = start(kinds, scale, interval)
    w = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    optimizer, scaler = torch.optim.SGD([w], lr=LR), torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)
    slopes = {"ordinary": (LARGE, SMALL), "spike": (LARGE * SPIKE, SMALL * SPIKE), "nan": (math.nan, math.nan)}
    scaler.scale(torch.ones(()))
    for step in replay(state):
        assert step.scale == scaler.get_scale()
        w.grad = (torch.tensor(slopes[step.kind]) * scaler.get_scale()).half().float()
        assert repr(step.gradients) == repr(tuple(w.grad.tolist()))
        scaler.step(optimizer)
        scaler.update()
        assert repr(step.weights) == repr(tuple(w.tolist()))
        assert (step.next_scale, step.next_good_steps) == (scaler.get_scale(), scaler.state_dict()["_growth_tracker"])


@pytest.mark.parametrize("exponent", range(0, 26))
def test_the_bands_of_the_drawing_are_where_the_steps_change(exponent):
    (step,) = replay(start(["ordinary"], 2.0**exponent))
    assert step.outcome == ("skipped" if exponent >= 18 else "w₂ lost" if exponent <= 5 else "stepped")
    drawn = view(start(["ordinary"], 2.0**exponent))
    boxes = [tuple(map(float, box)) for box in re.findall(r'<rect x="58" y="([\d.]+)" width="790" height="([\d.]+)"', drawn)]
    at = float(re.search(r'<path d="M453\.0 ([\d.]+)"', drawn)[1])
    inside = [top - 0.01 <= at <= top + height + 0.01 for top, height in boxes]
    assert inside == [exponent >= 18, exponent <= 5]


def outcomes(name):
    return [step.outcome for step in replay(preset(name))]


def test_presets_are_what_they_are_called():
    assert outcomes("a spike").count("skipped") == 1 and outcomes("a spike")[5] == "skipped"
    assert set(outcomes("a spike that does no harm")) == {"stepped"} and "spike" in preset("a spike that does no harm").kinds
    large = replay(preset("too large at the start"))
    assert [s.outcome for s in large] == ["skipped"] * 7 + ["stepped"] * 5 and large[-1].next_scale == 2.0**17
    small = outcomes("too small at the start")
    assert small == ["w₂ lost"] * 12 + ["stepped"] * 12
    assert (preset("a spike").at, preset("growth, until it is too much").at, preset("too small at the start").at) == (5, 8, 0)  # the telling step
    assert preset("a spike that does no harm").at == 3
    growth = replay(preset("growth, until it is too much"))
    assert [s.number for s in growth if s.skipped] == [9, 14, 19, 24] and max(s.scale for s in growth) == 2.0**18
    assert outcomes("a NaN for ten steps").count("skipped") == 10 and outcomes("a NaN for ten steps")[-1] == "stepped"


def test_a_nan_that_stays_ends_at_zero_and_spoils_the_first_clean_step():
    state = preset("a NaN in the model: forever")
    steps = replay(state)
    assert [s.outcome for s in steps] == ["stepped"] * 3 + ["skipped"] * 166 + ["spoiled"] * 3
    assert steps[167].next_scale == 2.0**-149 and steps[168].next_scale == 0.0 == steps[-1].next_scale
    assert steps[168].weights == steps[2].weights and state.at == 169
    assert "its reciprocal is Inf" in say(state) and "no numbers any more" in say(do(state, "by 1"))
    assert "no doubling brings it back" in say(do(state, "by -1")) and "reciprocal is Inf" in say(do(state, "at", "147"))
    assert "reciprocal" not in say(do(state, "at", "146"))  # 2^-127 still has one


def test_the_sentence_names_each_outcome():
    assert "Both weights move" in say(start(["ordinary"])) and "doubled" not in say(start(["ordinary"]))
    assert "that makes one good step, so the scale is doubled to 2¹⁷" in say(start(["ordinary"], growth_interval=1))
    assert "that makes 2 good steps, so the scale" in say(do(start(["ordinary"] * 2, growth_interval=2), "by 1"))
    assert "too large for FP16" in say(start(["spike"])) and "halving cannot cure it" in say(start(["nan"]))
    assert "w₂ stays where it is" in say(start(["ordinary"], 1.0)) and "Skipped: 1 of 1." in say(start(["nan"]))


def test_a_step_is_changed_added_and_taken_away():
    state = start(["ordinary"] * 3)
    for kind in ("spike", "nan", "ordinary"):
        state = do(state, "flip 1")
        assert state.kinds == ("ordinary", kind, "ordinary") and state.at == 1
    state = do(do(state, "add nan 10"), "add spike 1")
    assert len(state.kinds) == 14 and state.at == 13 and state.kinds[3:] == ("nan",) * 10 + ("spike",)
    assert do(state, "drop").at == 12 and do(do(state, "at", "2"), "drop").at == 1
    assert do(state, "at", "99").at == 13 and do(do(state, "at", "1"), "by -1").at == 0
    assert do(state, "scale", "0").init_scale == 1.0 and do(state, "interval", "4").growth_interval == 2000


def test_an_unusual_start_can_be_chosen_again():
    state = start(["ordinary"], 3.5, 7)
    assert ">7 × 2⁻¹</option>" in view(state) and ">7</option>" in view(state)
    other = do(do(state, "scale", "0"), "interval", "0")
    assert (other.init_scale, other.growth_interval) == (1.0, 1) and ">7</option>" in view(other)
    assert do(other, "restart") == state


def test_what_cannot_be_done_keeps_the_tape():
    panel = ScalerTape(["ordinary"])
    for act in ("drop", "flip 1", "flip -1", f"add nan {LONGEST}", "add bad 1", "fly"):
        panel.act({"act": act})
        assert "nothing was changed" in panel.frame["html"] and panel.state.kinds == ("ordinary",)


def test_the_page_shows_which_step_is_meant_and_what_each_one_was():
    page = view(preset("a spike"))
    assert page.count('aria-pressed="true"') == 1 and 'aria-label="step 6, spike, skipped: change it"' in page
    assert "✗ skipped" in page and "○ stepped" not in page and "○ stepped" in view(preset("too small at the start"))
    long = view(preset("a NaN in the model: forever"))
    assert long.count(": change it") == 16 and 'aria-label="step 170, ordinary, spoiled: change it"' in long


def test_table_and_text_merge_like_steps():
    state = preset("a NaN in the model: forever")
    assert "steps 4–169: nan, skipped, S 2¹⁶, good steps 3 → 0, then S 0" in text(state) and len(text(state).splitlines()) == 5
    assert "steps 1–12: ordinary, w₂ lost" in text(preset("too small at the start"))
    assert table(state).count("<tr>") == 4 and "4–169" in table(state) and say(state).split(".")[0] in table(state)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["flip 0", "flip 3", "add nan 10", "add ordinary 1", "drop", "by 1", "by -1", "restart", *(f"preset {i}" for i in range(len(PRESETS)))])
                | st.sampled_from([("scale", str(i)) for i in range(5)] + [("interval", str(i)) for i in range(5)] + [("at", "7")]), max_size=8))  # fmt: skip
def test_any_sequence_of_actions_can_be_shown(sequence):
    panel = ScalerTape()
    for action in sequence:
        act, value = (action, "") if isinstance(action, str) else action
        panel.act({"act": act, "value": value})
        assert "nothing was changed" not in panel.frame["html"] or act in ("drop", "flip 3")
        assert panel.table(panel.state) and panel.text(panel.state)


@pytest.mark.parametrize(("options", "words"), [({"steps": []}, "from 1 to 400"), ({"steps": ["bad"]}, "ordinary, spike, nan"),
                         ({"steps": "a spike of"}, "choose one of a spike, "), ({"init_scale": 0}, "positive number")])  # fmt: skip
def test_a_tape_that_cannot_start_says_why(options, words):
    with pytest.raises(ValueError, match=words):
        ScalerTape(**options)


def test_a_preset_by_name_is_the_one_behind_its_button():
    assert ScalerTape("a spike").state == preset("a spike")


def test_the_numbers_in_the_sentence_are_those_of_the_step():
    growth = preset("growth, until it is too much")
    assert "S × the largest gradient is 2¹⁶, too large for FP16, so Inf." in say(growth) and "halved to 2¹⁷" in say(growth)
    assert "S × the largest gradient is 2¹⁴, which FP16 holds." in say(do(growth, "at", "4")) and "makes 4 good steps, so the scale is doubled to 2¹⁷" in say(do(growth, "at", "4"))
    rows = text(growth).splitlines()[1:-1]
    assert [row.split(":")[0] for row in rows] == ["steps 1–8", "step 9", "steps 10–13", "step 14", "steps 15–18", "step 19", "steps 20–23", "step 24"]


def test_what_cannot_be_a_tape_is_refused():
    for options in ({"init_scale": 0.0}, {"init_scale": math.inf}):
        with pytest.raises(ValueError, match="positive number"):
            start(["ordinary"], **options)
    with pytest.raises(ValueError):
        do(start(["ordinary"]), "add whale 1")
