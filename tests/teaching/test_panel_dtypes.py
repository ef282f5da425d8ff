"""DtypeTrace: what it shows are the calls of real traces, and every action."""

import html
import re
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from course.teaching.panels.dtypes import DtypeTrace, rows_of, say, start, table, text, update, view
from course.training.models import GPT, GPTConfig
from course.training.trace import Call, Trace


def traced(way):
    model = GPT(GPTConfig(width=32, layers=1, context=8), 0)
    ids = torch.arange(16).view(2, 8)
    with Trace(model) as trace:
        with torch.autocast("cpu", torch.bfloat16) if way else nullcontext():
            loss = F.cross_entropy(model(ids).flatten(0, 1).float(), ids.flatten())
        loss.backward()
    return trace.calls


@pytest.fixture(scope="module")
def traces():
    return {"FP32": traced(False), "autocast": traced(True)}


def do(state, act):
    return update(state, {"act": act})


def test_every_call_is_a_button_that_names_op_and_dtype(traces):
    state = do(start(traces), "way 1")
    labels = [html.unescape(label) for label in re.findall(r'data-act="call \d+"[^>]*aria-label="([^"]*)"', view(state))]
    assert labels == [f"{c.op}, {'cast to ' if c.is_cast else ''}{c.outputs[0]}" for phase in ("forward", "backward") for c in traces["autocast"] if c.phase == phase]
    without = do(state, "casts")
    assert len(re.findall('data-act="call', view(without))) == sum(not c.is_cast for c in traces["autocast"])


def test_the_colour_is_that_of_the_dtype(traces):
    from course.teaching.style import look

    page = view(do(start(traces), "way 1"))
    for name in ("FP32", "BF16"):
        assert len(re.findall(f"background:{look(name).colour};", page)) == sum(c.outputs[0] == name for c in traces["autocast"]) + 1  # and the legend


def test_the_sentence_counts_and_then_tells(traces):
    state = do(start(traces), "way 1")
    calls = traces["autocast"]
    short = sum(c.outputs[0] == "BF16" and not c.is_cast and c.phase == "forward" for c in calls)
    assert f"forward {short} operations in BF16, " in say(state) and f"{sum(c.is_cast for c in calls)} casts." in say(state)
    assert "no casts" in say(start(traces))
    place = next(i for i, c in enumerate(calls) if c.op == "addmm")
    told = say(do(state, f"call {place}"))
    assert told == "Forward in blocks.0.attention.qkv: addmm (matrix product plus bias) reads 3 × BF16 and writes BF16, 1536 numbers."
    cast = next(i for i, c in enumerate(calls) if c.is_cast)
    assert "(cast) casts FP32 to BF16, 96 numbers" in say(do(state, f"call {cast}"))
    assert 'aria-pressed="true"' in re.search(rf'<button data-act="call {cast}"[^>]*>', view(do(state, f"call {cast}")))[0]


def test_text_and_table_hold_every_call_once(traces):
    state = do(start(traces), "way 1")
    shown = ", ".join(ops for *_, ops in rows_of(state)).split(", ")
    assert sum(int(item.rpartition(" × ")[2]) if " × " in item else 1 for item in shown) == len(traces["autocast"])
    assert text(state).count("\n") == len(rows_of(state)) + 1 and table(state).count("<tr>") == len(rows_of(state)) + 1


def test_actions_and_the_way_back(traces):
    state = start(traces)
    changed = do(do(do(state, "way 1"), "casts"), "call 3")
    assert (changed.way, changed.casts, changed.chosen) == (1, False, 3) and do(changed, "way 0").chosen is None
    assert do(changed, "casts").chosen is None  # what was looked at may be gone
    assert do(changed, "restart") == state
    panel = DtypeTrace(traces)
    for wrong in ("way 7", "call 9999", "fly 1"):
        assert panel.act({"act": wrong}) == state and "could not be done" in panel.frame["html"]


def test_layers_and_names_are_escaped():
    call = Call("forward", "<b>", "mm", ("FP32",), ("FP32",), 1)
    assert "<b>" not in view(start({"<i>": [call]})) and "&lt;b&gt;" in view(start({"<i>": [call]}))


@pytest.mark.parametrize("wrong", [{}, {"a": []}, {"a": [1]}])
def test_mistakes_are_told(wrong):
    with pytest.raises(ValueError, match="no traces"):
        start(wrong)
