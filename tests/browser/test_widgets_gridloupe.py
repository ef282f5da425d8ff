"""GridLoupe in JupyterLab: the outlier dragged and stepped, the bits chosen, both themes."""

import re

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

SOURCE = "from course.teaching.panels import GridLoupe\nGridLoupe(outlier=4)"


@pytest.fixture
def panel(lab_page, lab_server):
    return open_panel(lab_page, lab_server, SOURCE)


def test_the_outlier_is_dragged_and_stepped_and_bits_are_chosen(panel, lab_page):
    said, slider = panel.get_by_role("status"), panel.get_by_role("slider", name="Outlier")
    expect(said).to_contain_text("249 of the other 255 weights become 0")
    slider.focus()
    lab_page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "none")
    expect(said).to_contain_text("26 of the other 255")
    lab_page.keyboard.press("End")
    expect(slider).to_have_attribute("aria-valuetext", "1024")
    panel.get_by_role("button", name="Outlier divided by 2").focus()
    lab_page.keyboard.press("ArrowDown")
    expect(slider).to_have_attribute("aria-valuetext", "512")
    panel.get_by_role("button", name="start over").click()
    button = panel.get_by_role("button", name="8 bits", exact=True)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(panel.get_by_role("row", name=re.compile("^one scale "))).to_contain_text("8.125")


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
