"""PhaseMap in JupyterLab: clicked, slid and walked by keyboard."""

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser


def test_cells_conditions_budget_and_keys(lab_page, lab_server):
    panel = open_panel(lab_page, lab_server, "from course.teaching.panels import PhaseMap\nPhaseMap()")
    said = panel.get_by_role("status")
    expect(said).to_contain_text("E4M3 ends at")
    panel.get_by_role("button", name="E8M7").click()
    expect(said).to_contain_text("E8M7 ends at")
    expect(panel.get_by_role("button", name="E8M7")).to_have_attribute("aria-pressed", "true")
    lab_page.keyboard.press("ArrowUp")
    expect(said).to_contain_text("E7M7 ends at")
    panel.get_by_role("button", name="E8M7").focus()
    lab_page.keyboard.press("ArrowLeft")
    lab_page.keyboard.press("Enter")
    expect(said).to_contain_text("E8M6 ends at")
    panel.get_by_role("button", name="in the format, nearest").click()
    expect(said).to_contain_text("Mended by FP32 masters")
    panel.get_by_role("button", name="scale per tensor").click()
    expect(panel.locator("[role=alert]").first).to_contain_text("recorded with FP32 masters only")
    panel.get_by_role("slider", name="Bit budget").focus()
    lab_page.keyboard.press("ArrowLeft")
    expect(said).to_contain_text("E8M5 ends at")
    panel.get_by_role("slider", name="Exponent bits of your split").focus()
    lab_page.keyboard.press("ArrowLeft")
    expect(said).to_contain_text("E7M6 ends at")
    panel.get_by_role("button", name="start over").click()
    expect(said).to_contain_text("E4M3 ends at")
