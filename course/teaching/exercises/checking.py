"""Running a learner's function safely, and finding out which mistake it makes."""

import copy
import html
import linecache
import signal
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, replace

SECONDS = 10


@dataclass(frozen=True)
class Verdict:
    """What a check found: `status` is "not attempted", "crashed", "wrong", "right" or "unknown"; `misconception` its name."""

    status: str
    exercise_id: str
    message: str
    misconception: str = ""
    note: str = ""

    def with_note(self, note):
        """The same verdict with one more sentence below it."""
        return replace(self, note=note)

    def __repr__(self):
        return f"{self.exercise_id} {self.status}: {self.message}" + (f"\n{self.note}" if self.note else "")

    def _repr_html_(self):
        sign = {"right": "✓", "wrong": "✗", "crashed": "⚠", "not attempted": "○"}.get(self.status, "?")
        note = f"<br><em>{html.escape(self.note)}</em>" if self.note else ""
        message = html.escape(self.message).replace("\n", "<br>")
        return f"<p><strong>{sign} {self.exercise_id} {html.escape(self.status)}</strong>: {message}{note}</p>"


class _TooLong(BaseException):
    """Raised inside a learner's endless loop; not an Exception, so that `except Exception` does not swallow it."""


@contextmanager
def _time_limit(seconds):
    # A signal can stop a Python loop, but only on Unix and in the main thread, where a notebook's cells run.
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def examine(exercise, function) -> Verdict:
    """Compare a function with an exercise's reference on all of its cases."""
    try:
        return _examine(exercise, function)
    except _TooLong:
        return Verdict("crashed", exercise.id, f"Your code did not finish within {SECONDS} seconds: does a loop never end?")
    except KeyboardInterrupt:
        return Verdict("crashed", exercise.id, "The check was interrupted.")


def _examine(exercise, function):
    if not callable(function):
        return Verdict("crashed", exercise.id, f"check needs your function itself, not {function!r}: write check({exercise.id!r}, name) without calling it.")
    results, first_wrong = [], None
    with _time_limit(SECONDS):
        for case in exercise.cases:
            try:
                results.append(function(*copy.deepcopy(case)))
            except NotImplementedError:
                return _not_attempted(exercise)
            except (Exception, SystemExit) as error:
                return _crash(exercise, function, error, case)
            if first_wrong is None and not exercise.agree(results[-1], exercise.reference(*copy.deepcopy(case))):
                first_wrong = len(results) - 1
    if all(result is None or result is Ellipsis for result in results):
        return Verdict("not attempted", exercise.id, "your function returned None for every case: is a `return` missing?")
    if first_wrong is None:
        return Verdict("right", exercise.id, f"all {len(results)} cases agree. {exercise.why}")
    return _diagnose(exercise, results, first_wrong)


def _not_attempted(exercise):
    return Verdict("not attempted", exercise.id, f'{exercise.title}. Replace the line that raises NotImplementedError; course.hint("{exercise.id}") helps.')


def _crash(exercise, function, error, case):
    code = getattr(function, "__code__", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename]
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    place = "Your code crashed"
    if frames:
        line = linecache.getline(frames[-1].filename, frames[-1].lineno).strip()
        place += f" at line {frames[-1].lineno}" + (f" ({line})" if line else "")
    return Verdict("crashed", exercise.id, f"{place} for {exercise.show(*case)}: {what}")


def _diagnose(exercise, results, first_wrong):
    wanted = [exercise.reference(*copy.deepcopy(case)) for case in exercise.cases]
    evidence = (
        f"First difference: {exercise.show(*exercise.cases[first_wrong])} gave {_brief(exercise, results[first_wrong])}, "
        f"not {exercise.show_result(wanted[first_wrong])}."
    )
    if all(_alike(exercise, result, want) for result, want in zip(results, wanted)):
        return Verdict("wrong", exercise.id, f"{_ZERO}\n{evidence}", "sign of zero")
    if note := exercise.remark(results[first_wrong], wanted[first_wrong]):
        return Verdict("wrong", exercise.id, f"{note}\n{evidence}")
    misconception, share = _closest(exercise, results, wanted)
    if misconception is None:
        return Verdict("wrong", exercise.id, f"this is not one of the usual mistakes.\n{evidence}")
    message = misconception.message if share == 1 else f"in most cases this is a known mistake: {misconception.message}"
    return Verdict("wrong", exercise.id, f"{message}\n{evidence}", misconception.name)


_ZERO = "only the sign of zero is wrong: with whole numbers -1 × 0 is just 0; multiply by -1.0 to keep -0."


def _closest(exercise, results, wanted):
    """The misconception that a learner's results show, and the share of cases in which they do; (None, 0) if none fits.

    A perfect match wins. Otherwise one may miss a fifth of the cases (two mistakes seldom come alone), if it still
    explains most of the wrong ones.
    """
    best = (None, 0)
    wrong = [not exercise.agree(result, want) for result, want in zip(results, wanted)]
    for misconception in exercise.misconceptions:
        answers = [misconception.solve(*copy.deepcopy(case)) for case in exercise.cases]
        alike = [_alike(exercise, result, answer) for result, answer in zip(results, answers)]
        explained = sum(a and w for a, w in zip(alike, wrong)) / sum(wrong)
        share = sum(alike) / len(alike)
        if share > best[1] and (share == 1 or (share >= 0.8 and explained >= 0.7)):
            best = (misconception, share)
    return best


def _alike(exercise, result, answer):
    """Agreement that overlooks the sign of zero, which two ways of making the same mistake may differ in."""
    if exercise.agree(result, answer):
        return True
    try:
        return bool(result == 0 and answer == 0)
    except Exception:
        return False


def _brief(exercise, result):
    try:
        text = exercise.show_result(result)
    except Exception:
        text = repr(result)
    return text if len(text) <= 80 else text[:77] + "..."
