"""Bands over seeds: records and own runs alike, families of records, what is drawn."""

import copy

import numpy as np
import pytest
from matplotlib.figure import Figure

from course.teaching import runs
from course.training import RunError, corpus, hardware, records
from course.training.loop import Comparison, Settings, reproducible
from course.training.models import GPTConfig
from course.training.recipes import plan


@pytest.fixture(scope="module")
def own():
    """Two seeds of three steps."""
    cpu, text = hardware.probe().cpu, corpus.load()
    with reproducible(1):
        made = [Comparison([plan(n, cpu) for n in ("pure-bf16", "fp32")], GPTConfig(width=32, layers=1, context=8), Settings(3, batch=2, seed=s), text) for s in (0, 1)]
        for each in made:
            each.train()
    return made


def test_own_runs_become_bands(own):
    found = runs.bands(own)
    assert list(found) == ["pure-bf16", "fp32"] and found["fp32"].execution == "native"
    pure = found["pure-bf16"]
    assert pure.losses.tolist() == [each.runs[0].history.losses for each in own] and pure.losses.shape == (2, 3)
    assert pure.gap(found["fp32"]).tolist() == [each.runs[0].history.validation[-1][1] - each.runs[1].history.validation[-1][1] for each in own]
    assert pure.gap(found["fp32"], last=2).tolist() == [each.runs[0].history.validation[-2][1] - each.runs[1].history.validation[-2][1] for each in own]
    assert (pure.moved("gains") == 0).all() and pure.moved("gains").shape == (2, 3)


def test_runs_that_do_not_belong_together_are_refused(own):
    shorter = copy.deepcopy(runs.made_runs(own[1]))
    for run in shorter:
        run["losses"] = run["losses"][:-1]
    for wrong in ([], [own[0], {"runs": shorter}], [own[0], {"runs": runs.made_runs(own[1])[::-1]}]):
        with pytest.raises(ValueError, match="do not belong together"):
            runs.bands(wrong)


def test_the_recorded_runs_are_there_over_five_seeds():
    found = runs.recorded()
    label, made = max(found.items(), key=lambda item: len(item[1]))
    assert [record["configuration"]["seed"] for record in made] == sorted({r["configuration"]["seed"] for r in made}) and len(made) >= 5
    assert runs.label(made[0]) == label and "width 128, 300 steps" in label
    band = runs.bands(made)
    assert band["pure-bf16"].losses.shape == (len(made), 300)


def test_families_and_a_file_that_is_no_record(tmp_path):
    record = next(iter(runs.recorded().values()))[0]
    for seed, processes in ((3, 1), (1, 1), (0, 2)):
        other = copy.deepcopy(record)
        other["configuration"] |= {"seed": seed, "processes": processes, "steps": 299 + processes}
        records.contribute(other, tmp_path)
    found = runs.recorded(tmp_path)
    assert [[r["configuration"]["seed"] for r in each] for each in found.values()] == [[1, 3], [0]] and "× 2" in list(found)[1]
    (tmp_path / "note.json").write_text("{}")
    runs.recorded.cache_clear()
    with pytest.raises(RunError, match="note.json is no record"):
        runs.recorded(tmp_path)


def test_what_is_drawn_is_the_smoothed_gap(own):
    found = runs.bands(own)
    ax = Figure().subplots()
    drawn = runs.draw_gaps(ax, found, window=2)
    gap = (found["pure-bf16"].losses - found["fp32"].losses).mean(0)
    assert list(drawn) == ["pure-bf16"] and np.allclose(drawn["pure-bf16"], (gap[1:] + gap[:-1]) / 2)
    assert ax.lines[0].get_xdata().tolist() == [2, 3] and np.array_equal(ax.lines[0].get_ydata(), drawn["pure-bf16"])
    assert ax.texts[0].get_text() in ("pure-bf16", "pure-bf16, emulated") and "FP32" in ax.get_ylabel()


def test_every_recipe_has_a_look_of_its_own():
    from course.training.recipes import RECIPES

    assert set(runs.LOOKS) == set(RECIPES)
    looks = [(look["color"], str(look["linestyle"])) for look in runs.LOOKS.values()]
    assert len(set(looks)) == len(looks) and len({look["marker"] for look in runs.LOOKS.values()}) == len(looks)
