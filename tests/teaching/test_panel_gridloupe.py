"""GridLoupe: what it shows are the course's own grids, and every action."""

import time

import pytest
import torch

from course.numerics.integers import integers, nf4
from course.teaching.panels.gridloupe import (
    BITS, ELSEWHERE, GROUP, NONE, OUTLIERS, PLACE, PRESETS, SHAPE, GridLoupe, LoupeState, grids, matrix, results, start, table, text, update, view, weights,
)  # fmt: skip
from course.teaching.panels.gridloupe_view import EDGE, drawing, place, say
from course.teaching.panels.parts import rich


def do(state, act, value=None):
    return update(state, {"act": act} | ({} if value is None else {"value": str(value)}))


def test_the_weights_are_exact_and_one_is_the_outlier():
    assert (weights() * 64 == (weights() * 64).round()).all() and weights().std() == pytest.approx(0.3, abs=0.03)
    x = matrix(LoupeState(outlier=5))
    assert x[PLACE] == 32 and (x != weights()).sum() == 1 and torch.equal(matrix(LoupeState(outlier=NONE)), weights())
    assert PLACE[0] != ELSEWHERE[0] and PLACE[1] // GROUP != ELSEWHERE[1] // GROUP


@pytest.mark.parametrize("outlier", [NONE, 4, 9])
@pytest.mark.parametrize("bits", BITS)
def test_results_are_the_courses_own(outlier, bits):
    x, found = matrix(LoupeState(outlier, bits)), results(outlier, bits)
    oracle = {"one scale": integers(x, bits), "rows": integers(x, bits, "row"), "groups of 16": integers(x, bits, (1, 16)), "NF4, groups of 16": nf4(x, (1, 16))}
    assert list(found) == list(oracle) == list(grids(bits))
    others = [(i, j) for i in range(SHAPE[0]) for j in range(SHAPE[1]) if (i, j) != PLACE]
    for name, stored in oracle.items():
        back = stored.dequantise()
        zeros = sum(back[at] == 0 and x[at] != 0 for at in others)
        error = (sum((back[at].item() - x[at].item()) ** 2 for at in others) / 255) ** 0.5
        assert (found[name].zeros, found[name].bits) == (zeros, stored.bits_per_value) and found[name].error == pytest.approx(error, rel=1e-6)
        for points, row, block in zip(found[name].points, (PLACE[0], ELSEWHERE[0]), (PLACE[1] // 16, ELSEWHERE[1] // 16)):
            here = back[row, 16 * block : 16 * block + 16] if "16" in name else back[row]
            assert set(here.tolist()) <= set(points), "a number that is not a point of the grid"
            assert len(set(points)) == (16 if "NF4" in name else 2**bits - 1)


def test_what_an_outlier_does():
    calm, wild = results(NONE, 4), results(4, 4)
    assert wild["one scale"].gaps == (pytest.approx(16 / 7), pytest.approx(16 / 7)) and wild["one scale"].zeros > 240 > 100 > wild["rows"].zeros
    assert wild["groups of 16"].zeros < 40 and wild["groups of 16"].gaps[1] == calm["groups of 16"].gaps[1] < wild["groups of 16"].gaps[0] / 10
    assert calm["NF4, groups of 16"].zeros < calm["groups of 16"].zeros and results(4, 8)["one scale"].zeros < 50


def test_every_preset_is_shown_in_time_and_named():
    state = start()
    for i, (name, (outlier, bits)) in enumerate(PRESETS.items()):
        state = do(state, f"preset {i}")
        assert (state.outlier, state.bits) == (outlier, bits) and rich(name) in view(state)
    results.cache_clear()
    begun = time.process_time()
    for power in OUTLIERS:
        view(do(start(bits=8), "outlier", power))
    assert (time.process_time() - begun) / len(OUTLIERS) < 0.1


def test_actions():
    state = start(2, 4)
    assert do(state, "move outlier 1").outlier == 3 and do(state, "outlier", 7.0).outlier == 7 and do(state, "bits 2").bits == 2
    edge = do(start(OUTLIERS[-1]), "move outlier 1")
    assert edge.outlier == OUTLIERS[-1] and "slider goes" in edge.message and edge.message in view(edge)
    assert do(edge, "move outlier -1").message == "" and do(do(state, "bits 8"), "restart") == state
    for act in ("bits 5", "preset 9", "melt"):
        with pytest.raises((ValueError, IndexError)):
            do(state, act)


def test_a_wrong_start_is_refused():
    for wrong in ({"outlier": 11}, {"bits": 5}):
        with pytest.raises(ValueError, match="give a power"):
            GridLoupe(**wrong)


def test_table_text_and_drawing_tell_the_same():
    state = start()
    for name, found in results(4, 4).items():
        assert f"≈ {found.error:.2g}" in table(state) and f"{found.zeros} others become 0" in text(state) and name in view(state)
    assert say(state) in view(state).replace("&quot;", '"') and "≈" not in view(state) and "≈" in say(state, "≈ ")
    assert "▶" in view(state) and ">16</text>" in drawing(state) and ">16</text>" not in drawing(start(NONE))
    assert place(-EDGE) < place(0) < place(EDGE) and drawing(start(NONE, 2)).count("<path") > 4
    assert "no outlier" in text(start(NONE)) and "NF4" in text(state)
