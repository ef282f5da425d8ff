"""SwampingMicroscope in JupyterLab: stepped, dragged, turned, typed into."""

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

SOURCE = 'from course.teaching.panels import SwampingMicroscope\nSwampingMicroscope("BF16", 1, "-3e-4", weights=[0.01, 0.5])'


@pytest.fixture
def lens(lab_page, lab_server):
    return open_panel(lab_page, lab_server, SOURCE)


def test_steps_a_drag_and_a_typed_weight(lens):
    said = lens.get_by_role("status")
    expect(said).to_contain_text("BF16 loses this update: it is 0.1536 of half the gap. Of the 2 nonzero weights 50.0 % would move")
    lens.get_by_role("group", name="Steps").get_by_role("button", name="+ 100", exact=True).click()
    expect(said).to_contain_text("Nothing has moved in 100 steps")
    expect(lens.locator("svg").nth(1)).to_contain_text("exact: 0.97")
    slider = lens.get_by_role("slider")
    slider.fill("-35")  # 1.25 × 2⁻⁹: more than is needed downwards, less than upwards
    expect(said).to_contain_text("BF16 moves: the update is")
    lens.get_by_role("button", name="turn its sign").click()
    expect(said).to_contain_text("BF16 loses this update")
    box = lens.get_by_label("Weight w")
    box.fill("0.01")
    box.press("Enter")
    expect(said).to_contain_text("BF16 moves")
    box.fill("heavy")
    box.press("Enter")
    expect(lens.locator("[role=alert]").first).to_contain_text("'heavy' is not a number I can read")
    lens.get_by_role("button", name="start over").click()
    expect(said).to_contain_text("BF16 loses this update: it is 0.1536 of half the gap. Of the 2")


def test_the_keyboard_reaches_every_step(lens, lab_page):
    lens.get_by_role("group", name="Steps").get_by_role("button").first.focus()
    lab_page.keyboard.press("End")
    assert lab_page.evaluate("document.activeElement.dataset.act") == "back"
    lab_page.keyboard.press("ArrowLeft")
    lab_page.keyboard.press("Space")
    expect(lens.get_by_role("status")).to_contain_text("Nothing has moved in 1000 steps")


def test_no_key_press_is_lost_on_a_slider(lens):
    """Twelve presses as fast as they come: an answer to an early one must not push the slider back."""
    slider = lens.get_by_role("slider")
    slider.focus()
    first = int(slider.input_value())
    for _ in range(12):
        slider.press("ArrowRight")
    expect(slider).to_have_js_property("value", str(first + 12))
    expect(lens.get_by_role("textbox", name="Update")).to_have_value("-0.001953125")
