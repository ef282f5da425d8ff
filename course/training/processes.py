"""One process, or the group that torchrun has started: what all agree on, who speaks, what is said of one that has gone."""

import json
import os
import shlex
import signal
import sys
import threading
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout

from course.training import RunError

PATIENCE = 300  # seconds after which a process that waits for the others takes them for stuck
ROLL_CALL = 3  # seconds in which the processes that are left answer, once one has gone
_CONNECTION = ("gloo", "nccl", "xccl", "connection", "broken pipe", "socket", "process group")
_LAUNCHED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def world():
    """The `Group` that torchrun's environment describes, `Alone` without one; a context manager.

    >>> with world() as here:
    ...     here.size, here.lead(lambda: 7), here.most(1.5, 2.0)
    (1, 7, (1.5, 2.0))
    """
    return Group(os.environ) if _LAUNCHED <= set(os.environ) else Alone()


class Alone:
    """A single process. Within it the first Ctrl-C or SIGTERM is kept in `wishes`; a second one is immediate."""

    rank, size, restarted = 0, 1, False

    def __init__(self):
        self.wishes = []

    def __enter__(self):
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._wish) for number in numbers}
        return self

    def __exit__(self, kind, error, traceback):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _wish(self, number, frame):
        if self.wishes:
            raise KeyboardInterrupt
        self.wishes.append(number)

    def lead(self, action):
        """What `action()` returns; of several processes the first alone calls it, and all get what it returns or raises."""
        return action()

    def most(self, *values) -> tuple:
        """Each value; of several processes the largest that one of them gave."""
        return values

    @property
    def described(self) -> str:
        """How many processes there are, and how they share the work."""
        return "1"

    def check(self, arguments):
        """Raise `RunError` where a run with these arguments cannot be made by these processes."""

    def comparison(self, plans, config, settings, corpus):
        """The `loop.Comparison` that these processes train."""
        from course.training.loop import Comparison

        return Comparison(plans, config, settings, corpus)

    def checkpoints(self, folder):
        """Where the checkpoints of this run are kept."""
        from course.training.checkpoint import Checkpoints
        from course.training.shards import SingleCheckpoints, shards_exist

        return SingleCheckpoints(folder) if shards_exist(folder) else Checkpoints(folder)


class Group(Alone):
    """The processes that torchrun has started; within it only the first one's prints are seen.

    Everything that the processes agree on goes over gloo, between the memories of CPUs; tensors of a model on a
    device go over that device's own backend (`mesh`). Raises `RunError` when a process has gone: it ends the run
    in all of them.
    """

    def __init__(self, environment):
        super().__init__()
        self.rank, self.size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self.local, self.locals = int(environment["LOCAL_RANK"]), int(environment["LOCAL_WORLD_SIZE"])
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.restarted = attempt != "0"
        self._name = f"course/{environment.get('TORCHELASTIC_RUN_ID', '')}/{attempt}"  # a store may serve several
        self._parent = os.getppid()
        self._quiet = ExitStack()
        self._store, self._meshes = None, {}
        self._listener, self._over = threading.Thread(target=self._listen, daemon=True), threading.Event()

    def __enter__(self):
        super().__enter__()
        if self.rank:
            self._silence()
        try:
            self._join()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _silence(self):
        nowhere = self._quiet.enter_context(open(os.devnull, "w"))
        self._quiet.enter_context(redirect_stdout(nowhere))
        self._quiet.enter_context(redirect_stderr(nowhere))

    def _join(self):
        from datetime import timedelta

        import torch.distributed as dist

        if self.locals == self.size:  # one machine: nothing has to leave it, so nothing is let out
            loopback = "lo0" if sys.platform == "darwin" else "lo"
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
        patience = timedelta(seconds=PATIENCE)
        store, _, _ = next(dist.rendezvous("env://", timeout=patience))
        self._store = dist.PrefixStore(self._name, store)
        self._listener.start()
        dist.init_process_group("gloo", store=self._store, rank=self.rank, world_size=self.size, timeout=patience)

    def _listen(self):
        """Answer a roll call even while this process waits for another one inside a collective."""
        try:
            while not self._store.check(["alarm"]):
                if self._over.wait(0.2):
                    return
            self._store.set(f"here/{self.rank}", "")
        except RuntimeError:  # torchrun was killed, and its store with it
            pass

    def mesh(self, torch_type):
        """The processes as a line of devices, over which FSDP2 shards. Raises `RunError` where there are too few."""
        if torch_type not in self._meshes:
            self._meshes[torch_type] = self._new_mesh(torch_type)
        return self._meshes[torch_type]

    def _new_mesh(self, torch_type):
        import torch
        import torch.distributed as dist

        if torch_type == "cpu":
            return dist.init_device_mesh("cpu", (self.size,))
        if torch_type not in dist.Backend.default_device_backend_map:
            raise RunError(f"torch has no way between several {torch_type} devices: add --device cpu, or use one process")
        if self.locals > torch.accelerator.device_count():
            have = f"{torch.accelerator.device_count()} {torch_type} devices"
            raise RunError(f"{self.locals} processes on {have}: use --nproc-per-node {torch.accelerator.device_count()}")
        torch.accelerator.set_device_index(self.local)
        group = dist.new_group(backend=dist.get_default_backend_for_device(torch_type))
        return dist.DeviceMesh.from_group(group, torch_type)

    def lead(self, action):
        import torch.distributed as dist

        outcome = [None, None]
        if self.rank == 0:
            try:
                outcome = [action(), None]
            except (RunError, OSError) as error:
                outcome = [None, error]
        dist.broadcast_object_list(outcome)
        if outcome[1]:
            raise outcome[1]
        return outcome[0]

    def most(self, *values):
        if os.getppid() != self._parent and not self.wishes:
            self.wishes.append(signal.SIGTERM)  # torchrun itself was killed: nobody is left to end this process
        return tuple(self._reduced(values, "MAX"))

    def mean(self, value) -> float:
        """The mean of the values that all processes gave."""
        return self._reduced([value], "SUM")[0] / self.size

    def _reduced(self, values, operation):
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))
        return tensor.tolist()

    @property
    def described(self):
        return f"{self.size} with FSDP2"

    def check(self, arguments):
        from course.training.sharded import check

        check(arguments["batch"], arguments["compile"], self.size)

    def comparison(self, plans, config, settings, corpus):
        from course.training.sharded import ShardedComparison

        return ShardedComparison(plans, config, settings, corpus, self)

    def checkpoints(self, folder):
        from course.training.shards import ShardedCheckpoints

        return ShardedCheckpoints(folder, self)

    def __exit__(self, kind, error, traceback):
        """Say once, and in one place, why the run ended; leave the group; put a lost connection into words."""
        lost = None
        try:
            lost = self._whom_we_lost() if _is_connection(error) else None
            if error is None or self._speaks(error, lost):
                self._quiet.close()
            else:
                self._silence()
            if error is not None:
                _tell_torchrun(lost[1] if lost else f"{kind.__name__}: {error}")
        finally:
            self._leave()
            super().__exit__(kind, error, traceback)
            if error is not None:  # torchrun ends the others as soon as one has ended: not before they have spoken
                for number in self._before:
                    signal.signal(number, signal.SIG_IGN)
        if lost:
            raise RunError(lost[1]) from error

    def _leave(self):
        import torch.distributed as dist

        self._over.set()
        if self._listener.is_alive():
            self._listener.join(5)
        if dist.is_initialized():
            dist.destroy_process_group()

    def _whom_we_lost(self):
        """(whether this process is the one to say it, the sentence to say), after a connection broke."""
        try:
            if self._store.check(["verdict"]):
                return False, self._store.get("verdict").decode()
            self._store.set("alarm", "")
            words = self._verdict(*self._roll_call())
            self._store.set("verdict", words)
            return self._store.add("verdicts", 1) == 1, words
        except (RuntimeError, AttributeError):  # torchrun's store has gone with it, or never came
            return True, f"process {self.rank} of {self.size} has lost the others: {self._way_out()}"

    def _verdict(self, answered, ended):
        names = []
        for rank in sorted(set(range(self.size)) - answered):
            names.append(f"process {rank} of {self.size} " + (f"has stopped ({ended[rank]})" if rank in ended else
                                                              "has gone: it was killed, or it hangs"))
        what = "; ".join(names) or f"the processes do not hear each other any more (patience: {PATIENCE} s)"
        return f"{what}. The others stop too: {self._way_out()}"

    def _roll_call(self):
        """(the ranks that answer, {rank: the words with which it ended})."""
        end = time.monotonic() + ROLL_CALL
        answered, ended = {self.rank}, {}
        while len(answered) + len(ended) < self.size and time.monotonic() < end:
            for rank in set(range(self.size)) - answered - set(ended):
                if self._store.check([f"ended/{rank}"]):
                    ended[rank] = self._store.get(f"ended/{rank}").decode()
                elif self._store.check([f"here/{rank}"]):
                    answered.add(rank)
            time.sleep(0.02)
        return answered, ended

    def _speaks(self, error, lost) -> bool:
        """Whether this process puts `error` into words: the first one, and any whose error is its own."""
        if lost:
            return lost[0]
        words = f"{type(error).__name__} {error}"
        try:
            self._store.set(f"ended/{self.rank}", words)
            if self.rank == 0:
                return True
            end = time.monotonic() + ROLL_CALL
            while not self._store.check(["ended/0"]):
                if time.monotonic() > end:
                    return True
                time.sleep(0.02)
            return self._store.get("ended/0").decode() != words
        except (RuntimeError, AttributeError):
            return True

    def _way_out(self):
        given = [word for word in sys.argv[1:] if word not in ("--fresh", "--resume")]
        node = "" if self.locals == self.size else "… "
        command = f"torchrun {node}--nproc-per-node {self.locals} -m course {shlex.join(given)} --resume"
        return f"go on from the last checkpoint with\n  {command}"


def _tell_torchrun(words):
    """Leave the words where torchrun looks for them: its own report then ends with the cause, not with a place to ask."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        with open(path, "w") as file:
            json.dump({"message": {"message": words, "extraInfo": {"timestamp": int(time.time())}}}, file)


def _is_connection(error):
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _CONNECTION)
