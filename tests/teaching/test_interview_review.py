"""Daily review: the same ratings give the same days; what is kept survives, and a damaged card harms no other."""

import json
import subprocess
import sys
from datetime import date, timedelta

import pytest

from course.teaching import progress
from course.teaching.interview import review
from course.teaching.interview.bank import TOPICS, bank

DAY = date(2026, 3, 2)


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path))
    return tmp_path


def test_a_first_day_has_new_cards_of_every_topic():
    found = review.today(DAY, new_per_day=10)
    assert found.due == () and len(found.new) == 10
    assert {bank()[item_id].topic for item_id in found.new} == set(TOPICS) and {bank()[item_id].level for item_id in found.new} == {"junior"}


def test_a_card_comes_again_on_the_day_it_is_due_and_not_before():
    item_id = review.today(DAY).new[0]
    due, trouble = review.rate(item_id, "good", DAY)
    assert trouble == "" and due == DAY + timedelta(days=2)
    assert item_id not in review.today(DAY + timedelta(days=1)).due + review.today(DAY + timedelta(days=1)).new
    assert review.today(due).due == (item_id,) == review.today(due + timedelta(days=30)).due


def test_the_most_overdue_comes_first():
    first, second = review.today(DAY).new[:2]
    review.rate(first, "easy", DAY)
    review.rate(second, "again", DAY)
    assert review.today(DAY + timedelta(days=60)).due == (second, first)


def test_new_cards_are_counted_by_day():
    for item_id in review.today(DAY, 3).new:
        review.rate(item_id, "good", DAY)
    assert review.today(DAY, 3).new == () and len(review.today(DAY + timedelta(days=1), 3).new) == 3


def test_better_ratings_wait_longer_and_nothing_is_kept_by_asking():
    item_id = "bits-01"
    days = review.choices(item_id, DAY)
    assert days["again"] <= days["hard"] <= days["good"] < days["easy"] and "cards" not in progress.load()
    for rating in review.RATINGS:
        assert (review.rate(item_id, rating, DAY)[0] - DAY).days >= 1


def test_the_same_ratings_give_the_same_days():
    ratings = ["good", "hard", "again", "good", "easy", "good"]
    assert review.intervals(ratings) == review.intervals(ratings)
    assert review.intervals(["good"] * 6, 0.95)[-1] < review.intervals(["good"] * 6, 0.9)[-1]
    day, found = DAY, []
    for rating in ratings:
        due, _ = review.rate("bits-01", rating, day)
        found.append((due - day).days)
        day = due
    assert found == review.intervals(ratings), "what is kept between days is the whole state"


@pytest.mark.parametrize("damage", [
    {"card": None}, {"card": {}}, {"card": {"due": "soon"}}, {"card": "x"}, {}, {"card": {"card_id": 1, "state": 2, "step": None, "stability": "much",
    "difficulty": 5.0, "due": "2026-03-04T12:00:00+00:00", "last_review": "2026-03-02T12:00:00+00:00"}},
    {"card": {"card_id": 1, "state": 2, "step": None, "stability": -1.0, "difficulty": 5.0, "due": "2026-03-04T12:00:00+00:00", "last_review": "2026-03-02T12:00:00+00:00"}},
    {"card": {"card_id": 1, "state": 2, "step": None, "stability": 2.0, "difficulty": 5.0, "due": "2026-03-04T12:00:00", "last_review": "2026-03-02T12:00:00"}},
])  # fmt: skip
def test_a_damaged_card_begins_anew_and_the_others_stay(damage):
    review.rate("bits-01", "good", DAY)
    review.rate("bits-02", "good", DAY)
    path = progress.progress_file()
    state = json.loads(path.read_text())
    state["cards"]["bits-01"] = damage
    path.write_text(json.dumps(state))
    found = review.today(DAY + timedelta(days=2), 500)
    assert found.due == ("bits-02",) and found.unreadable == ("bits-01",) and "bits-01" in found.new
    assert review.rate("bits-01", "good", DAY)[0] == DAY + timedelta(days=2)
    assert review.today(DAY + timedelta(days=2)).unreadable == ()


def test_a_write_that_dies_halfway_keeps_what_was_there(monkeypatch):
    review.rate("bits-01", "good", DAY)
    before = progress.progress_file().read_text()

    def dies(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", dies)
        review.rate("bits-02", "good", DAY)
    assert progress.progress_file().read_text() == before and set(progress.load()["cards"]) == {"bits-01"}


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path / "file" / "below"))
    assert "COURSE_PROGRESS_DIR" in review.rate("bits-01", "good", DAY)[1]


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="no question 'x'"):
        review.rate("x", "good", DAY)
    with pytest.raises(ValueError, match="'fine' is no rating: choose again, hard, good, easy"):
        review.rate("bits-01", "fine", DAY)


def test_a_kill_at_any_moment_loses_no_card(own_progress):
    """A process that rates cards without end is killed; what it had kept is whole, and nothing else has to be mended."""
    code = (
        "import itertools\nfrom datetime import date\nfrom course.teaching.interview import bank, review\n"
        "for item in itertools.cycle(bank.bank()):\n    review.rate(item, 'good', date(2026, 3, 2)); print(item, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    told = [child.stdout.readline().strip() for _ in range(25)]
    child.kill()
    child.wait()
    found = review.today(DAY, new_per_day=0)
    assert set(told) <= set(progress.load()["cards"]) and found.unreadable == ()
    progress.progress_file().with_suffix(".lock").unlink(missing_ok=True)  # else the next write waits until it is stale
    assert review.rate(told[0], "good", DAY + timedelta(days=5))[1] == "" and set(told) <= set(progress.load()["cards"])
