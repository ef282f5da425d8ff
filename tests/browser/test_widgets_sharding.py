"""ShardLedger in JupyterLab: clicked, dragged, typed into and walked by keyboard, in both themes."""

import pytest

from tests.browser.harness import cells, open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser


@pytest.fixture
def panel(lab_page, lab_server):
    return open_panel(lab_page, lab_server, 'from course.teaching.panels import ShardLedger\nShardLedger("7 B", 8, "ZeRO-3", "BF16, sums in BF16")')


def test_strategies_formats_and_micro_batches(panel, lab_page):
    said = panel.get_by_role("status")
    expect(said).to_contain_text("holds 14 GB, an 8th of what one would hold alone, and sends 36.75 GB in a step, 1.5 times what DDP sends")
    button = panel.get_by_role("button", name="ZeRO-1")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(said).to_contain_text("holds 38.5 GB")
    panel.get_by_role("button", name="BF16, sums in FP32").focus()
    lab_page.keyboard.press("Enter")
    expect(said).to_contain_text("sends 36.75 GB")
    panel.get_by_role("button", name="FSDP2").click()
    panel.get_by_role("button", name="4 micro-batches in a step").click()
    expect(said).to_contain_text("sends 196 GB in a step, 4 times what DDP sends")
    panel.get_by_role("button", name="start over").click()
    expect(said).to_contain_text("holds 14 GB")


def test_slider_steps_and_a_size_of_ones_own(panel, lab_page):
    slider = panel.get_by_role("slider", name="Processes")
    slider.focus()
    lab_page.keyboard.press("End")
    expect(slider).to_have_attribute("aria-valuetext", "1024")
    panel.get_by_role("button", name="Processes divided by 2").click()
    expect(slider).to_have_attribute("aria-valuetext", "512")
    box = panel.get_by_label("Parameters", exact=True)
    box.fill("1.5 billion")
    box.press("Enter")
    expect(panel.get_by_role("row", name="DDP")).to_contain_text("24")
    box.fill("nothing")
    box.press("Enter")
    expect(panel.locator("[role=alert]").first).to_contain_text("is no size that I can read")


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
    assert "".join(data["text/html"]).startswith("<table>") and "".join(data["text/plain"]).startswith("ShardLedger: 7 B parameters")
