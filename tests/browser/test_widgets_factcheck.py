"""FactCheck in JupyterLab: vote, prove, walk, by mouse and by keyboard."""

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser


def test_vote_prove_and_walk(lab_page, lab_server):
    panel = open_panel(lab_page, lab_server, 'from course.teaching.panels import FactCheck\nFactCheck("formats", "formats-layouts")')
    said = panel.get_by_role("status")
    expect(said).to_contain_text("Vote before you look")
    panel.get_by_role("button", name="Run the proof").click()
    expect(panel.get_by_role("alert").last).to_contain_text("vote first")
    vote = panel.get_by_role("button", name="true", exact=True)
    vote.focus()
    lab_page.keyboard.press("ArrowRight")
    lab_page.keyboard.press("Enter")
    expect(said).to_contain_text("Your vote is “false”")
    panel.get_by_role("button", name="Run the proof").click()
    expect(said).to_contain_text("You said “false”; the verdict is “true”")
    expect(panel.get_by_role("row", name="BF16")).to_contain_text("1-8-7")
    panel.get_by_role("button", name="next ▶").click()
    expect(panel).to_contain_text("FP16 ends at 65 504")
    panel.get_by_role("combobox").select_option("cost")
    expect(panel).to_contain_text("Claim 1 of 10")
