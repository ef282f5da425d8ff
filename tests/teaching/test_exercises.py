"""Exercises: references pass, each misconception is rejected by name, and no learner's function can break a check."""

import math
import signal
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction

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


def test_what_the_reference_loads_is_not_the_learner_s_time(monkeypatch):
    monkeypatch.setattr(checking, "SECONDS", 0.3)
    loaded = []

    def reference(number):
        time.sleep(0 if loaded else 0.6)  # as an import that only the first call pays for
        loaded.append(number)
        return number

    exercise = replace(EXERCISES["01-1"], cases=((1,),), reference=reference)
    assert examine(exercise, reference).status == "right"


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

    def stubborn(code):
        while True:
            try:
                time.sleep(0.01)
            except:  # noqa: E722
                pass

    def generates(code):
        yield code

    async def waits(code):
        return code

    def raises_odd(code):
        raise type("Odd", (BaseException,), {"__str__": Odd.__repr__})()

    cases = [(endless, "did not finish"), (stubborn, "did not finish"), (leaves, "SystemExit"), (interrupts, "interrupted"),
             (deep, "RecursionError"), (generates, "return, not yield"), (waits, "return, not yield"), (raises_odd, "Odd"),
             (lambda code: Odd(), "cannot be shown"), (lambda code: 10**5000, "cannot be shown"), (Odd(), "cannot be shown")]  # fmt: skip
    for function, words in cases:
        assert words in repr(course.check("01-1", function))
    for odd_id in ("99-9", ["01-1"], None):
        verdict = course.check(odd_id, stub)
        assert verdict.status == "unknown" and "01-1" in verdict.message
    for not_a_number in (str, lambda code: {code}, lambda code: [code]):
        assert course.check("01-1", not_a_number).status == "wrong"


def test_the_timer_and_its_handler_are_put_back():
    before = signal.getsignal(signal.SIGALRM)
    examine(EXERCISES["01-2"], EXERCISES["01-2"].reference)
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(examine(EXERCISES["01-2"], EXERCISES["01-2"].reference)))
    thread.start()
    thread.join()
    assert outcome[0].status == "right", "signals belong to the main thread; a check elsewhere does without"


def test_a_stub_finished_in_part_is_not_called_untouched():
    def half_done(code):
        if code >> 10 & 31 in (0, 31):
            raise NotImplementedError
        return EXERCISES["01-1"].reference(code)

    assert "NotImplementedError" in course.check("01-1", half_done).message and course.check("01-1", half_done).status == "crashed"
    assert "is a `return` missing" in course.check("01-1", lambda code: None).message


def test_the_first_difference_is_the_first_one_in_bits():
    verdict = course.check("01-1", lambda code: EXERCISES["01-1"].reference(code) if code != 0x3555 else 7.0)
    assert "0x3555 (0 01101 0101010101) gave 7.0" in verdict.message and "not 0.33325195" in verdict.message
    long = course.check("01-1", lambda code: list(range(1000)))
    assert len(long.message) < 400 and "..." in long.message
    assert "&lt;b&gt;" in examine(EXERCISES["01-1"], lambda code: Tagged())._repr_html_()
    assert "a note" in repr(verdict.with_note("a note")) and "a note" in verdict.with_note("a note")._repr_html_()


class Tagged:
    def __repr__(self):
        return "<b>"


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("01-1", lambda code: (1 + (code & 1023) / 1024) * 2.0 ** ((code >> 10 & 31) - 15) * (-1) ** (code >> 15), "two exponent fields are treated as ordinary"),
    ("01-4", lambda code: (-1) ** (code >> 7) * (code & 7) * 2.0**-9 if code & 0x78 == 0 else EXERCISES["01-4"].reference(code), "only the sign of zero"),
    ("02-2", lambda x: 2.0 ** (math.frexp(x)[1] - 11), "below 2^-14 the spacing stops shrinking"),
    ("02-4", lambda x, quantum, u: math.floor(x / quantum + u) * quantum, "goes up for large u"),
    ("02-5", lambda a, b: float(a) + float(b) - float(Fraction(a) + Fraction(b)), "Wrap the computed sum in Fraction"),
    ("02-6", lambda values, rounded: rounded(math.fsum(values)), "only the final sum is rounded"),
])  # fmt: skip
def test_natural_variants_of_a_mistake_are_recognised(exercise_id, solve, words):
    assert words in examine(EXERCISES[exercise_id], solve).message


def test_two_mistakes_at_once_are_both_named():
    two = EXERCISES["01-1"].misconceptions
    no_specials = next(m for m in two if m.name == "forgot Inf and NaN").solve
    flushed = next(m for m in two if m.name == "flushed subnormals").solve
    verdict = examine(EXERCISES["01-1"], lambda code: flushed(code) if code & 0x7C00 == 0 else no_specials(code))
    assert verdict.status == "wrong" and "not one of the usual" not in verdict.message


def test_progress_remembers_and_untouched_stubs_leave_no_trace():
    course.check("01-2", stub)
    assert progress.load()["exercises"] == {}
    course.check("01-2", lambda bits: 0)
    assert progress.load()["exercises"]["01-2"]["status"] == "wrong"
    course.check("01-2", EXERCISES["01-2"].reference)
    course.check("01-2", lambda bits: 0)
    assert progress.load()["exercises"]["01-2"]["solved"] is True, "trying a mistake afterwards takes nothing away"
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
