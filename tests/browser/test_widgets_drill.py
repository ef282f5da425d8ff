"""InterviewDrill and DailyReview in JupyterLab: notes typed, a rubric ticked by keyboard, a proof run; a card rated."""

import pytest

from tests.browser.harness import open_panel

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser


def test_a_mock_interview(lab_page, lab_server):
    panel = open_panel(lab_page, lab_server, 'from course.teaching.panels import InterviewDrill\nInterviewDrill("junior", ["bits", "rounding"], 3)')
    said = panel.get_by_role("status")
    expect(said).to_contain_text("questions to draw from")
    panel.get_by_role("button", name="Start the interview").click()
    notes = panel.get_by_role("textbox")
    notes.fill("first answer\nin two lines")
    panel.get_by_role("button", name="Show the rubric").click()
    expect(said).to_contain_text("within two minutes")
    expect(panel).to_contain_text("first answer\nin two lines")
    panel.get_by_role("group").get_by_role("button").first.focus()
    lab_page.keyboard.press("Enter")
    lab_page.keyboard.press("ArrowRight")
    lab_page.keyboard.press("Enter")
    expect(said).to_contain_text("2 of ")
    panel.get_by_role("button", name="Show the model answer").click()
    expect(panel).to_contain_text("The trap:")
    panel.get_by_role("button", name="Run the proof").click()
    expect(panel).to_contain_text("The proof holds.", timeout=60_000)  # the first proof loads torch
    panel.get_by_role("button", name="Next question").click()
    expect(panel).to_contain_text("Question 2 of 3")
    expect(panel.get_by_role("textbox")).to_have_value("")


def test_a_review(lab_page, lab_server):
    panel = open_panel(lab_page, lab_server, "from course.teaching.panels import DailyReview\nDailyReview(new_per_day=2)")
    panel.get_by_role("button", name="Begin").click()
    panel.get_by_role("button", name="Show the answer").click()
    panel.get_by_role("button", name="good: 2 days").click()
    expect(panel).to_contain_text("1 to go")
    panel.get_by_role("button", name="Show the answer").click()
    panel.get_by_role("button", name="easy").click()
    expect(panel.get_by_role("status")).to_contain_text("2 ratings")
