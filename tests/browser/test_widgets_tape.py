"""ScalerTape in JupyterLab: steps changed by click and by keyboard, the slider walked, the scale chosen."""

import re

import pytest

from tests.browser.harness import cells, open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

SOURCE = 'from course.teaching.panels import ScalerTape\nScalerTape("a spike")'


@pytest.fixture
def panel(lab_page, lab_server):
    return open_panel(lab_page, lab_server, SOURCE)


def said(panel):
    return panel.get_by_role("status")


def test_a_click_changes_a_step_and_all_that_follows(panel):
    expect(said(panel)).to_contain_text("Step 6, spike")
    expect(said(panel)).to_contain_text("halved to 215")  # the exponent is raised
    step = panel.get_by_role("button", name=re.compile("^step 8,"))
    expect(step).to_have_attribute("aria-pressed", "false")
    step.click()
    expect(panel.get_by_role("button", name="step 8, spike, skipped: change it")).to_have_attribute("aria-pressed", "true")
    expect(said(panel)).to_contain_text("Step 8, spike")
    expect(said(panel)).to_contain_text("Skipped: 2 of 14")
    panel.get_by_role("button", name="step 8, spike, skipped: change it").click()
    expect(said(panel)).to_contain_text("Step 8, NaN")
    panel.get_by_role("button", name="start over").click()
    expect(said(panel)).to_contain_text("Skipped: 1 of 14")


def test_the_tape_is_walked_and_changed_by_keys(panel, lab_page):
    panel.get_by_role("button", name=re.compile("^step 6,")).focus()
    lab_page.keyboard.press("ArrowRight")
    lab_page.keyboard.press("Space")
    expect(said(panel)).to_contain_text("Step 7, spike")
    focus = "document.activeElement.getAttribute('aria-label')"
    assert lab_page.evaluate(focus).startswith("step 7, spike")  # the focus outlives the redrawing
    lab_page.keyboard.press("ArrowDown")
    expect(said(panel)).to_contain_text("Step 8, ordinary")
    slider = panel.get_by_role("slider", name="Step that is shown")
    slider.focus()
    lab_page.keyboard.press("Home")
    expect(said(panel)).to_contain_text("Step 1, ordinary")
    lab_page.keyboard.press("End")
    expect(panel.get_by_role("rowheader", name="14", exact=True)).to_be_visible()


def test_the_start_of_the_scaler_is_chosen_and_the_nan_preset_ends_badly(panel, lab_page):
    panel.get_by_label("First scale").select_option(label="2²⁴")
    expect(said(panel)).to_contain_text("Skipped: 7 of 14")
    panel.get_by_label("Growth interval").select_option(label="1")
    expect(said(panel)).to_contain_text("Skipped: 10 of 14")
    panel.get_by_role("button", name="a NaN in the model: forever").click()
    expect(said(panel)).to_contain_text("The weights are lost")
    expect(panel.get_by_role("row", name=re.compile("^170"))).to_contain_text("NaN, NaN")
    panel.get_by_role("button", name="+ a spike", exact=True).click()
    expect(said(panel)).to_contain_text("Step 173, spike")
    (cell,) = cells(lab_page)
    assert "".join(cell["outputs"][0]["data"]["text/html"]).startswith("<table>")
