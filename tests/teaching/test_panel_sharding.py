"""ShardLedger: its numbers against the ledger and the paper, its sentence, every action, and what it is told that makes no sense."""

import re
import time

import pytest

from course.teaching.panels.sharding import MOST, PRESETS, RECIPES, ShardLedger, start, table, text, update, view
from course.teaching.panels.sharding_view import drawing, gb, say
from course.training.comms import STRATEGIES, held, sent


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


def cells(state):
    return {row[0]: row[1:] for row in (re.split("  +", line) for line in text(state).splitlines()[2:-1])}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("processes", [1, 8, 1024])
def test_each_number_is_the_ledgers(recipe, processes):
    state = start("70 B", processes, "ZeRO-2", recipe)
    for name, row in cells(state).items():
        kinds, out = held(name, processes, RECIPES[recipe][0]), sum(sent(name, processes, RECIPES[recipe][0]).values())
        assert row == [gb(70 * 10**9 * size) for size in (*kinds.values(), sum(kinds.values()), out)], name
    assert set(cells(state)) == set(STRATEGIES)
    for shown in (table(state), view(state)):
        assert all(f">{row[3]}<" in shown for row in cells(state).values()), "held, in the table and in the panel"


def test_the_sentence():
    state = start("7 B", 8, "DDP", "BF16, sums in BF16")
    assert "holds 112 GB, as much as one would hold alone, and sends 24.5 GB in a step, which the others are compared with." in say(state)
    assert "card of 141 GB, with 29 GB left" in say(state)
    assert "holds 38.5 GB, 34.4 % of what one would hold alone, and sends 24.5 GB in a step, as much as DDP." in say(do(state, "strategy 1"))
    assert "holds 14 GB, an 8th of what one would hold alone, and sends 36.75 GB in a step, 1.5 times what DDP sends." in say(do(state, "strategy 3"))
    assert "half of what one would hold alone" in say(do(do(state, "strategy 4"), "processes", 1))
    alone = do(state, "processes", 0)
    assert "One process holds 112 GB and sends nothing" in say(alone) and "1 process," in text(alone)
    assert "more than a card of 141 GB has" in say(do(state, "preset 3"))
    micro = do(do(state, "strategy 4"), "micro 1")
    assert "sends 147 GB in a step, 6 times what DDP sends" in say(micro) and "4 micro-batches" in text(micro)
    assert say(do(do(state, "strategy 0"), "micro 2")) == say(do(state, "strategy 0")), "DDP waits for the last micro-batch"


def test_sliders_steps_presets_and_the_way_back():
    state = start()
    moved = do(do(do(state, "processes", 5), "move 1"), "recipe 3")
    assert (moved.processes, moved.recipe) == (64, "pure BF16") and do(moved, "restart") == state
    end = do(do(state, "processes", MOST), "move 1")
    assert end.processes == 1024 and "from 1 to 1024" in end.message and do(end, "move -1").message == ""
    assert do(do(state, "processes", 0), "move -1").processes == 1
    for i, (typed, power) in enumerate(PRESETS.values()):
        preset = do(state, f"preset {i}")
        assert (preset.typed, preset.power) == (typed, power) and typed in list(PRESETS)[i] and view(preset)
    assert 'aria-pressed="true"' in re.search(r'<button data-act="strategy 2"[^>]*>', view(do(state, "strategy 2")))[0]


def test_a_size_of_ones_own_and_nonsense():
    state = do(start(), "type", "1.5 billion")
    assert state.parameters == 1500 * 10**6 and "1.5 billion parameters" in text(state)
    wrong = do(state, "type", "a lot <b>")
    assert wrong.message.endswith("The panel still shows 1.5 billion.") and wrong.parameters == state.parameters and "<b>" not in view(wrong)
    assert say(wrong) == say(state) and do(wrong, "preset 0").draft is None
    panel = ShardLedger()
    for act in ("strategy 9", "recipe 9", "preset 9", "micro 9", "fly 1"):
        assert panel.act({"act": act}) == panel.state and "could not be done" in panel.frame["html"]


@pytest.mark.parametrize(("options", "words"), [
    ({"processes": 12}, "power of two from 1 to 1024"), ({"strategy": "ZeRO-4"}, "choose one of DDP; ZeRO-1"), ({"recipe": "FP8"}, "choose one of FP32; BF16, sums"), ({"parameters": "x"}, "no size"),
])  # fmt: skip
def test_mistakes_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        ShardLedger(**options)


def test_bars_are_in_proportion():
    widths = {}
    for name in ("DDP", "ZeRO-3"):
        row = drawing(start("7 B", 8, name)).split(f">{name}</text>")[1].split('text-anchor="end"')[0]
        widths[name] = [float(width) + 1 for width in re.findall(r'<rect [^>]*width="([\d.]+)" height="26"', row)]
    assert len(widths["DDP"]) == 4 and len(widths["ZeRO-3"]) == 5  # three kinds, then one collective or two
    assert sum(widths["DDP"][:3]) == pytest.approx(8 * sum(widths["ZeRO-3"][:3]), rel=0.02)
    assert widths["DDP"][2] == pytest.approx(6 * widths["DDP"][0], rel=0.01)


def test_the_panel_answers_quickly():
    begin = time.process_time()
    for _ in range(10):
        view(do(start(), "processes", 5))
    assert (time.process_time() - begin) / 10 < 0.1
