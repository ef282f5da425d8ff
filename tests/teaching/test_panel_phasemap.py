"""PhaseMap: its map is the record's, its remedies are on the map, every action and every condition can be shown."""

import re

import numpy as np
import pytest

from course.teaching.panels import phasemap
from course.teaching.panels.phasemap import (
    BUDGETS, CLASSES, PRESETS, PhaseMap, PhaseState, class_of, medians, remedies, splits, table, text, trains, update, view,
)  # fmt: skip
from course.teaching.panels.phasemap_view import facts, number, say
from course.training.phase import SCALING, STORED, Condition, conditions, format_of, load


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


@pytest.mark.parametrize("condition", conditions(), ids=lambda c: c.key)
def test_every_recorded_map_is_shown_cell_by_cell(condition):
    state = PhaseState(condition.task, int(condition.lr < 1e-3), condition.stored, condition.scaling)
    assert state.condition == condition
    shown, losses = view(state), medians(condition)
    cells = re.findall(r'data-act="cell (\d) (\d+)"[^>]*aria-label="[^"]*, ([^"]*)"[^>]*>(.) ([^<]*)<', shown)
    assert len(cells) == 77 and shown.count("2px dashed") == 6
    for e, m, kind, mark, words in cells:
        loss = losses[int(e) - 2, int(m)]
        assert kind == class_of(condition, loss) and mark == dict(zip(CLASSES, "=+!×"))[kind] and words == number(loss)
    assert all(words in text(state) and words in table(state) for *_, words in cells)


def test_medians_count_lost_runs_as_the_worst(monkeypatch):
    final = load().final(Condition())
    few, most = final.copy(), final.copy()
    few[0, 0, :2], most[0, 0, :3] = np.nan, np.nan
    for broken, lost in ((few, False), (most, True)):
        monkeypatch.setattr(type(load()), "final", lambda self, condition, broken=broken: broken)
        assert np.isinf(medians(Condition())[0, 0]) == lost
    assert number(float("inf")) == "lost"
    losses = medians(Condition())
    for loss, words in {1234.4: "E2M0 ends at 1234 (", 0.12344: "E2M0 ends at 0.123 ("}.items():
        monkeypatch.setattr(phasemap, "medians", lambda condition, loss=loss: np.where(np.arange(77).reshape(7, 11) == 0, loss, losses))
        assert words in say(PhaseState(e=2, m=0))


def test_classes_by_their_borders():
    top = 1.25 * float(np.median(load().reference(Condition())))
    borders = {top: "as FP32", top * 1.001: "worse", 1.151: "worse", 1.152: "hardly", 2.072: "hardly", 2.073: "not at all", np.inf: "not at all"}
    assert {loss: class_of(Condition(), loss) for loss in borders} == borders
    slow = Condition("waves", 4e-4)  # FP32 itself is not far below guessing: a quarter above it would be nearly that
    reference = float(np.median(load().reference(slow)))
    near = np.log(10) - 0.9 * (np.log(10) - reference)
    assert reference < near < 1.25 * reference and (class_of(slow, near), class_of(slow, near * 1.001)) == ("as FP32", "hardly")


def test_a_remedy_is_a_place_on_a_map_that_trains():
    nearest = Condition(stored="nearest", scaling="loss")
    assert remedies(nearest, 8, 3) == ["FP32 masters", "stochastic rounding of the updates", "10 mantissa bits"]
    assert trains(Condition(stored="stochastic", scaling="loss"), 8, 3) and not trains(nearest, 8, 3)
    assert "a loss scale" in remedies(Condition(), 4, 3) and "8 exponent bits" in remedies(Condition(), 4, 3)
    assert remedies(Condition(), 8, 0) == ["10 mantissa bits"] and remedies(Condition(), 8, 10) == []
    assert "a scale per tensor" in remedies(Condition(), 3, 3) and "a loss scale" not in remedies(Condition(), 2, 0)
    assert "No single change" in say(PhaseState(e=2, m=0, stored="nearest")) and "Mended by" in say(PhaseState())


def test_splits_of_a_budget():
    assert [(e, m) for e, m, _ in splits(Condition(), 4)] == [(2, 1), (3, 0)]
    assert [(e, m) for e, m, _ in splits(Condition(), 16)] == [(5, 10), (6, 9), (7, 8), (8, 7)]
    assert splits(Condition(), 8)[3][2] == medians(Condition())[3, 2]
    assert "With 8 bits E5M2 is best of 6 splits" in say(PhaseState()) and "No split of 4 bits learns" in say(PhaseState(e=2, m=1))
    assert "With 16 bits all 4 splits do alike (0.0331, none more" in say(PhaseState(e=5, m=10))
    assert say(PhaseState(e=8, m=10)).endswith("the only split of 19 bits on this map.")
    for budget in range(7, 15):  # named are those within a tenth of the best, as the sentence says
        lot = splits(Condition(), budget)
        best = min(loss for *_, loss in lot)
        near = [f"E{e}M{m}" for e, m, loss in lot if loss <= best + best / 10]
        words = f"With {budget} bits {' and '.join(near)} {'is' if len(near) == 1 else 'are'} best of {len(lot)} splits"
        assert words in say(PhaseState(e=lot[0][0], m=lot[0][1])) and len(near) < len(lot)


def test_every_action():
    state = PhaseState()
    assert do(state, "task 1").condition == Condition("waves", 4e-3) and do(state, "rate 1").condition.lr == 2e-4
    assert [do(state, f"stored {i}").stored for i in range(3)] == list(STORED)
    assert [do(state, f"scaling {i}").scaling for i in range(3)] == list(SCALING)
    assert (do(state, "cell 8 7").e, do(state, "cell 8 7").m) == (8, 7)
    assert do(state, "down").e == 5 and do(state, "up").e == 3 and do(do(state, "cell 8 0"), "down").e == 8 and do(do(state, "cell 2 0"), "up").e == 2
    assert [(s.e, s.m) for s in (do(state, f"preset {i}") for i in range(len(PRESETS)))] == list(PRESETS.values())
    assert do(state, "budget", "12").budget == 12 and do(state, "budget", "99").budget == BUDGETS[-1] == 19 and do(state, "budget", "1").budget == 3
    assert do(do(state, "cell 8 7"), "restart") == state
    assert [do(state, "split", value).e for value in ("2", "5", "8", "0")] == [2, 5, 7, 2]  # seven exponent bits leave none for a mantissa
    with pytest.raises(ValueError, match="is no action"):
        do(state, "jump")


def test_a_format_of_ones_own_lies_on_the_budget():
    """Both sliders point at a split of the budget; what they show is what the map is asked."""
    for budget in BUDGETS:
        lot = [(e, m) for e, m, _ in splits(Condition(), budget)]
        assert phasemap.ends(budget) == (lot[0][0], lot[-1][0])
        moved = do(PhaseState(), "budget", str(budget))
        assert (moved.e, moved.m) in lot and 1 + moved.e + moved.m == budget
        for e in range(1, 10):
            own = do(moved, "split", str(e))
            assert (own.e, own.m) == min(lot, key=lambda place: abs(place[0] - e))
            assert f"Your split: E{own.e}M{own.m}" in view(own) and f'value="{own.e}" data-act="split"' in view(own)
    assert say(PhaseState()).endswith("Your split is number 3 of 6.") and say(PhaseState(e=5, m=2)).endswith("Your split is number 1 of 6.")
    for e, m in ((8, 7), (2, 0), (8, 10)):  # a click on the map moves both sliders
        pointed = do(PhaseState(), f"cell {e} {m}")
        assert pointed.budget == 1 + e + m and f"Bit budget: {1 + e + m}" in view(pointed) and f"Your split: E{e}M{m}" in view(pointed)


def test_what_was_not_recorded_is_said():
    tensor = do(PhaseState(), "scaling 2")
    moved = do(tensor, "stored 1")
    assert (moved.stored, moved.scaling) == ("nearest", "loss") and "recorded with FP32 masters only" in moved.message and moved.message in view(moved)
    back = do(do(PhaseState(), "stored 2"), "scaling 2")
    assert (back.stored, back.scaling) == ("master", "tensor") and back.message and not do(back, "cell 3 3").message
    for words, match in (({"e": 9}, "E9M3 is not on the map"), ({"m": 11}, "E4M11"), ({"stored": "nearest", "scaling": "tensor"}, "stored='master' only"),
                         ({"stored": "x"}, "stored='x' is unknown")):  # fmt: skip
        with pytest.raises(Exception, match=match):
            PhaseMap(**words)


def test_the_facts_of_a_format():
    rows = dict(facts(PhaseState(e=5, m=10))[1])
    assert (rows["smallest number"], rows["smallest normal"], rows["largest"], rows["eps"]) == ("2⁻²⁴", "2⁻¹⁴", "65504", "2⁻¹⁰")
    assert rows["final loss, five seeds"].split() == [number(loss) for loss in sorted(load().final(Condition())[3, 10])]
    assert rows["FP32"].split() == [number(loss) for loss in sorted(load().reference(Condition()))]
    assert f"E4M3 ends at {format_of(4, 3).max:g}, E2M1 at 3" in view(PhaseState()) and format_of(4, 3).max == 240
    overflowing = dict(facts(PhaseState(e=2, m=0))[1])
    assert overflowing["steps skipped by overflow"] == f"{100 * load().skipped(Condition(), 2, 0):.1f} %"
