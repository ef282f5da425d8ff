"""RecipeGuide in JupyterLab: clicked, slid and walked by keyboard."""

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser


def test_chips_shares_and_keys(lab_page, lab_server):
    panel = open_panel(lab_page, lab_server, "from course.teaching.panels import RecipeGuide\nRecipeGuide()")
    said = panel.get_by_role("status")
    expect(said).to_contain_text("On T4 train in FP16 with a loss scaler")
    panel.get_by_role("button", name="H100 SXM").click()
    expect(said).to_contain_text("On H100 SXM train in BF16 autocast")
    expect(panel.get_by_role("row", name="FP8")).to_contain_text("1 979")
    panel.get_by_role("button", name="large model").click()
    expect(said).to_contain_text("95 % of an FP32 step")
    slider = panel.get_by_role("slider")
    slider.focus()
    lab_page.keyboard.press("ArrowLeft")
    expect(said).to_contain_text("94 % of an FP32 step")
    panel.get_by_role("button", name="T4", exact=True).focus()
    lab_page.keyboard.press("ArrowRight")
    lab_page.keyboard.press("Enter")
    expect(said).to_contain_text("On A100 SXM 80 GB")
    panel.get_by_role("button", name="start over").click()
    expect(said).to_contain_text("On T4")
