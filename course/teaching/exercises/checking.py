"""Running a learner's function safely, and finding out which mistake it makes."""

import contextlib
import copy
import html
import inspect
import itertools
import linecache
import signal
import threading
import traceback
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


class _Alarm:
    """Stops a learner's code after a time. A signal can do that, but only on Unix and in the main thread, where cells run."""

    def __init__(self, seconds, function):
        self.usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        self.code, self.tries = getattr(function, "__code__", None), 0
        if self.usable:
            self.before = signal.signal(signal.SIGALRM, self.ring)
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def ring(self, number, frame):
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back
        if frame is None:  # between two cases: look again soon, and never raise where nobody waits for it
            return signal.setitimer(signal.ITIMER_REAL, 0.001)
        # A bare `except:` around a call swallows this. The next signal comes microseconds later, and after some tries
        # it meets the loop outside its `try`.
        self.tries += 1
        signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + self.tries % 40) if self.tries < 10_000 else 0.05)
        raise _TooLong

    def off(self):
        if self.usable:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.before)


def examine(exercise, function) -> Verdict:
    """Compare a function with an exercise's reference on all of its cases."""
    surroundings = getattr(exercise, "surroundings", contextlib.nullcontext)
    with surroundings():
        exercise.reference(*copy.deepcopy(exercise.cases[0]))  # what this loads for the first time is not the learner's time
    alarm = _Alarm(SECONDS, function)
    try:
        with surroundings():
            return _examine(exercise, function)
    except _TooLong:
        return Verdict("crashed", exercise.id, f"Your code did not finish within {SECONDS} seconds: does a loop never end?")
    except KeyboardInterrupt:
        return Verdict("crashed", exercise.id, "The check was interrupted.")
    finally:
        alarm.off()


def _examine(exercise, function):
    if not callable(function):
        return Verdict("crashed", exercise.id, f"check needs your function itself, not {_safe(function)}: write check({exercise.id!r}, name) without calling it.")
    results = []
    for case in exercise.cases:
        try:
            results.append(function(*copy.deepcopy(case)))
        except (_TooLong, KeyboardInterrupt):
            raise
        except BaseException as error:
            if isinstance(error, NotImplementedError) and not results:
                return not_attempted(exercise)
            return _crash(exercise, function, error, case)
        if inspect.isgenerator(results[-1]) or inspect.iscoroutine(results[-1]):
            results[-1].close()
            return Verdict("wrong", exercise.id, "your function gave a generator or a coroutine: use def and return, not yield or async.")
    return judge(exercise, results)


def judge(exercise, results) -> Verdict:
    """The verdict on what a function gave for each case of an exercise, in their order; nothing of it is run again."""
    if all(result is None or result is Ellipsis for result in results):
        return Verdict("not attempted", exercise.id, "your function returned None for every case: is a `return` missing?")
    if hasattr(exercise, "judge"):  # a trainer is judged by what its run shows, not by a result to agree with
        return exercise.judge(results)
    pairs = zip(exercise.cases, results)
    first_wrong = next((i for i, (case, result) in enumerate(pairs) if not exercise.agree(result, exercise.reference(*copy.deepcopy(case)))), None)
    if first_wrong is None:
        return Verdict("right", exercise.id, f"all {len(results)} cases agree. {exercise.why}")
    return _diagnose(exercise, results, first_wrong)


def not_attempted(exercise) -> Verdict:
    """The verdict on a stub."""
    return Verdict("not attempted", exercise.id, f'{exercise.title}. Replace the line that raises NotImplementedError; course.hint("{exercise.id}") helps.')


def _crash(exercise, function, error, case):
    code = getattr(function, "__code__", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename]
    words = _safe(error, str)
    what = f"{type(error).__name__}: {words}" if words else type(error).__name__
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
    found = _explanation(exercise, results, wanted)
    if not found:
        return Verdict("wrong", exercise.id, f"this is not one of the usual mistakes.\n{evidence}")
    message = "\nAnd: ".join(misconception.message for misconception in found)
    return Verdict("wrong", exercise.id, f"{message}\n{evidence}", " and ".join(m.name for m in found))


_ZERO = "only the sign of zero is wrong: with whole numbers -1 × 0 is just 0; multiply by -1.0 to keep -0."


def _explanation(exercise, results, wanted):
    """The misconceptions that a learner's results show: one that fits perfectly, one that nearly does, or two together.

    Nearly means every wrong case, or four fifths of all and most of the wrong ones; two together explain every wrong case.
    """
    wrong = [i for i, (result, want) in enumerate(zip(results, wanted)) if not exercise.agree(result, want)]
    alike = {}
    for misconception in exercise.misconceptions:
        answers = [misconception.solve(*copy.deepcopy(case)) for case in exercise.cases]
        alike[misconception] = {i for i, pair in enumerate(zip(results, answers)) if _alike(exercise, *pair)}
    best = max(alike, key=lambda misconception: len(alike[misconception]))
    explains_most = len(alike[best].intersection(wrong)) >= 0.7 * len(wrong)
    if len(alike[best]) == len(results) or (len(alike[best]) >= 0.8 * len(results) and explains_most):
        return [best]
    if whole := [misconception for misconception in alike if alike[misconception].issuperset(wrong)]:
        return [max(whole, key=lambda misconception: len(alike[misconception]))]
    pairs = itertools.combinations(exercise.misconceptions, 2)
    return next((list(pair) for pair in pairs if (alike[pair[0]] | alike[pair[1]]).issuperset(wrong)), [])


def _alike(exercise, result, answer):
    """Agreement that overlooks the sign of zero, which two ways of making the same mistake may differ in."""
    if exercise.agree(result, answer):
        return True
    try:
        return bool(result == 0 and answer == 0)
    except Exception:
        return False


def _brief(exercise, result):
    text = _safe(result, exercise.show_result)
    return text if len(text) <= 80 else text[:77] + "..."


def _safe(value, write=repr):
    """The text of a value that may have been made to break whoever shows it."""
    for attempt in (write, repr):
        try:
            return str(attempt(value))
        except Exception:
            pass
    return f"a {type(value).__name__} that cannot be shown"
