"""InterviewDrill and DailyReview as pure functions: the order of things, the clock, the rubric, the summary, what is kept."""

from datetime import date

import pytest

from course.teaching import progress
from course.teaching.interview import proofs
from course.teaching.interview.bank import LEVELS, TOPICS, bank
from course.teaching.panels import drill, review
from course.teaching.panels.drill import InterviewDrill, questions, start, table, text, update, view
from course.teaching.panels.drill_view import by_topic, say, weak

DAY = date(2026, 3, 2)


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path))


def do(state, *acts, at=0.0, value=""):
    for act in acts:
        state = update(state, {"act": act, "at": at, "value": value})
    return state


def test_choosing_levels_topics_and_length():
    state = do(start(), "level junior", "level mid", "topic bits", "length 3")
    assert state.levels == ("senior",) and "bits" not in state.topics and state.length == 3
    assert do(state, "every").levels == LEVELS and do(state, "level junior", "level junior").levels == state.levels
    state = do(state, "start")
    assert len(state.order) == 3 and all(bank()[key].level == "senior" and bank()[key].topic != "bits" for key in state.order)
    with pytest.raises(ValueError, match="a level and a topic at least"):
        do(start("junior"), "level junior", "start")


def test_an_interview_goes_through_the_topics_and_the_next_one_is_another():
    everything = tuple(TOPICS)
    assert len({bank()[key].topic for key in questions(LEVELS, everything, 10)}) == 10
    assert questions(LEVELS, everything, 6, 0) == questions(LEVELS, everything, 6, 0) != questions(LEVELS, everything, 6, 1)
    assert len(questions(("junior",), ("bits",), 10)) == sum(item.topic == "bits" and item.level == "junior" for item in bank().values())


def test_one_question_from_the_notes_to_the_follow_up():
    state = do(start(length=3), "start", at=100.0)
    item = state.item
    shown = lambda: view(state) + text(state) + table(state)  # noqa: E731
    assert item.question[:30] in text(state) and item.short not in shown() and item.must[0] not in shown()
    state = do(state, "notes", value="range <b> first", at=140.0)
    assert "range &lt;b&gt; first" in view(state) and progress.load()["notes"][item.id]["text"] == "range <b> first"
    state = do(state, "rubric", at=175.4)
    assert state.seconds == 75 and "You took 75 s, within two minutes" in say(state) and item.trap not in shown() and item.short not in shown()
    state = do(state, "tick 0", "tick 2", "tick 0", "tick 1")
    assert state.ticked == (1, 2) and f"2 of {len(item.must)} so far" in say(state) and f"  x {item.must[1]}" in text(state)
    state = do(state, "answer")
    assert f"You did not mention:</em> {item.must[0]}" in view(state) and f"mention:</em> {item.must[1]}" not in view(state)
    assert state.proof is None and item.trap in text(state) and "The proof holds" not in view(state)
    state = do(state, "prove")
    assert state.proof is True and "The proof holds." in view(state) and "The proof holds." in text(state)
    state = do(state, "next", at=300.0)
    assert state.answered[0] == drill.Answered(item.id, (1, 2), 75) and state.phase == "ask" and state.notes == "" and state.proof is None
    assert progress.load()["interviews"][item.id] | {"when": ""} == {"ticked": 2, "of": len(item.must), "seconds": 75, "times": 1, "when": ""}
    assert do(state, "rubric", at=450.0).seconds == 150 and "longer than two minutes" in say(do(state, "rubric", at=450.0))


def test_a_proof_that_fails_is_told(monkeypatch):
    state = do(start(length=3), "start", "rubric", "answer")
    monkeypatch.setattr(proofs, "run", lambda proof: False)
    assert "The proof does not hold" in view(do(state, "prove")) and "does not hold" in text(do(state, "prove"))


def finished(named):
    """An interview of six in which `named(place, points)` points of each rubric were ticked."""
    state = do(start(), "start")
    for place in range(6):
        state = do(state, "rubric", *(f"tick {i}" for i in range(named(place, len(state.item.must)))), "answer", "next", at=10.0 * place)
    return state


def test_the_summary_names_the_weak_topics():
    state = finished(lambda place, points: points if place > 1 else place)
    assert state.phase == "done" and len(by_topic(state.answered)) == 6
    first, second = (bank()[key].topic for key in state.order[:2])
    assert weak(state.answered) == [first, second]
    assert say(state) == f"Weak topics: {TOPICS[first]}, {TOPICS[second]}." and "Read again" in view(state) and bank()[state.order[0]].question[:20] in view(state)
    assert f"{TOPICS[first]}: 0 of {len(bank()[state.order[0]].must)} points, 1 questions, 0 s" in text(state) and "Your interview" in table(state)
    assert "No weak topic" in say(finished(lambda place, points: points))


def test_a_second_interview_asks_other_questions():
    first = finished(lambda place, points: 1)
    again = do(do(first, "restart"), "start")
    assert again.taken == 6 and again.order != first.order


@pytest.mark.parametrize(("before", "act", "words"), [
    ([], "rubric", "press “Start”"),
    (["start"], "answer", "Show the rubric"),
    (["start"], "tick 0", "Show the rubric"),
    (["start"], "prove", "Show the rubric"),
    (["start", "rubric"], "next", "Show the model answer"),
    (["start", "rubric"], "tick 9", "the rubric has"),
    (["start", "rubric", "answer"], "tick 0", "run the proof"),
    (["start", "rubric", "answer"], "notes", "run the proof"),
    ([], "level expert", "'expert' is none of junior"),
])  # fmt: skip
def test_out_of_turn_is_told(before, act, words):
    with pytest.raises(ValueError, match=words):
        do(do(start(), *before), act)


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="length=4: choose 3, 6, 10"):
        InterviewDrill(length=4)
    with pytest.raises(ValueError, match="'expert' is no level"):
        InterviewDrill("expert")


def test_long_notes_are_cut_and_a_damaged_count_is_no_trouble():
    state = do(start(), "start")
    assert len(do(state, "notes", value="x" * 10_000).notes) == drill.LONGEST_NOTE
    progress.record("interviews", "bits-01", times="many")
    assert do(start(), "start").taken == 0


def test_the_panel_reads_the_clock_itself(monkeypatch):
    panel = InterviewDrill("junior", "bits", 3)
    times = iter([1000.0, 1042.0])
    monkeypatch.setattr(drill.time, "monotonic", lambda: next(times))
    panel.act({"act": "start"})
    panel.act({"act": "rubric"})
    assert panel.state.seconds == 42 and "You took 42 s" in panel.frame["html"]


def test_each_question_gets_a_text_box_of_its_own():
    state = do(start(length=3), "start")
    following = do(state, "rubric", "answer", "next")
    assert "<section><label" in view(following) and "<section>" not in view(state)


# ---- the daily review


def step(state, *acts):
    for act in acts:
        state = review.update(state, {"act": act})
    return state


def test_a_day_of_review():
    state = step(review.ReviewState(DAY, 2), "begin")
    first, second = state.queue
    assert bank()[first].short not in review.view(state) + review.text(state)
    state = step(state, "show")
    assert bank()[first].short in review.view(state) and "good: 2 days" in review.view(state)
    state = step(state, "rate again", "show", "rate good")
    assert state.queue == (first,), "what was not known comes once more today"
    state = step(state, "show", "rate good")
    assert state.queue == () and "Done for 2026-03-02: 3 ratings." in review.say(state) and "2026-03-04" in review.text(state)
    assert second in progress.load()["cards"] and step(review.ReviewState(DAY, 2), "begin").queue == ()


@pytest.mark.parametrize(("before", "act"), [(["begin"], "rate good"), ([], "show"), ([], "rate good"), (["begin"], "begin")])
def test_review_out_of_turn_is_told(before, act):
    with pytest.raises(ValueError, match="rate"):
        step(step(review.ReviewState(DAY, 2), *before), act)


def test_a_day_without_cards_says_so():
    state = step(review.ReviewState(DAY, 0), "begin")
    assert state.queue == () and "0 ratings" in review.say(state) and review.table(state)


def test_a_notebook_left_open_over_night_begins_the_new_day(monkeypatch):
    class Tomorrow(date):
        @classmethod
        def today(cls):
            return date(2031, 1, 2)

    floating, fixed = review.DailyReview(new_per_day=2), review.DailyReview(DAY, 2)
    monkeypatch.setattr(review, "date", Tomorrow)
    for panel, day in ((floating, date(2031, 1, 2)), (fixed, DAY)):
        panel.act({"act": "begin"})
        assert panel.state.day == day and len(panel.state.queue) == 2


def test_damaged_cards_are_told():
    progress.record("cards", "bits-01", card="broken")
    assert "1 kept cards could not be read" in review.say(step(review.ReviewState(DAY, 2), "begin"))
