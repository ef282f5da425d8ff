"""`python -m course train`: a small GPT trained in some precisions beside another, on text that is always at hand."""

import argparse
import errno
import io
import math
import os
import sys
import time
from pathlib import Path

from course.training import RunError
from course.training.processes import world

NAMES = ("precision", "versus", "minutes", "steps", "width", "layers", "context", "batch", "lr", "seed", "device",
         "threads", "corpus", "compile")  # fmt: skip
_DEFAULTS = {"versus": "fp32", "minutes": None, "steps": None, "lr": 1e-3, "seed": 0, "corpus": None,
             "compile": False}  # fmt: skip
# A size that shows the effect in minutes; a GPU needs more work in flight before its matrix units matter.
_SIZES = {
    "cpu": {"width": 256, "layers": 4, "context": 128, "batch": 8},
    "gpu": {"width": 1024, "layers": 8, "context": 512, "batch": 16},
}
FEWEST_STEPS = 10  # that --minutes gives, however slow the machine


class Stopped(Exception):
    """Ctrl-C or a termination signal was obeyed between two steps, after a checkpoint."""


def _count(text):
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _seed(text):
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _positive(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def add_arguments(parser):
    """Declare the flags. Their defaults are None, so that a resume can tell what was given from what was not."""
    from course.training.recipes import RECIPES

    several = {"nargs": "+", "metavar": "PRECISION", "choices": list(RECIPES)}
    names = ", ".join(RECIPES)
    parser.add_argument("--precision", **several, help=f"what to try, one or more of {names} (default: what fits the device)")
    parser.add_argument("--versus", choices=list(RECIPES), help="the recipe to compare with (default: fp32)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=_positive, help="train for about this long (default: 2)")
    length.add_argument("--steps", type=_count, help="train for exactly this many steps")
    parser.add_argument("--width", type=_count, help="channels of the model (default: 256; on a GPU 1024)")
    parser.add_argument("--layers", type=_count, help="blocks of the model (default: 4; on a GPU 8)")
    parser.add_argument("--context", type=_count, help="characters in a window (default: 128; on a GPU 512)")
    parser.add_argument("--batch", type=_count, help="windows in a step (default: 8; on a GPU 16)")
    parser.add_argument("--lr", type=_positive, help="peak learning rate of AdamW (default: 0.001)")
    parser.add_argument("--seed", type=_seed, help="seed of weights and batches (default: 0)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps", "xpu"], help="default: auto")
    parser.add_argument("--threads", type=_count, help="CPU threads; they decide the last bits (default: the cores)")
    parser.add_argument("--corpus", metavar="FOLDER", help="train on the .py files of a folder instead")
    parser.add_argument("--compile", action="store_true", default=None, help="through torch.compile: meant for GPUs, little to gain on CPUs")
    parser.add_argument("--record", action="store_true", help="also write the record to data/runs, to be contributed")
    parser.add_argument("--out", metavar="FOLDER", help="default: runs/PRECISION-versus-VERSUS")
    parser.add_argument("--checkpoint-every", type=_count, metavar="STEPS", help="default: every 30 seconds")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder")
    begin.add_argument("--fresh", action="store_true", help="start anew over whatever run is in the folder")


def run(args) -> int:
    """Train, write `record.json` and `curves.png`, print what was found; not 0 after an error or a stop."""
    folder = None
    try:
        with world() as here:
            folder = _folder(args)
            return _train(args, folder, here)
    except RunError as error:
        return _fail(error)
    except Stopped as stopped:
        return _fail(f"stopped after step {stopped}; go on with the same command and --resume", "", 130)
    except KeyboardInterrupt:
        return _fail("stopped at once; go on from the last checkpoint with --resume", "", 130)
    except OSError as error:
        return _fail(_disk_words(error, folder))
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        return _fail("there is not enough memory for this model: use a smaller --batch, --context or --width")


def _folder(args):
    """Where the run is kept: --out, or a name made of its recipes."""
    if args.out:
        return Path(args.out)
    from course.training import hardware, recipes

    found = hardware.probe()
    names = args.precision or [recipes.to_try(found.on(_device(args, found)))]
    return Path("runs", "-".join([*names, "versus", args.versus or _DEFAULTS["versus"]]))


def _fail(message, prefix="error: ", code=1):
    print(f"\n{prefix}{message}", file=sys.stderr)
    return code


def _disk_words(error, folder):
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        cause, way_out = "there is no room to write in", "free some space, then go on with --resume"
    else:
        cause, way_out = "cannot write in", "choose another folder with --out"
    return f"{cause} {folder} ({error.strerror or error}): {way_out}; the last good checkpoint is kept"


def _train(args, folder, here):
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: reproducible products
    here.lead(lambda: _check_writable(folder))
    checkpoints = here.checkpoints(folder)
    if here.restarted:  # by torchrun, with the same words, after one of its processes had gone
        args.resume, args.fresh = True, False
    state = _find_state(args, folder, checkpoints)
    if state == "finished":
        return 0
    from course.training import hardware as machine
    from course.training import records
    from course.training.loop import reproducible

    hardware = machine.probe()
    arguments = _resolve(args, hardware) if state is None else _agreed(args, state, hardware, here)
    here.check(arguments)
    if args.record:
        records.check_text(arguments)
    with reproducible(arguments["threads"], arguments["device"]):
        comparison, state = _prepare(arguments, state, hardware, here)
        saver = _Saver(checkpoints, state, args.checkpoint_every, here.wishes)
        with _Progress(comparison) as progress:
            comparison.train(lambda c: (progress.show(c), saver(c)))
        here.lead(lambda: _finish(comparison, arguments | {"processes": here.size}, hardware, state, folder, args.record))
    checkpoints.delete()
    return 0


def _check_writable(folder):
    from course.training.files import write_atomically

    write_atomically(folder / ".writable", "").unlink()


def _find_state(args, folder, checkpoints):
    """The state to go on from; None to start; "finished" when there is nothing left to do but to say so."""
    record = folder / "record.json"
    if args.fresh:
        record.unlink(missing_ok=True)
        checkpoints.delete()
    if not args.resume:
        if checkpoints.exist():
            raise RunError(f"{folder} holds an unfinished run: add --resume to go on, or --fresh to start anew")
        if record.exists():
            raise RunError(f"{folder} holds a finished run: add --fresh to replace it, or give another --out")
        return None
    state, notes = checkpoints.latest()
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if state is None and notes:
        raise RunError(f"no checkpoint in {folder} is whole: add --fresh instead of --resume to start anew")
    if state is None and record.exists():
        _report_finished(args, record)
        return "finished"
    if state is None:
        print(f"There is no checkpoint in {folder} yet: starting at step 0.")
    return state


def _report_finished(args, path):
    from course.training import records
    from course.training.closing import closing_words

    record = records.read(path)
    _compare(args, record["configuration"], record["configuration"]["device"])
    print(f"This run is finished already: {path}\n\n{closing_words(record)}")
    _contribute(record, args.record)


def _contribute(record, wanted):
    from course.training import closing, records

    if wanted:
        print(f"Contributed: {records.contribute(record)}. {closing.worth(record)}")


def _resolve(args, hardware):
    """Every argument with its value: the default where none was given."""
    given = {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
    device = _device(args, hardware)
    import torch

    from course.training.recipes import to_try

    usual = _DEFAULTS | {"precision": [to_try(hardware.on(device))]}
    arguments = usual | _SIZES["cpu" if device == "cpu" else "gpu"] | {"threads": torch.get_num_threads()} | given
    if arguments["steps"] is None and arguments["minutes"] is None:
        arguments["minutes"] = 2.0
    return {name: arguments[name] for name in NAMES if name != "device"} | {"device": device}


def _device(args, hardware):
    wanted = args.device or "auto"
    try:
        return hardware.device.torch_type if wanted == "auto" else hardware.on(wanted).torch_type
    except ValueError as error:
        raise RunError(str(error)) from error


def _agreed(args, state, hardware, here):
    """The arguments of the run that is resumed; `RunError` where a flag contradicts them."""
    arguments = state["arguments"]
    _compare(args, arguments, _device(args, hardware))
    hardware_now = _environment(hardware, here)
    for name, was in state["environment"].items():
        if hardware_now[name] != was:
            change = f"{name} was {was}, is {hardware_now[name]}"
            print(f"note: {change}: the last bits of the losses may differ", file=sys.stderr)
    print(f"Going on after step {state['done']} of {state['steps']}.")
    return arguments


def _compare(args, arguments, device):
    for name in NAMES:
        given = device if name == "device" and args.device else getattr(args, name)
        if given is not None and given != arguments[name]:
            given, before = (" ".join(each) if isinstance(each, list) else each for each in (given, arguments[name]))
            was = "was started without it" if before is None or before is False else f"was started with {before}"
            raise RunError(f"--{name} {given} does not fit: this run {was}; leave the flag out, or use another --out")


def _environment(hardware, here):
    """What the bits of a loss may depend on besides the arguments."""
    return {
        "torch": hardware.versions["torch"],
        "cpu": hardware.cpu.name,
        "features": ", ".join(hardware.cpu.features),
        "device": hardware.device.name,
        "processes": here.described,
    }


def _prepare(arguments, state, hardware, here):
    """The comparison at the right step, and the state to which every checkpoint adds."""
    from course.training import corpus, models, recipes
    from course.training.loop import Settings

    text = corpus.load(arguments["corpus"])
    config = models.GPTConfig(corpus.VOCABULARY, arguments["width"], arguments["layers"], arguments["context"])
    device = hardware.on(arguments["device"])
    plans = [recipes.plan(name, device) for name in (*arguments["precision"], arguments["versus"])]
    _check_fits(config, device, len(plans), here.size)

    def fresh(steps):
        settings = Settings(steps, arguments["batch"], arguments["lr"], arguments["seed"], compiled=arguments["compile"])
        return here.comparison(plans, config, settings, text)

    if state is None:
        for warning in {plan.warning for plan in plans if plan.warning}:
            print(f"note: {warning}", file=sys.stderr)
        state = _first_state(arguments, fresh, text, hardware, here)
        return fresh(state["steps"]), state
    if state["corpus"] != text.as_dict()["sha256"]:
        raise RunError("the text has changed since this run began (another Python?): start anew with --fresh")
    if state["environment"].get("processes", "1") != here.described:  # others share the weights, or nobody does
        state["measured"], state["environment"]["processes"] = _measured(fresh(1000)), here.described
    comparison = fresh(state["steps"])
    comparison.load(state)
    state["resumed"] += 1
    return comparison, state


def _check_fits(config, device, runs, processes):
    """Refuse what can never fit before the machine starts to swap: for each run weights, gradients and two moments."""
    shares = 1 if device.torch_type == "cpu" else processes  # processes on CPUs may all use the same memory
    least = runs * 16 * config.parameters // shares
    if device.memory_total and least > device.memory_total:
        have = f"{least / 2**30:.0f} GiB, {device.name} has {device.memory_total / 2**30:.0f}"
        raise RunError(f"{runs} such models need at least {have}: use a smaller --width or --layers")


def _first_state(arguments, fresh, text, hardware, here):
    """Measure memory and the parts of a step, choose the number of steps, and fix them for the whole run."""
    from course.training.loop import VALIDATIONS, trial_seconds
    from course.training.records import now

    started, begun = now(), time.perf_counter()
    used_up = fresh(1000)  # validates rarely
    measured = _measured(used_up)
    steps = arguments["steps"]
    if steps is None:
        step, validation = trial_seconds(used_up, 60 * arguments["minutes"] / 12)
        left = 60 * arguments["minutes"] - here.most(time.perf_counter() - begun)[0] - (VALIDATIONS + 1) * validation
        steps = max(FEWEST_STEPS, int(left / step))
        print(f"{steps} steps fit into {arguments['minutes']:g} minutes here.")
    return {"arguments": arguments, "steps": steps, "measured": measured, "started": started, "resumed": 0,
            "corpus": text.as_dict()["sha256"], "environment": _environment(hardware, here)}  # fmt: skip


def _measured(used_up):
    """Memory and the parts of a step, of each run of a comparison of our own."""
    from course.training.breakdown import step_breakdown
    from course.training.memory import step_memory

    batch = used_up.batch(0)
    return [{"memory": step_memory(run, *batch), "breakdown": step_breakdown(run, batch)} for run in used_up.runs]


class _Saver:
    """Called after every step: writes a checkpoint when one is due, and obeys a wish to stop."""

    def __init__(self, checkpoints, state, every, stop):
        self.checkpoints, self.state, self.every, self.stop = checkpoints, state, every, stop
        self.saved_at = -math.inf

    def __call__(self, comparison):
        done, ends = comparison.done, (0, comparison.settings.steps)
        waited = time.monotonic() - self.saved_at
        due = done % self.every == 0 if self.every else waited > 30
        due, stop = comparison.most(due, bool(self.stop))
        if due or done in ends or stop:
            self.checkpoints.save({**self.state, **comparison.state()})
            self.saved_at = time.monotonic()
        if stop and done < comparison.settings.steps:
            raise Stopped(done)


class _Progress:
    """A bar on a terminal; lines at each validation elsewhere."""

    def __init__(self, comparison):
        from tqdm.auto import tqdm

        total = comparison.settings.steps
        self.bar = tqdm(total=total, initial=comparison.done, unit="step", disable=None)  # None: only on a terminal

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def show(self, comparison):
        runs, done = comparison.runs, comparison.done
        if done:
            names = {run.plan.recipe.name: f"{run.history.losses[-1]:.3f}" for run in runs}
            self.bar.set_postfix(names, refresh=False)
            self.bar.update(done - self.bar.n)
        if self.bar.disable and comparison.settings.validates_after(done):
            values = "  ".join(f"{run.plan.recipe.name} {run.history.validation[-1][1]:.4f}" for run in runs)
            print(f"step {done:>5}  validation loss  {values}", flush=True)


def _finish(comparison, arguments, hardware, state, folder, contributed):
    """Write the record and the picture; print the closing words; put a copy of the record where all find it."""
    from course.training import closing, picture, records
    from course.training.files import write_atomically

    when = {"started": state["started"], "resumed": state["resumed"]}
    gemm = closing.gemm_ratios(comparison)
    measured = [found | {"gemm": ratios} for found, ratios in zip(state["measured"], gemm, strict=True)]
    record = records.build(comparison, arguments, hardware, when, measured)
    write_atomically(folder / "record.json", records.text(record))
    drawn = io.BytesIO()
    picture.draw(record, drawn)
    write_atomically(folder / "curves.png", drawn.getvalue())
    warnings = dict.fromkeys(run.plan.warning for run in comparison.runs if run.plan.warning)
    print("\n" + closing.closing_words(record, warnings))
    print(f"\nRecord: {folder / 'record.json'}\nPicture: {folder / 'curves.png'}")
    _contribute(record, contributed)
