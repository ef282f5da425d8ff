"""Exercises: references pass, each misconception is rejected by name, and no learner's function can break a check."""

import math
import sys
import time

import pytest

import course
from course.teaching import progress
from course.teaching.exercises import EXERCISES, checking, examine
from course.teaching.exercises.model import equal


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path))


def stub(*args):
    raise NotImplementedError


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda e: e.id)
class TestEveryExercise:
    def test_the_reference_passes(self, exercise):
        verdict = examine(exercise, exercise.reference)
        assert verdict.status == "right" and exercise.why in verdict.message

    def test_each_misconception_is_named(self, exercise):
        assert len(exercise.misconceptions) >= 2
        for misconception in exercise.misconceptions:
            verdict = examine(exercise, misconception.solve)
            assert (verdict.status, verdict.misconception) == ("wrong", misconception.name)
            assert verdict.message.startswith(misconception.message) and "First difference: " in verdict.message

    def test_the_stub_and_an_empty_body_are_not_attempted(self, exercise):
        for untouched in (stub, lambda *args: None, lambda *args: ...):
            assert examine(exercise, untouched).status == "not attempted"

    def test_another_wrong_answer_shows_the_first_difference(self, exercise):
        verdict = examine(exercise, lambda *args: "nonsense")
        assert verdict.status == "wrong" and "not one of the usual mistakes" in verdict.message and "nonsense" in verdict.message

    def test_hints_and_solution_are_complete(self, exercise):
        assert len(exercise.hints) == 3 and "___" in exercise.hints[2]
        assert exercise.difficulty in ("easy", "medium", "hard") and 1 <= exercise.minutes <= 20
        code = course.solution(exercise.id).code
        space = {"math": math, **vars(sys.modules[exercise.reference.__module__])}
        exec(compile(code, "solution", "exec"), space)  # what is shown to the learner is a working solution
        assert examine(exercise, space[exercise.reference.__name__]).status == "right"

    def test_cases_are_left_alone(self, exercise):
        before = repr(exercise.cases)

        def spoils(*args):
            for arg in args:
                if isinstance(arg, list):
                    arg.clear()
            return exercise.reference(*args)

        examine(exercise, spoils)
        assert repr(exercise.cases) == before


def test_a_crash_names_the_line_and_the_input():
    def learner(code):
        half = code >> 1
        return 1 / (half - half)

    verdict = course.check("01-1", learner)
    line = learner.__code__.co_firstlineno + 2
    assert verdict.status == "crashed" and f"at line {line}" in verdict.message
    assert "0x3C00 (0 01111 0000000000)" in verdict.message and "ZeroDivisionError" in verdict.message


@pytest.mark.parametrize("bad", [None, 3, "decode", 1.5])
def test_something_that_is_no_function_is_explained(bad):
    assert "needs your function itself" in course.check("01-1", bad).message


def test_nothing_a_function_does_gets_out(monkeypatch):
    monkeypatch.setattr(checking, "SECONDS", 1)

    def endless(code):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass

    def leaves(code):
        sys.exit(3)

    def interrupts(code):
        raise KeyboardInterrupt

    def deep(code):
        return deep(code)

    class Odd:
        def __eq__(self, other):
            raise RuntimeError("no comparing")

        def __repr__(self):
            raise RuntimeError("no showing")

    for function, words in ((endless, "did not finish"), (leaves, "SystemExit"), (interrupts, "interrupted"), (deep, "RecursionError")):
        assert words in course.check("01-1", function).message
    assert course.check("01-1", lambda code: [code]).status == "wrong"
    assert course.check("99-9", stub).status == "unknown"
    assert "01-1" in course.check("99-9", stub).message


def test_progress_remembers_and_untouched_stubs_leave_no_trace():
    course.check("01-2", stub)
    assert progress.load()["exercises"] == {}
    course.check("01-2", lambda bits: 0)
    assert progress.load()["exercises"]["01-2"]["status"] == "wrong"
    course.check("01-2", EXERCISES["01-2"].reference)
    assert progress.load()["exercises"]["01-2"]["status"] == "right"
    assert "1 of 5" in repr(course.progress()) and "<table>" in course.progress()._repr_html_()


def test_hints_ask_for_what_exists():
    assert "Next: course.hint" in repr(course.hint("02-1")) and "Next: course.solution" in repr(course.hint("02-1", 3))
    assert course.hint("02-1", 3).code == EXERCISES["02-1"].hints[2] and "<pre>" in course.hint("02-1", 3)._repr_html_()
    with pytest.raises(ValueError, match="three hints"):
        course.hint("02-1", 4)
    with pytest.raises(ValueError, match="choose one of"):
        course.solution("77")


def test_equality_is_strict_about_nan_zero_and_kinds():
    assert equal(math.nan, math.nan) and not equal(0.0, -0.0) and not equal(1.5, 1) and equal([1.0, 2], (1.0, 2))
