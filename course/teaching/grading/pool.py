"""Nurseries, one for each worker: a submission's function goes in, a `Verdict` comes out, whatever the function does."""

import json
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from ..exercises import EXERCISES
from ..exercises.checking import Verdict, judge, not_attempted
from . import wire
from .child import Elsewhere

_MOST = 16_000_000  # bytes that one function may send in all


@dataclass(frozen=True)
class Limits:
    """Seconds of processor time and of the clock, bytes beyond what the libraries take, and whether system calls are filtered."""

    seconds: int = 10
    clock: float = 20.0
    memory: int = 2 << 30
    filter: bool = True


class Nursery:
    """A process that has loaded torch and makes a child for each job; a new one where the old one came to harm."""

    def __init__(self, limits=Limits(), private=()):
        self.limits, self.private, self.process, self.jobs = limits, tuple(map(str, private)), None, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def grade(self, candidate) -> Verdict:
        """The verdict on one candidate; a reason for zero where it broke a rule, or its process."""
        exercise = EXERCISES[candidate.exercise_id]
        functions, cases = [], []
        for case in exercise.cases:
            cases.append(pickle.dumps([_stay(part, functions) for part in case]))
        with tempfile.TemporaryDirectory(prefix="grade-") as folder:
            self.jobs += 1
            job = {"job": self.jobs, "imports": candidate.imports, "helpers": candidate.helpers, "definitions": candidate.definitions, "function": candidate.function, "cases": cases, "folder": folder,
                   "seconds": self.limits.seconds, "memory": self.limits.memory, "filter": self.limits.filter, "private": self.private}  # fmt: skip
            try:
                heard = self._converse(job, functions)
            except (OSError, ValueError, EOFError) as error:
                self.close()
                return Verdict("crashed", exercise.id, f"its process broke off: {error}" if str(error) else "its process broke off")
        return _conclude(exercise, heard, candidate.definitions)

    def _converse(self, job, functions):
        if self.process is None or self.process.poll() is not None:
            self._start()
        packed = pickle.dumps(job)
        self.process.stdin.write(struct.pack("I", len(packed)) + packed)
        self.process.stdin.flush()
        number = int(self._control(time.monotonic() + 120))  # a new nursery loads its libraries first
        heard, deadline = Heard(), time.monotonic() + self.limits.clock
        try:
            while not heard.over and (line := self._line(deadline, heard)) is not None:
                heard.take(line, functions, self._reply)
        finally:
            self._end(number, heard)
        return heard

    def _line(self, deadline, heard):
        """One line from the child; None where it has gone, sends too much, or the time is up."""
        while b"\n" not in self.buffer:
            ready = {key.data for key, _ in self.selector.select(max(0.0, deadline - time.monotonic()))}
            if "child" not in ready:
                heard.trouble = "" if ready else f"no end after {self.limits.clock:g} seconds: does a loop never end?"
                return None
            chunk = os.read(self.from_child, 1 << 16)
            self.buffer += chunk
            heard.bytes += len(chunk)
            if heard.bytes > _MOST or len(self.buffer) > 2 * wire.LONGEST:
                heard.trouble = "the results are too long"
                return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _end(self, number, heard):
        """See the child off; kill it if it does not go by itself."""
        if heard.trouble or not heard.over:
            patience = 0.0 if heard.trouble else 0.5
        else:
            patience = 2.0
        try:
            status = self._control(time.monotonic() + patience)
        except EOFError:
            _kill(number)
            status = self._control(time.monotonic() + 10)
        if not heard.over:
            heard.trouble = heard.trouble or _fate(int(status.split()[-1]))
        self._drain()

    def _drain(self):
        """Forget what a child that has gone may have left in the pipe."""
        os.set_blocking(self.from_child, False)
        try:
            while os.read(self.from_child, 1 << 20):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(self.from_child, True)
        self.buffer = b""

    def _reply(self, message):
        os.write(self.to_child, wire.text({**message, "job": self.jobs}).encode())

    def _control(self, deadline):
        """The next line of the nursery itself: a process number, or that the child has ended."""
        while b"\n" not in self.spoken:
            if self.process.poll() is not None:
                raise EOFError("the nursery does not answer")
            with selectors.DefaultSelector() as only:
                only.register(self.process.stdout, selectors.EVENT_READ)
                if only.select(max(0.0, min(0.5, deadline - time.monotonic()))):
                    self.spoken += os.read(self.process.stdout.fileno(), 4096)
                elif time.monotonic() >= deadline:
                    raise EOFError("the nursery does not answer")
        line, _, self.spoken = self.spoken.partition(b"\n")
        return line.decode()

    def _start(self):
        child_reads, self.to_child = os.pipe()
        self.from_child, child_writes = os.pipe()
        command = [sys.executable, "-m", "course.teaching.grading.child", str(child_reads), str(child_writes)]
        env = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "LANG", "HOME", "SYSTEMROOT", "LD_LIBRARY_PATH")}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        pass_fds=(child_reads, child_writes), env=env)  # fmt: skip
        os.close(child_reads)
        os.close(child_writes)
        self.buffer, self.spoken = b"", b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.from_child, selectors.EVENT_READ, "child")
        self.selector.register(self.process.stdout, selectors.EVENT_READ, "control")

    def close(self):
        """End the nursery and its pipes."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self.selector.close()
        for end in (self.process.stdin, self.process.stdout):
            try:
                end.close()
            except OSError:
                pass
        for descriptor in (self.to_child, self.from_child):
            os.close(descriptor)
        self.process = None


class Heard:
    """What a child has said so far."""

    def __init__(self):
        self.results, self.crash, self.breach, self.trouble, self.over, self.bytes, self.filtered = [], None, "", "", False, 0, None

    def take(self, line, functions, reply):
        """One message; a call of one of the case's functions is answered."""
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a message that is none")
        if "result" in message:
            self.results.append(wire.unpack(message["result"]))
        elif "call" in message:
            reply(_value(functions, message))
        elif "breach" in message:
            self.breach = self.breach or str(message["breach"])[:100]
        elif "crash" in message:
            self.crash, self.over = message, True
        elif "ready" in message:
            self.filtered = bool(message["ready"])
        elif "done" in message:
            self.over = True


def _value(functions, message):
    try:
        return {"value": wire.pack(functions[message["call"]](*wire.unpack(message["with"])))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def _stay(part, functions):
    """A function of the exercises stays here; what can be pickled without them goes along."""
    if callable(part) and type(part).__module__ != "course.teaching.workpieces":
        functions.append(part)
        return Elsewhere(len(functions) - 1)
    return part


def _fate(status):
    """Why a child ended without a last word, from the status that the system gives."""
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return "stopped by the limit on processor time: does a loop never end?" if name in ("SIGXCPU", "SIGKILL") else f"its process was ended by {name}"
    return "the code ended its own process (exit)"


def _kill(number):
    try:
        os.killpg(number, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _conclude(exercise, heard, definitions):
    if heard.breach:
        return Verdict("refused", exercise.id, f"zero: the code {heard.breach}.")
    if heard.trouble:
        return Verdict("crashed", exercise.id, heard.trouble)
    if heard.crash:
        crash = heard.crash
        if crash.get("stub") and not heard.results:
            return not_attempted(exercise)
        place = crash.get("case")
        where = f" for {exercise.show(*exercise.cases[place])}" if isinstance(place, int) and place < len(exercise.cases) else ""
        lines, number = definitions.splitlines(), crash.get("line", 0)
        at = f" at `{lines[number - 1].strip()}`" if isinstance(number, int) and 0 < number <= len(lines) else ""
        return Verdict("crashed", exercise.id, f"{crash['crash']}{at}{where}")
    if len(heard.results) != len(exercise.cases):
        return Verdict("crashed", exercise.id, f"{len(heard.results)} results for {len(exercise.cases)} cases")
    return judge(exercise, heard.results)


def grade(candidate, limits=Limits()) -> Verdict:
    """The verdict on one candidate, in a nursery of its own: slow, for a single one."""
    with Nursery(limits) as nursery:
        return nursery.grade(candidate)
