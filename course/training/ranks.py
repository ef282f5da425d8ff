"""Several processes for the length of one function: they form a gloo group, answer, and are gone.

`launch(function, 4)` starts a leader in a session of its own, which forks the processes (or spawns them, where a system cannot fork).
They meet over a file, talk over the loopback interface, and each calls `function(*arguments)`. Three things keep anything from being
left behind: the caller kills the whole session whatever happens, the leader ends when the caller's end of a pipe closes, and
each process ends when the leader has gone. For runs that last, `torchrun` and `course.training.processes` are the tools.
"""

import ast
import importlib
import inspect
import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

from course.training import RunError

PATIENCE = 120  # seconds that a launch may take, by default
METHOD = "fork" if sys.platform == "linux" else "spawn"  # how a process begins; a fork does not load torch once more


def launch(function, size, *arguments, patience=PATIENCE, method=METHOD) -> list:
    """What `function(*arguments)` returns in each of `size` processes that torch.distributed connects with gloo, in their order.

    Of a module the function goes by name; one that was written in a notebook goes as its text, so it has to import what it uses
    (`torch` and `dist`, torch.distributed, are there). Arguments and results are tensors, numbers, texts, and lists, tuples and
    dicts of them. `method` is multiprocessing's. Raises `RunError` with the first error of a process, when one dies, and after `patience` seconds.

    >>> def total(mine):
    ...     value = torch.tensor(mine[dist.get_rank()])
    ...     dist.all_reduce(value)
    ...     return value.item()
    >>> launch(total, 2, [1.5, 2.0])  # doctest: +SKIP
    [3.5, 3.5]
    """
    import torch

    with tempfile.TemporaryDirectory(prefix="course-ranks-", ignore_cleanup_errors=True) as folder:
        torch.save({"function": _sendable(function), "loads": _loads(function), "size": size, "method": method, "arguments": arguments}, Path(folder) / "plan.pt")
        _run(folder, patience, f"{size} processes for {getattr(function, '__name__', function)}")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _sendable(function):
    """(module, name), or (None, name, the function's text) where no other process can import it."""
    if function.__module__ != "__main__":
        return function.__module__, function.__qualname__
    try:
        return None, function.__name__, textwrap.dedent(inspect.getsource(function))
    except OSError:
        raise RunError(f"the text of {function.__name__} cannot be found: write it in a cell or in a module") from None


def _loads(function):
    """Modules that the leader loads before the processes part, so that each second of it is spent once: what the text imports."""
    try:
        text = inspect.getsource(inspect.getmodule(function) if function.__module__ != "__main__" else function)
        nodes = list(ast.walk(ast.parse(textwrap.dedent(text))))
    except (OSError, TypeError, SyntaxError):
        return []
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}  # a name may be a module
    return sorted(found) + ["torch._dynamo"] * ("optim" in text or "ddp" in text.lower())  # which optimizers and DDP load


def _run(folder, patience, what):
    """Start the leader and wait for it. Whatever happens here, an interrupt too, its whole session is killed at the end."""
    command = [sys.executable, "-m", "course.training.ranks", folder]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])}
    leader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=-3, stderr=subprocess.PIPE, env=environment, start_new_session=True)
    try:
        words = _heard(leader, patience, what)
        failures = Path(folder) / "failure.txt"
        if leader.returncode:
            raise RunError(f"{what}: {failures.read_text() if failures.exists() else words.strip()[-300:] or 'the leader died'}")
    finally:
        _kill(leader)


def _heard(leader, patience, what):
    try:
        # Not communicate(): it would close the pipe at once, and with it the leader's life.
        said = []
        reader = threading.Thread(target=lambda: said.append(leader.stderr.read()), daemon=True)
        reader.start()
        leader.wait(patience)
        reader.join(5)
        return b"".join(said).decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise RunError(f"{what}: no answer within {patience} s, so they were ended; give more with patience=") from None


def _kill(leader):
    """End the leader and all that it has started, and wait until they are gone; where it ended well, they have."""
    leader.stdin.close()
    if leader.poll() != 0:
        import psutil

        try:
            family = psutil.Process(leader.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(leader.pid, signal.SIGKILL)  # also those whose parent has gone already
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        leader.kill()
        leader.wait()
        psutil.wait_procs(family, 5)
    leader.stderr.close()


# ---- in the leader


def lead(folder):
    """Start the processes of the plan in `folder`, see them through, and write down what went wrong with the first that failed."""
    import torch

    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    plan = torch.load(Path(folder) / "plan.pt")
    size, context = plan["size"], multiprocessing.get_context(plan["method"])
    for module in plan["loads"]:
        with suppress(ImportError):  # a name that is no module, or a mistake: the process itself will say so
            importlib.import_module(module)
    workers = [context.Process(target=work, args=(folder, rank, size)) for rank in range(size)]
    for worker in workers:
        worker.start()
    waiting = {worker.sentinel: rank for rank, worker in enumerate(workers)}
    while waiting:
        for sentinel in wait(list(waiting)):
            rank = waiting.pop(sentinel)
            workers[rank].join()
            if workers[rank].exitcode:
                return _failed(folder, rank, workers)
    return 0


def _end_with_the_caller():
    os.read(0, 1)  # nothing is ever sent: this returns when the caller has gone (sys.stdin's lock would be forked, locked)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


def _failed(folder, rank, workers):
    """Write down the cause: an error of a process's own, else a death; lost connections are only what the others heard of it."""
    time.sleep(0.3)
    told = [path.read_text() for path in sorted(Path(folder).glob("*.error"))]
    died = [f"process {i} of {len(workers)} died ({_code(worker.exitcode)})" for i, worker in enumerate(workers) if worker.exitcode not in (None, 0, 1)]
    own = [words for words in told if not any(word in words.lower() for word in ("gloo", "connection"))]
    words = (own + died + [f"process {rank} of {len(workers)} lost the others"])[0]
    (Path(folder) / "failure.txt").write_text(words)
    for worker in workers:
        worker.kill()
    return 1


def _code(exitcode):
    return f"signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"


# ---- in each process


def work(folder, rank, size):
    """Join the others, call the function, leave its result in `folder`."""
    threading.Thread(target=_end_with_the_leader, daemon=True).start()
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if os.name == "posix":  # nothing has to leave this machine, so nothing is let out
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    try:
        store = dist.FileStore(str(Path(folder) / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        plan = torch.load(Path(folder) / "plan.pt")
        answer = _found(*plan["function"])(*plan["arguments"])
        _save(answer, Path(folder) / f"{rank}.pt")
        dist.barrier()  # nobody leaves while another still speaks to it
        dist.destroy_process_group()
    except BaseException as error:
        (Path(folder) / f"{rank}.error").write_text(f"process {rank} of {size}: {type(error).__name__}: {error}")
        os._exit(1)


def _end_with_the_leader():
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _found(module, name, text=None):
    if text is None:
        value = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        return value
    import torch
    import torch.distributed as dist

    space = {"torch": torch, "dist": dist, "__name__": "course_notebook"}
    exec(compile(text, f"<{name}>", "exec"), space)
    return space[name]


def _save(answer, path):
    import torch

    buffer = io.BytesIO()
    torch.save(answer, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError:
        raise RunError("a result is made of tensors, numbers, texts, lists, tuples and dicts only") from None
    path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    sys.exit(lead(sys.argv[1]))
