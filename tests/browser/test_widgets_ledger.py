"""MemoryLedger in JupyterLab: clicked, dragged, typed into and walked by keyboard, as a reader would."""

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser


@pytest.fixture
def ledger(lab_page, lab_server):
    """The panel, run in a notebook of its own."""
    return open_panel(lab_page, lab_server, 'from course.teaching.panels import MemoryLedger\nMemoryLedger("7 B", "FP32 masters")')


def said(panel):
    return panel.get_by_role("status")


def test_a_click_on_a_recipe_changes_bar_account_and_sentence(ledger):
    expect(said(ledger)).to_contain_text("It keeps 16 bytes per parameter, 112 GB or 104.31 GiB, exactly as much as FP32 and Adam")
    expect(ledger.locator("rect")).to_have_count(9)
    pure = ledger.get_by_role("button", name="pure BF16")
    pure.click()
    expect(pure).to_have_attribute("aria-pressed", "true")
    expect(ledger.get_by_role("button", name="FP32 masters", exact=True)).to_have_attribute("aria-pressed", "false")
    expect(said(ledger)).to_contain_text("8 bytes per parameter, 56 GB")
    expect(ledger.locator("rect")).to_have_count(8)
    expect(ledger.get_by_role("row", name="together")).to_contain_text("52.15")


def test_presets_and_typing_and_nonsense(ledger):
    ledger.get_by_role("button", name="70 B").click()
    expect(said(ledger)).to_contain_text("needs 8 cards of 141 GB")
    box = ledger.get_by_label("Parameters", exact=True)
    box.fill("1.5 billion")
    box.press("Enter")
    expect(said(ledger)).to_contain_text("fits on one card of 24 GB, with 0 GB left")
    box.fill("a lot <b>")
    box.press("Enter")
    expect(ledger.locator("[role=alert]").first).to_contain_text("is no size that I can read: try 7B")
    expect(box).to_have_value("a lot <b>")
    expect(said(ledger)).to_contain_text("fits on one card of 24 GB")
    ledger.get_by_role("button", name="start over").click()
    expect(box).to_have_value("7 B")


def test_the_slider_follows_and_the_keyboard_walks_the_recipes(lab_page, ledger):
    slider = ledger.get_by_role("slider")
    slider.focus()
    for size in ("7.9 B", "8.9 B", "10 B"):  # a twentieth of a power of ten each
        lab_page.keyboard.press("ArrowRight")
        expect(slider).to_have_attribute("aria-valuetext", size)
    expect(ledger.get_by_label("Parameters", exact=True)).to_have_value("10 B")
    ledger.get_by_role("button", name="FP32 and Adam").focus()
    lab_page.keyboard.press("ArrowRight")
    lab_page.keyboard.press("ArrowRight")
    lab_page.keyboard.press("Enter")
    expect(said(ledger)).to_contain_text("18 bytes per parameter, 180 GB")
    assert lab_page.evaluate("document.activeElement.dataset.act") == "recipe 2", "the focus stays where it was"
