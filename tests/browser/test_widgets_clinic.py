"""ClinicBed in JupyterLab: type into the trainer, lose nothing, check it; the keys stay in the editor."""

import re

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

CELLS = "() => jupyterapp.shell.currentWidget.content.widgets.length"


def test_read_edit_and_check(lab_page, lab_server):
    panel = open_panel(lab_page, lab_server, 'from course.teaching.panels import ClinicBed\nClinicBed("13-3")')
    said, area = panel.get_by_role("status"), panel.get_by_role("textbox", name="The trainer")
    expect(said).to_contain_text("Symptom first")
    panel.get_by_role("button", name="anomaly mode").click()
    expect(said).to_contain_text("SqrtBackward0")
    cells = lab_page.evaluate(CELLS)
    before = area.input_value()
    area.click()
    lab_page.keyboard.press("Control+End")
    lab_page.keyboard.type("\nabdxyz")  # letters that are commands of JupyterLab outside of an editor
    assert area.input_value() == before + "\nabdxyz" and lab_page.evaluate(CELLS) == cells
    panel.get_by_role("button", name="Check", exact=True).click()
    expect(panel).to_contain_text("NameError")
    assert area.input_value() == before + "\nabdxyz"  # a redraw takes nothing away
    panel.get_by_role("button", name="the broken one again").click()
    expect(area).to_have_value(before)
    area.fill(before.replace("(difference**2).sum(1)", "(difference**2).sum(1) + 1e-12"))
    panel.get_by_role("button", name="Check", exact=True).click()
    expect(said).to_contain_text("Repaired")
    panel.get_by_role("combobox").select_option("13-1")
    expect(area).to_have_value(re.compile("clip_grad_norm_"))
