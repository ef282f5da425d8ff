"""The generic panel: errors, what a notebook stores, and what its script may and may not do."""

import re

import pytest

from course.teaching import panel as module
from course.teaching.panel import Panel
from course.teaching.panels.bench import RoundingBench
from course.teaching.panels.bits import BitPanel
from course.teaching.panels.ruler import UlpRuler


class Fragile(Panel):
    """A state that is a number; it cannot become or show 13."""

    update = staticmethod(lambda state, action: state + int(action["value"]))
    text = table = staticmethod(str)

    @staticmethod
    def view(state):
        if state == 13:
            raise RuntimeError("no 13 <here>")
        return f"<p>{state}</p>"


def test_an_action_that_raises_keeps_the_state_and_says_so():
    panel = Fragile(1)
    assert panel.act({"act": "add", "value": "<b>"}) == 1
    assert "<p>1</p>" in panel.frame["html"] and "nothing was changed" in panel.frame["html"]
    assert "<b>" not in panel.frame["html"] and "&lt;b&gt;" in panel.frame["html"]
    assert panel.act({"act": "add", "value": "2"}) == 3
    assert "nothing was changed" not in panel.frame["html"]


def test_a_state_that_cannot_be_shown_is_not_kept():
    panel = Fragile(1)
    assert panel.act({"act": "add", "value": "12"}) == 1
    assert "<p>1</p>" in panel.frame["html"] and "no 13 &lt;here&gt;" in panel.frame["html"]


@pytest.mark.parametrize("message", [{}, {"act": "?"}, {"act": "no such"}, {"act": "preset 99"}, [], "x", None])
def test_no_message_kills_a_panel(message):
    for panel in (Fragile(1), BitPanel(), UlpRuler(), RoundingBench()):
        before = panel.state
        assert panel.act(message) == before
        assert "nothing was changed" in panel.frame["html"]


def test_each_answer_is_a_new_frame_even_if_nothing_changed():
    panel = Fragile(1)
    panel.act({"act": "add", "value": "0"}), panel.act({"act": "add", "value": "0"})
    assert panel.frame["count"] == 2  # the browser waits for an answer to each action


def test_a_message_from_the_browser_is_an_action():
    panel = Fragile(1)
    panel._handle_custom_msg({"act": "add", "value": "4"}, [])
    assert panel.state == 5


@pytest.mark.parametrize("make", [lambda: BitPanel(["FP16", "BF16"], "0.1"), UlpRuler, RoundingBench])
def test_what_a_notebook_stores_reads_without_a_kernel(make):
    bundle = make()._repr_mimebundle_()[0]
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    page, text = bundle["text/html"], bundle["text/plain"]
    assert page.startswith("<table>") and page.endswith("</table>")
    assert not re.search("<(button|svg|script|style|input|select)|class=", page)
    assert set(re.findall("style=[^>]*", page)) <= {'style="white-space:nowrap"'}  # which needs no theme
    assert "FP16" in text and not re.search("[<>]", text)
    for stored in (page, text):
        assert " at 0x" not in stored and "≈" not in stored  # nothing that a comparison would mask


@pytest.mark.parametrize("make", [lambda: BitPanel(["FP16", "BF16"], "0.1"), UlpRuler, RoundingBench])
def test_what_a_notebook_stores_is_the_same_each_time(make):
    one, other = make()._repr_mimebundle_()[0], make()._repr_mimebundle_()[0]
    assert one["text/html"] == other["text/html"] and one["text/plain"] == other["text/plain"]


def test_the_script_only_forwards_and_asks_no_host():
    script = module._SCRIPT
    assert not re.search(r"https?:|fetch|import\s|XMLHttp|eval|parseFloat|parseInt|Number|Math\.|\*\s*\d|<<|>>", script)
    assert len(script.strip().splitlines()) < 70


def test_panels_do_not_share_state():
    one, other = BitPanel(), BitPanel()
    one.act({"act": "flip 0 0"})
    assert one.state != other.state
