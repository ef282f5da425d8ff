"""ScaleBench in JupyterLab: the outlier dragged and stepped, recipes looked at, both themes."""

import re

import pytest

from tests.browser.harness import cells, open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

SOURCE = "from course.teaching.panels import ScaleBench\nScaleBench(outlier=8)"


@pytest.fixture
def panel(lab_page, lab_server):
    return open_panel(lab_page, lab_server, SOURCE)


def row(panel, name):
    return panel.get_by_role("row", name=re.compile(f"^{re.escape(name)} "))


def test_the_outlier_is_dragged_and_stepped(panel, lab_page):
    said, slider = panel.get_by_role("status"), panel.get_by_role("slider", name="Outlier")
    expect(said).to_contain_text("One number is 28 times the others.")
    expect(row(panel, "FP4, one scale")).to_contain_text("99.9 %")
    slider.focus()
    lab_page.keyboard.press("Home")
    expect(said).to_contain_text("No outlier")
    expect(row(panel, "FP4, one scale")).to_contain_text("13.9 %")
    lab_page.keyboard.press("End")
    expect(slider).to_have_attribute("aria-valuetext", "2²⁴ times the others")
    panel.get_by_role("button", name="Outlier divided by 2").focus()
    lab_page.keyboard.press("ArrowDown")
    expect(slider).to_have_attribute("aria-valuetext", "2²³ times the others")
    box = slider.bounding_box()
    lab_page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    lab_page.mouse.down()
    lab_page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    lab_page.mouse.up()
    expect(said).to_contain_text("No outlier")
    panel.get_by_role("button", name="The others divided by 2").click()
    expect(panel.get_by_role("slider", name="The others")).to_have_attribute("aria-valuetext", "around 2⁻¹")


def test_a_recipe_is_looked_at_and_left(panel):
    said = panel.get_by_role("status")
    button = panel.get_by_role("button", name="E4M3, delayed")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(said).to_contain_text("E4M3, delayed: the window reaches from")
    panel.get_by_role("button", name="no outlier").click()
    expect(said).not_to_contain_text("outlier comes back")
    panel.get_by_role("button", name="start over").click()
    expect(said).to_contain_text("One number is 28 times the others.")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_every_preset_is_shown_without_overflow_in_both_themes(panel, lab_page, theme):
    lab_page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    expect(lab_page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
    lab_page.set_viewport_size({"width": 900, "height": 900})
    for preset in panel.get_by_role("group", name="Presets").get_by_role("button").all():
        preset.click()
        expect(panel.locator(".cp-oops").last).to_be_empty()
        wide = panel.evaluate("""root => [root, ...root.querySelectorAll('*')].filter(n => n.scrollWidth > n.clientWidth + 1 &&
            getComputedStyle(n).display !== 'inline' && !n.closest('svg') && n.tagName !== 'INPUT').map(n => n.outerHTML.slice(0, 80))""")
        assert not wide, preset.text_content()


def test_the_stored_output_is_a_table_and_a_text(panel, lab_page):
    data = cells(lab_page)[0]["outputs"][0]["data"]
    assert "".join(data["text/html"]).startswith("<table>") and "".join(data["text/plain"]).startswith("ScaleBench: 128 × 256 numbers")
