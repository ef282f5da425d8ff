"""RecipeGuide: every chip and every action; its numbers are those of `chips`."""

import pytest

from course.teaching.panels.guide import SHARES, RecipeGuide, rates, say, start, table, text, update, view
from course.training.chips import load, step_speedup


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


@pytest.mark.parametrize("index", range(len(load())))
def test_every_chip(index):
    chip = list(load().values())[index]
    state = do(start("T4" if index else "V100 SXM2", 90), f"chip {index}")
    assert state.chip == chip.name and chip.recipe[:4].upper() in say(state)
    for shown in (text(state), table(state), view(state)):
        assert chip.name in shown and all(fmt.upper() in shown for fmt in chip.peak)
    for fmt, row in zip(chip.peak, rates(state)[1]):
        assert row[0] == fmt.upper() and float(row[3]) == pytest.approx(step_speedup(0.9, chip.gain(fmt)), abs=0.051)
        assert float(row[2]) == pytest.approx(chip.peak[fmt] / chip.peak["fp32"], abs=0.051)
    assert ("scaler costs" in say(state)) == (chip.recipe == "fp16")
    assert ("on top" in say(state)) == any(fmt.startswith(("fp8", "mx", "nv")) for fmt in chip.peak)


def test_the_share_decides_what_is_left():
    state = do(start("H100 SXM"), "share", "50")
    assert "more than 2.0 times" in say(state) and rates(state)[1][2][3] == "1.9"
    assert do(state, "share", "120").share == 99 and do(state, "share", "-3").share == 0
    for i, share in enumerate(SHARES.values()):
        assert do(state, f"preset {i}").share == share
    assert do(do(state, "preset 0"), "restart") == start("H100 SXM")
    assert view(do(state, "preset 1")).count('aria-pressed="true"') == 2


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="'H800' is no chip of data/chips.yaml: choose one of V100"):
        RecipeGuide("H800")
    with pytest.raises(ValueError, match="share=100: give whole per cents from 0 to 99"):
        RecipeGuide("T4", 100)
    with pytest.raises(ValueError, match="is no action"):
        do(start(), "sell")
