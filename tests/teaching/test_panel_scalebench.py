"""ScaleBench: what it shows are the course's own quantisations, and every action."""

import html
import math
import re
import time

import pytest
import torch

from course.numerics import E2M1, E4M3
from course.numerics.scales import quality, scaled
from course.teaching.panels.parts import rich
from course.teaching.panels.scalebench import (
    NONE, OUTLIERS, PLACE, PRESETS, RECIPES, SIZES, Numbers, ScaleBench, results, start, table, text, update, view,
)  # fmt: skip
from course.teaching.panels.scalebench_view import decibel, place, say


def do(state, act, value=None):
    return update(state, {"act": act} | ({} if value is None else {"value": str(value)}))


def test_the_tensor_is_what_the_sliders_say():
    numbers = Numbers()
    for outlier, size in ((8, 0), (12, -14), (3, 5)):
        x, before = numbers.at(outlier, size)
        assert x[PLACE] == 2.0 ** (outlier + size) and before.double().square().mean().sqrt() == pytest.approx(2.0**size, rel=1e-6)
        x[PLACE] = before[PLACE]
        assert torch.equal(x, before) and torch.equal(before, numbers.matrix * 2.0**size)
    assert torch.equal(*numbers.at(NONE, 0))


def test_results_are_the_courses_own():
    state = start(outlier=6)
    x, _ = state.numbers.at(6, 0)
    for name, quantised in (("FP4, one scale", scaled(x, E2M1)), ("E4M3, 1 × 128", scaled(x, E4M3, (1, 128)))):
        found, kept = results(state)[name], quality(x, quantised)
        assert (found.sqnr, found.flushed, found.saturated, found.bits) == (kept.sqnr, kept.flushed, kept.saturated, kept.bits_per_value)
        without = torch.ones_like(x, dtype=torch.bool)
        without[PLACE] = False
        signal, noise = x[without].double(), (quantised.dequantise() - x)[without].double()
        assert found.rest == pytest.approx(10 * math.log10(signal.square().sum() / noise.square().sum()), abs=1e-6)


def test_what_an_outlier_does():
    rest = {k: {name: found.rest for name, found in results(start(outlier=k)).items()} for k in (NONE, 4, 8, 16, 20)}
    assert all(abs(rest[k][name] - rest[NONE][name]) < 0.5 for k in (4, 8) for name in RECIPES if name != "FP4, one scale")
    assert rest[NONE]["FP4, one scale"] > 17 and rest[4]["FP4, one scale"] < 10 and rest[8]["FP4, one scale"] < 0.1
    assert rest[16]["E4M3, one scale"] < 23 < 31 < rest[16]["E4M3, rows"] and rest[20]["NVFP4"] < 3
    found = results(start(outlier=8))["E4M3, delayed"]
    assert found.outlier < 0.02 and found.rest > 31 and found.saturated == 1 / (128 * 256)
    assert results(start(outlier=8))["E4M3, one scale"].outlier == 1
    small = results(start(outlier=NONE, size=-14))
    assert small["E4M3, no scale"].flushed > 0.99 and small["E4M3, one scale"].flushed < 0.01 < 0.05 < small["E5M2, no scale"].flushed < 0.2


def test_windows_are_where_numbers_are_kept():
    state = start(outlier=10)
    for name, recipe in RECIPES.items():
        (low, high), _ = results(state)[name].windows
        x, before = state.numbers.at(10, 0)
        for factor, kept in ((0.99, False), (1.01, True)):
            probe = x.clone()
            probe[PLACE[0], PLACE[1] + 1] = low * factor  # in the outlier's own block of any size
            assert (recipe(probe, before).values[PLACE[0], PLACE[1] + 1] != 0).item() is kept, name
        assert recipe(x, before).values[PLACE] * 1.0 <= high * recipe(x, before).multiplier[PLACE] * 1.0001


def test_every_preset_is_shown_in_time_and_named():
    state = start()
    for i, (name, (outlier, size)) in enumerate(PRESETS.items()):
        state = do(state, f"preset {i}")
        assert (state.outlier, state.size) == (outlier, size) and rich(name) in view(state)
    fresh, begun = start(), time.process_time()
    for power in OUTLIERS:
        view(do(fresh, "outlier", power))
    assert (time.process_time() - begun) / len(OUTLIERS) < 0.1


def test_the_page_holds_every_number_of_the_table():
    state = start(outlier=16)
    page = re.sub("<[^>]+>", " ", html.unescape(view(state)))
    for name, found in results(state).items():
        assert name in page and f"{decibel(found.rest)}" in page and f"{found.bits:.5g}" in page
    assert "More than half is flushed to zero by: FP4, one scale." in page  # E4M3, one scale, flushes a tenth
    assert page.count("cut off by") == 1 and "E4M3, no scale; E5M2, no scale; E4M3, delayed" in page
    assert "≈" not in view(state) and text(state).count("≈") == 3 * len(RECIPES) + 3 + 1 and table(state).count("<tr>") == len(RECIPES) + 1


def test_the_drawing_follows_the_state():
    bars = re.findall(r'<rect x="([\d.]+)"', view(start(outlier=16)).partition('<text x="106"')[0])
    assert len(bars) == len(start().numbers.counts) and f'x="{place(-1)}"' in view(start())  # most numbers are around 1
    top = {size: re.search(r'x="([^"]+)" y="30[.0]*"', view(start(size=size)))[1] for size in (0, -10)}  # the highest bar
    assert float(top[0]) - float(top[-10]) == pytest.approx(place(0) - place(-10), abs=0.2)
    assert f'd="M{place(16)} ' in view(start(outlier=16)) and f'd="M{place(6)} ' in view(start(outlier=16, size=-10))
    assert "outlier</text>" not in view(start(outlier=NONE)) and place(-1000) == place(-44) and place(0) < place(1)


def test_the_sentence_tells_about_the_chosen_recipe():
    state = do(start(outlier=8), "recipe 4")
    assert say(state).startswith("E4M3, delayed: the window reaches from ") and "The outlier comes back as 0.017 of itself." in say(state)
    assert "The outlier comes back whole." in say(do(state, "recipe 2"))
    assert 'aria-pressed="true"' in re.search(r'<button data-act="recipe 4"[^>]*>', view(state))[0]
    assert say(do(state, "recipe 4")).startswith("One number is 2⁸ times the others.")
    assert "in the outlier's block" in say(do(state, "recipe 9")) and "in the outlier's block" not in say(do(state, "recipe 2"))
    assert "outlier" not in say(do(do(state, "preset 0"), "recipe 2")) and "≈" in say(state, "≈ ")


def test_sliders_steps_and_the_way_back():
    state = start()
    moved = do(do(do(state, "outlier", 15), "move outlier 1"), "move size -1")
    assert (moved.outlier, moved.size) == (16, -1) and do(moved, "restart") == state
    end = do(do(state, "outlier", OUTLIERS[-1]), "move outlier 1")
    assert end.outlier == OUTLIERS[-1] and "goes from 1 to 24" in end.message and do(end, "move size 1").message == ""
    assert do(state, "size", SIZES[0]).size == SIZES[0] and "−24" not in do(do(state, "size", SIZES[0]), "move size 1").message
    panel = ScaleBench()
    for wrong in ("recipe 99", "preset 99", "fly 1"):
        assert panel.act({"act": wrong}) == panel.state and "could not be done" in panel.frame["html"]


@pytest.mark.parametrize(("options", "words"), [
    ({"outlier": 40}, "outlier=40"), ({"size": 0.5}, "size=0.5"), ({"x": torch.ones(100, 256)}, r"\(100, 256\).*128 rows"), ({"x": torch.zeros(128, 256)}, "not all zero"),
    ({"x": torch.full((128, 256), math.inf)}, "finite"), ({"x": torch.ones(128)}, r"\(128,\)"), ({"x": torch.ones(128, 128)}, r"\(128, 128\)"),
])  # fmt: skip
def test_mistakes_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        ScaleBench(**options)


def test_a_tensor_of_ones_own_and_the_number_of_threads_stay():
    x, threads = torch.linspace(-1, 1, 128 * 512).view(128, 512), torch.get_num_threads()
    before = x.clone()
    torch.set_num_threads(2)
    panel = ScaleBench(x, outlier=NONE, size=3)
    assert "128 × 512 numbers around 2³, no outlier" in str(panel) and torch.equal(x, before)
    try:
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
