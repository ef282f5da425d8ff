"""What `test_sharded.py` has several processes do: `torchrun --nproc-per-node 3 -m tests.training.several FOLDER`.

One launch serves many worlds: the first processes of the launch make up a world of 2, all of them one of 3. Whatever
has to be compared is written into FOLDER; nothing is asserted here.
"""

import io
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from course.__main__ import main
from course.training import RunError, closing, corpus, hardware, models, recipes, sharded, train
from course.training.loop import Settings
from course.training.processes import world

SEEDS, SEED_STEPS = range(5), 6
OVERFLOWS_AT = 3
SELDOM = ["--checkpoint-every", 10**6]  # at the start, at a stop and at the end only


def text_in(folder):
    """A little text to learn, in `folder`."""
    for i in range(30):
        (folder / f"m{i}.py").write_text("".join(f"value_{j} = {i + j}\n" for j in range(80)))
    return folder


def names_here() -> list:
    """The recipes that this CPU can train in several processes; FP32 last, to compare with."""
    possible = []
    for name in recipes.RECIPES:
        try:
            sharded.sharded_plan(recipes.plan(name, hardware.probe().cpu))
            possible.append(name)
        except RunError:
            continue
    return sorted(possible, key="fp32".__eq__)


def losses_over_seeds(here, names, text) -> dict:
    """{recipe: [losses of each seed]} of a small model, by the processes of `here`."""
    torch.set_num_threads(1)
    device, found = hardware.probe().cpu, {name: [] for name in names}
    for seed in SEEDS:
        comparison = made(here, names, text, Settings(100, 6, 1e-3, seed), device)
        for _ in range(SEED_STEPS):
            comparison.step()
        for name, run in zip(names, comparison.runs):
            found[name].append(run.history.losses)
    return found


def made(here, names, text, settings, device):
    plans = [recipes.plan(name, device) for name in names]
    return here.comparison(plans, models.GPTConfig(width=32, layers=1, context=16), settings, corpus.load(text))


def first_gradients(here, text) -> list:
    """Every gradient of the first step in FP32, before clipping, as lists of numbers."""
    comparison = made(here, ["fp32"], text, Settings(100, 6), hardware.probe().cpu)
    run = comparison.runs[0]
    run.backward(run.forward(*comparison.batch(0)))
    gradients = [p.grad for p in run.model.parameters()]
    return [(g.full_tensor() if here.size > 1 else g).flatten().tolist() for g in gradients]


def one_overflows(here, text):
    """A run in FP16 in which one gradient of the last process becomes infinite: (skipped steps, scale, a weight)."""
    comparison = made(here, ["fp16"], text, Settings(100, 6), hardware.probe().cpu)
    run, backward = comparison.runs[0], comparison.runs[0].backward

    def with_overflow(loss):
        backward(loss)
        if comparison.done == OVERFLOWS_AT and here.rank == here.size - 1:
            next(run.model.parameters()).grad.to_local()[0, 0] = torch.inf

    run.backward = with_overflow
    for _ in range(OVERFLOWS_AT + 2):
        comparison.step()
    return run.history.skipped, run.history.scales, run.model.tokens.weight.full_tensor().sum().item()


def stops_after(step):
    """Patch the command so that the last process wishes to stop after this step, as at a SIGTERM of its own."""
    real = train._Saver.__call__

    def call(saver, comparison):
        if comparison.done == step and comparison.world.rank == comparison.world.size - 1:
            saver.stop.append(signal.SIGTERM)
        real(saver, comparison)

    train._Saver.__call__ = call
    return lambda: setattr(train._Saver, "__call__", real)


class Launch:
    """The worlds of one launch of torchrun, one after the other."""

    def __init__(self, folder):
        self.folder, self.rank, self.worlds = Path(folder), int(os.environ["RANK"]), 0

    def enter(self, size):
        """Become a process of a world of `size`; False where this process has no part in it."""
        self.worlds += 1
        os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "TORCHELASTIC_RUN_ID": f"world-{self.worlds}"}
        return self.rank < size

    def call(self, name, size, action):
        """Write what `action(here)` returns in each process as JSON."""
        if self.enter(size):
            with world() as here:
                answer = action(here)
            (self.folder / f"{name}.{self.rank}.json").write_text(json.dumps(answer))

    def command(self, name, size, *flags):
        """Run the command; write its exit code and all that it printed in each process as JSON."""
        if self.enter(size):
            printed = io.StringIO()
            with redirect_stdout(printed), redirect_stderr(printed):
                code = main(["train", *map(str, flags)])
            for number in (signal.SIGTERM, signal.SIGINT):  # ignored after an error; but this process goes on
                signal.signal(number, signal.SIG_DFL)
            (self.folder / f"{name}.{self.rank}.json").write_text(json.dumps([code, printed.getvalue()]))


def unmeasured(comparison):
    """Instead of `closing.gemm_ratios`, which takes seconds and has nothing to do with the number of processes."""
    return [[] for _ in comparison.runs]


def everything(folder):
    closing.gemm_ratios = unmeasured
    launch, plan = Launch(folder), json.loads((Path(folder) / "plan.json").read_text())
    text, out, new = plan["text"], plan["out"], [*plan["new"], *SELDOM]
    launch.call("seeds", 2, lambda here: losses_over_seeds(here, plan["names"], text))
    launch.call("gradients", 2, lambda here: first_gradients(here, text))
    launch.call("overflow", 2, lambda here: one_overflows(here, text))
    launch.command("odd", 2, *new, "--batch", "5", "--out", out["odd"])
    launch.command("dice", 2, *new, "--precision", "bf16-sr", "--out", out["odd"])
    launch.command("undisturbed", 2, *new, "--out", out["undisturbed"])
    launch.command("killed", 2, *plan["advice"], *SELDOM)
    again = stops_after(plan["stop"])
    launch.command("plain", 2, "--resume", *SELDOM, "--out", out["plain"])
    again()
    launch.command("onto-three", 3, "--resume", *SELDOM, "--out", out["plain"])
    launch.command("endless", 2, *new, "--precision", "fp32", "--steps", 10**6, "--out", out["endless"])


if __name__ == "__main__":
    everything(sys.argv[1])
