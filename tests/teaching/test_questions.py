"""The question bank: well formed, proved; predictions and the self-test as pure functions."""

import math
from fractions import Fraction

import pytest
import torch

import course.numerics
from course.teaching import progress, questions

BANK = questions.bank()


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path))


@pytest.mark.parametrize("question", BANK.values(), ids=lambda q: q.id)
def test_every_proof_holds(question):
    names = {name: getattr(course.numerics, name) for name in course.numerics.__all__}
    assert question.proof.strip() not in ("True", "1")
    assert eval(question.proof, {"math": math, "Fraction": Fraction, "torch": torch, **names}) is True


@pytest.mark.parametrize("question", BANK.values(), ids=lambda q: q.id)
def test_every_question_is_complete(question):
    assert 3 <= len(question.options) <= 5 and all(option.text and len(option.why) > 15 for option in question.options)
    assert question.trap and question.follow_up.endswith("?") | question.follow_up.endswith(".")
    assert len({option.why for option in question.options}) == len(question.options)


def test_a_malformed_question_is_named(tmp_path, monkeypatch):
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "bad.yaml").write_text("- id: x\n  options: [{text: a, why: b}]\n")
    monkeypatch.setattr(questions, "DATA", tmp_path)
    with pytest.raises(ValueError, match="bad.yaml, question x"):
        questions.bank.__wrapped__()


def wrong_and_right(question):
    return next(i for i, option in enumerate(question.options) if not option.correct), question.answer


def test_a_prediction_is_kept_and_explained_only_when_asked():
    panel = questions.predict("02-tie")
    wrong, right = wrong_and_right(panel.state.question)
    assert "aria-pressed" in questions.view(panel.state) and "IEEE 754" not in questions.view(panel.state)
    panel.act({"act": "reveal"})
    assert not panel.state.revealed, "no explanation before a choice"
    panel.act({"act": f"choose {right}"})
    panel.act({"act": f"choose {wrong}"})
    assert progress.load()["predictions"]["02-tie"]["correct"] is False, "the last choice before the explanation counts"
    assert "IEEE 754" not in questions.view(panel.state)
    panel.act({"act": "reveal"})
    assert "IEEE 754" in questions.view(panel.state)
    assert f"You chose {'ABCD'[wrong]}; the answer is {'ABCD'[right]}." in questions.view(panel.state)
    panel.act({"act": f"choose {right}"})
    assert panel.state.chosen == wrong and "first choice stands" in panel.frame["html"]
    again = questions.predict("02-tie")
    assert f"You chose {'ABCD'[wrong]} before." in questions.view(again.state)
    assert progress.load()["predictions"]["02-tie"]["correct"] is False


def test_a_letter_does_what_a_click_does():
    _, right = wrong_and_right(BANK["02-ones"])
    assert questions.predict("02-ones", "abcd"[right]).state.chosen == right
    assert progress.load()["predictions"]["02-ones"]["correct"] is True
    panel = questions.predict("02-ones")
    panel.act({"act": "choose 7"})
    assert panel.state.chosen == right


def test_no_letter_is_right_in_more_than_half():
    for use in ("prediction", "self-test"):
        letters = [question.answer for question in BANK.values() if question.use == use]
        assert max(map(letters.count, letters)) <= len(letters) / 2


def test_predictions_show_the_same_text_whatever_was_chosen_before():
    before = repr(questions.predict("02-tie"))
    questions.predict("02-tie", "A")
    assert repr(questions.predict("02-tie")) == before and "<details>" in questions.predict("02-tie")._repr_mimebundle_()[0]["text/html"]


@pytest.mark.parametrize(("question", "answer", "words"), [("02-x", "", "choose one of 01-same-bits"), ("02-tie", "Z", "choose one of A, B")])
def test_wrong_ids_and_letters_are_explained(question, answer, words):
    with pytest.raises(ValueError, match=words):
        questions.predict(question, answer)


def test_the_self_test_points_to_the_first_gap():
    quiz = questions.self_test()
    assert len(quiz.state.questions) == 10
    notebooks = [q.notebook for q in quiz.state.questions]
    assert notebooks == sorted(notebooks)
    for wrong in [None, *range(10)]:
        quiz.act({"act": "again"})
        for i, question in enumerate(quiz.state.questions):
            pick = question.answer if i != wrong else (question.answer + 1) % len(question.options)
            quiz.act({"act": f"choose {pick}"})
            assert ("Right." in questions.view_quiz(quiz.state)) is (i != wrong)
            quiz.act({"act": "next"})
        expected = "03" if wrong is None else notebooks[wrong]
        assert f"Start with notebook {expected}" in questions.view_quiz(quiz.state)


def test_out_of_turn_actions_keep_the_state():
    quiz = questions.self_test()
    quiz.act({"act": "next"})
    assert quiz.state.answers == () and "answer the question" in quiz.frame["html"]
