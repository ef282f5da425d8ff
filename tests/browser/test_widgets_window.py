"""UnderflowWindow in JupyterLab: the loss scale dragged and stepped, formats made, steps and layers chosen."""

import re

import pytest

from tests.browser.harness import cells, open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

SOURCE = """import numpy as np
from course.teaching.panels import UnderflowWindow

sizes = 2.0 ** np.linspace(-40, 0, 4001)[:-1]
UnderflowWindow({0: {"first": sizes, "last": sizes[2000:]}, 10: {"first": sizes / 16, "last": sizes}})"""


@pytest.fixture
def panel(lab_page, lab_server):
    return open_panel(lab_page, lab_server, SOURCE)


def said(panel):
    return panel.get_by_role("status")


def row(panel, kind):
    return panel.get_by_role("row", name=re.compile(f"^{kind} "))


def test_the_scale_is_dragged_and_stepped(panel, lab_page):
    expect(row(panel, "flushed")).to_contain_text("1,501")
    slider = panel.get_by_role("slider", name="Loss scale")
    slider.focus()
    lab_page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "2 to the power 1")
    expect(row(panel, "flushed")).to_contain_text("1,401")
    lab_page.keyboard.press("End")
    expect(said(panel)).to_contain_text("Too far: the largest gradient is beyond FP16's largest number")
    panel.get_by_role("button", name="largest without overflow").click()
    expect(slider).to_have_attribute("aria-valuetext", "2 to the power 16")
    expect(row(panel, "overflow")).to_contain_text("0 %")
    panel.get_by_role("button", name="× 2").click()
    expect(said(panel)).to_contain_text("Too far")
    panel.get_by_role("button", name="÷ 2").focus()
    lab_page.keyboard.press("ArrowDown")
    expect(slider).to_have_attribute("aria-valuetext", "2 to the power 16")
    place = slider.bounding_box()
    lab_page.mouse.move(place["x"] + 0.6 * place["width"], place["y"] + place["height"] / 2)
    lab_page.mouse.down()
    lab_page.mouse.move(place["x"] + 2, place["y"] + place["height"] / 2)
    lab_page.mouse.up()
    expect(slider).to_have_attribute("aria-valuetext", "2 to the power -16")


def test_a_format_is_chosen_and_made(panel, lab_page):
    choice = panel.get_by_label("Format", exact=True)
    choice.select_option("BF16")
    expect(said(panel)).to_contain_text("BF16 keeps every gradient at this scale")
    expect(panel.locator("svg")).not_to_contain_text("flushed")
    choice.select_option("FP16")
    expect(panel.locator("svg")).to_contain_text("subnormal")
    panel.get_by_role("button", name="one mantissa bit less").click()
    expect(choice).to_have_value("E5M9")
    expect(row(panel, "flushed")).to_contain_text("up to 2−24")
    panel.get_by_role("button", name="one exponent bit more").focus()
    lab_page.keyboard.press("ArrowUp")
    expect(choice).to_have_value("E6M9")
    expect(said(panel)).to_contain_text("E6M9 flushes 0.0167 %")


def test_steps_layers_and_start_over(panel, lab_page):
    panel.get_by_label("Layer", exact=True).select_option("last")
    expect(row(panel, "flushed")).to_contain_text("0 %")
    panel.get_by_label("Step", exact=True).focus()
    panel.get_by_label("Step", exact=True).select_option("10")
    expect(row(panel, "flushed")).to_contain_text("37.5 %")
    expect(panel.get_by_label("Layer", exact=True)).to_have_value("last")
    assert lab_page.evaluate("document.activeElement.dataset.act") == "step"  # the focus outlives the redrawing
    panel.get_by_role("button", name="start over").click()
    expect(panel.get_by_label("Layer", exact=True)).to_have_value("all layers")
    expect(row(panel, "flushed")).to_contain_text("25 %")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_every_preset_is_shown_without_overflow_in_both_themes(panel, lab_page, theme):
    lab_page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    expect(lab_page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
    lab_page.set_viewport_size({"width": 900, "height": 900})
    for preset in panel.get_by_role("group", name="Presets").get_by_role("button").all():
        preset.click()
        expect(panel.locator(".cp-oops").last).to_be_empty()
        expect(panel.get_by_label("Format", exact=True)).to_have_value(preset.text_content().split(",")[0])
        wide = panel.evaluate("""root => [root, ...root.querySelectorAll('*')].filter(n => n.scrollWidth > n.clientWidth + 1 &&
            getComputedStyle(n).display !== 'inline' && !n.closest('svg') && n.tagName !== 'INPUT').map(n => n.outerHTML.slice(0, 80))""")
        assert not wide, preset.text_content()


def test_the_stored_output_is_a_table_and_a_text(panel, lab_page):
    data = cells(lab_page)[0]["outputs"][0]["data"]
    assert "".join(data["text/html"]).startswith("<table>") and "≈ 25 % of them" in "".join(data["text/plain"])
