"""The processes that run submissions: a nursery that has loaded what takes long, and a fenced child for each function.

Started by `pool` as `python -m course.teaching.grading.child READ WRITE`. It must never import the exercises: what is not in
memory cannot be looked up. Jobs come from the parent as pickles, which is the trusted direction; answers go back as JSON lines.
"""

import json
import os
import pickle
import struct
import sys
import tempfile
import traceback

from . import fence, wire


def nursery(read, write):
    """Load the libraries, then for each job on stdin fork a child; tell on stdout its number and when it has ended."""
    sys.dont_write_bytecode = True
    sys.modules["numba"] = None  # compiled kernels call machine code, which the fence forbids; torch rounds as well
    import numpy  # noqa: F401
    import torch
    import torch._dynamo  # noqa: F401  # the first step of an optimizer loads it, and more than a second with it
    import torch.nn.functional  # noqa: F401

    import course.numerics
    import course.numerics.scales
    import course.teaching.workpieces
    import course.training.recipes  # noqa: F401

    tempfile.gettempdir()  # finds out once by writing a file, which a child could not
    torch.set_num_threads(1)  # the threads of a pool do not survive a fork
    while head := sys.stdin.buffer.read(4):
        job = pickle.loads(sys.stdin.buffer.read(struct.unpack("I", head)[0]))
        number = os.fork()
        if number == 0:
            _child(job, read, write)
        print(number, flush=True)
        print("ended", os.waitpid(number, 0)[1], flush=True)


def _child(job, read, write):
    """Run one function on its cases behind the fence. Never returns."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    if hasattr(os, "setsid"):
        os.setsid()
    channel = Channel(read, write, job["job"])
    try:
        fence.limit(job["seconds"], job["memory"], job["folder"])
        filtered = fence.filter_calls() if job["filter"] else False
        serious = fence.watch(lambda words: channel.send({"breach": words}), job["private"])
        channel.send({"ready": filtered})
        _answer(job, channel, serious)
    except BaseException as error:
        channel.try_to_send({"crash": f"{type(error).__name__}: {error}"[:300], "line": 0})
    os._exit(0)


class Channel:
    """Lines of JSON to the parent, and its answers."""

    def __init__(self, read, write, job):
        self.reader, self.write, self.job = os.fdopen(read, encoding="utf-8"), write, job

    def send(self, message):
        data = wire.text(message).encode()
        while data:
            data = data[os.write(self.write, data) :]

    def try_to_send(self, message):
        try:
            self.send(message)
        except BaseException:
            pass

    def ask(self, number, arguments):
        """The value of a function that stayed with the parent."""
        self.send({"call": number, "with": wire.pack(list(arguments))})
        answer = json.loads(self.reader.readline())
        while answer["job"] != self.job:  # meant for a child that was stopped before it could read it
            answer = json.loads(self.reader.readline())
        if "error" in answer:
            raise TypeError(answer["error"])
        return wire.unpack(answer["value"])


def _answer(job, channel, serious):
    namespace = {"__name__": "__main__"}
    _lend(job["imports"].splitlines(), namespace)  # a missing library shows where its name is used
    serious[0] = True
    _lend(job["helpers"], namespace)
    try:
        exec(compile(job["definitions"], "<submission>", "exec"), namespace)
        function = eval(job["function"], namespace)
    except BaseException as error:
        return channel.send({"crash": _words(error), "line": _line(error)})
    for place, case in enumerate(job["cases"]):
        try:
            result = function(*_arguments(pickle.loads(case), channel))
        except BaseException as error:
            return channel.send({"crash": _words(error), "line": _line(error), "case": place, "stub": isinstance(error, NotImplementedError)})
        channel.send({"result": wire.pack(result)})
    channel.send({"done": True})


def _lend(sources, namespace):
    for source in sources:
        try:
            exec(compile(source, "<submission>", "exec"), namespace)
        except Exception:
            pass


def _arguments(case, channel):
    """A case with the functions in it replaced by ones that ask the parent."""
    return [_remote(channel, part.number) if isinstance(part, Elsewhere) else part for part in case]


def _remote(channel, number):
    def function(*arguments):
        return channel.ask(number, arguments)

    return function


class Elsewhere:
    """Stands in a case for a function that stays with the parent."""

    def __init__(self, number):
        self.number = number


def _words(error):
    try:
        words = str(error)
    except BaseException:
        words = ""
    return (f"{type(error).__name__}: {words}" if words else type(error).__name__)[:300]


def _line(error):
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<submission>"]
    return frames[-1].lineno if frames else 0


if __name__ == "__main__":
    from course.teaching.grading.child import nursery as start  # so that `Elsewhere` has one home

    start(int(sys.argv[1]), int(sys.argv[2]))
