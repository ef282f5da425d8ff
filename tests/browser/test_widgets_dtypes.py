"""DtypeTrace in JupyterLab: another way of casting, casts off, an operation looked at."""

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

SOURCE = """from course.teaching.panels import DtypeTrace
from course.training.trace import Call

cast = Call("forward", "head", "_to_copy", ("FP32",), ("BF16",), 8)
DtypeTrace({"plain": [Call("forward", "head", "mm", ("FP32", "FP32"), ("FP32",), 4)],
            "autocast": [cast, Call("forward", "head", "mm", ("BF16", "BF16"), ("BF16",), 4)]})"""


def test_ways_casts_and_calls(lab_page, lab_server):
    panel = open_panel(lab_page, lab_server, SOURCE)
    said = panel.get_by_role("status")
    expect(said).to_contain_text("plain: forward 1 operation in FP32; no casts")
    panel.get_by_role("button", name="autocast").click()
    expect(panel.get_by_role("button", name="_to_copy, cast to BF16")).to_be_visible()
    panel.get_by_role("button", name="casts", exact=True).click()
    expect(panel.get_by_role("button", name="_to_copy, cast to BF16")).to_have_count(0)
    panel.get_by_role("button", name="mm, BF16").click()
    expect(said).to_contain_text("Forward in head: mm (matrix product) reads 2 × BF16 and writes BF16, 4 numbers.")
    panel.get_by_role("button", name="start over").click()
    expect(said).to_contain_text("plain: forward")
