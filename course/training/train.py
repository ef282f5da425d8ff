"""`python -m course train`: a small GPT trained in one precision beside another, on text that is always at hand."""

import argparse
import errno
import io
import json
import math
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from course.training import RunError

NAMES = ("precision", "versus", "minutes", "steps", "width", "layers", "context", "batch", "lr", "seed", "device",
         "threads", "corpus")  # fmt: skip
_DEFAULTS = {"precision": "bf16", "versus": "fp32", "minutes": None, "steps": None, "lr": 1e-3, "seed": 0,
             "corpus": None}  # fmt: skip
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

    for name, role in (("precision", "the recipe to try"), ("versus", "the recipe to compare it with")):
        parser.add_argument(f"--{name}", choices=list(RECIPES), help=f"{role} (default: {_DEFAULTS[name]})")
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
    parser.add_argument("--out", metavar="FOLDER", help="default: runs/PRECISION-versus-VERSUS")
    parser.add_argument("--checkpoint-every", type=_count, metavar="STEPS", help="default: every 30 seconds")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder")
    begin.add_argument("--fresh", action="store_true", help="start anew over whatever run is in the folder")


def run(args) -> int:
    """Train, write `record.json` and `curves.png`, print what was found; not 0 after an error or a stop."""
    recipes = [getattr(args, name) or _DEFAULTS[name] for name in ("precision", "versus")]
    folder = Path(args.out or "runs/" + "-versus-".join(recipes))
    try:
        with _signals() as stop:
            return _train(args, folder, stop)
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


def _fail(message, prefix="error: ", code=1):
    print(f"\n{prefix}{message}", file=sys.stderr)
    return code


def _disk_words(error, folder):
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        cause, way_out = "there is no room to write in", "free some space, then go on with --resume"
    else:
        cause, way_out = "cannot write in", "choose another folder with --out"
    return f"{cause} {folder} ({error.strerror or error}): {way_out}; the last good checkpoint is kept"


@contextmanager
def _signals():
    """Turn the first Ctrl-C or SIGTERM into a wish that the loop obeys between two steps; a second one is immediate."""
    wishes = []

    def wish(number, frame):
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wishes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(args, folder, stop):
    from course.training.checkpoint import Checkpoints

    _check_writable(folder)
    checkpoints = Checkpoints(folder)
    state = _find_state(args, folder, checkpoints)
    if state == "finished":
        return 0
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: reproducible products
    from course.training import hardware as machine
    from course.training.loop import reproducible

    hardware = machine.probe()
    arguments = _resolve(args, hardware) if state is None else _agreed(args, state, hardware)
    with reproducible(arguments["threads"], arguments["device"]):
        comparison, state = _prepare(arguments, state, hardware)
        saver = _Saver(checkpoints, state, args.checkpoint_every, stop)
        with _Progress(comparison) as progress:
            comparison.train(lambda c: (progress.show(c), saver(c)))
        _finish(comparison, arguments, hardware, state, folder)
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
    from course.training.closing import closing_words

    record = json.loads(path.read_text())
    _compare(args, record["configuration"], record["configuration"]["device"])
    print(f"This run is finished already: {path}\n\n{closing_words(record)}")


def _resolve(args, hardware):
    """Every argument with its value: the default where none was given."""
    given = {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
    device = _device(args, hardware)
    import torch

    arguments = _DEFAULTS | _SIZES["cpu" if device == "cpu" else "gpu"] | {"threads": torch.get_num_threads()} | given
    if arguments["steps"] is None and arguments["minutes"] is None:
        arguments["minutes"] = 2.0
    return {name: arguments[name] for name in NAMES if name != "device"} | {"device": device}


def _device(args, hardware):
    wanted = args.device or "auto"
    try:
        return hardware.device.torch_type if wanted == "auto" else hardware.on(wanted).torch_type
    except ValueError as error:
        raise RunError(str(error)) from error


def _agreed(args, state, hardware):
    """The arguments of the run that is resumed; `RunError` where a flag contradicts them."""
    arguments = state["arguments"]
    _compare(args, arguments, _device(args, hardware))
    hardware_now = _environment(hardware)
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
            was = "was started without it" if arguments[name] is None else f"was started with {arguments[name]}"
            raise RunError(f"--{name} {given} does not fit: this run {was}; leave the flag out, or use another --out")


def _environment(hardware):
    """What the bits of a loss may depend on besides the arguments."""
    return {
        "torch": hardware.versions["torch"],
        "cpu": hardware.cpu.name,
        "features": ", ".join(hardware.cpu.features),
        "device": hardware.device.name,
    }


def _prepare(arguments, state, hardware):
    """The comparison at the right step, and the state to which every checkpoint adds."""
    from course.training import corpus, models, recipes
    from course.training.loop import Comparison, Settings

    text = corpus.load(arguments["corpus"])
    config = models.GPTConfig(corpus.VOCABULARY, arguments["width"], arguments["layers"], arguments["context"])
    device = hardware.on(arguments["device"])
    plans = [recipes.plan(arguments[name], device) for name in ("precision", "versus")]
    _check_fits(config, device)

    def fresh(steps):
        settings = Settings(steps, arguments["batch"], arguments["lr"], arguments["seed"])
        return Comparison(plans, config, settings, text)

    if state is None:
        for warning in {plan.warning for plan in plans if plan.warning}:
            print(f"note: {warning}", file=sys.stderr)
        state = _first_state(arguments, fresh, text, hardware)
        return fresh(state["steps"]), state
    if state["corpus"] != text.as_dict()["sha256"]:
        raise RunError("the text has changed since this run began (another Python?): start anew with --fresh")
    comparison = fresh(state["steps"])
    comparison.load(state)
    state["resumed"] += 1
    return comparison, state


def _check_fits(config, device):
    """Refuse what can never fit before the machine starts to swap: two runs of weights, gradients and two moments."""
    least = 2 * 16 * config.parameters
    if device.memory_total and least > device.memory_total:
        have = f"{least / 2**30:.0f} GiB, {device.name} has {device.memory_total / 2**30:.0f}"
        raise RunError(f"two such models need at least {have}: use a smaller --width or --layers")


def _first_state(arguments, fresh, text, hardware):
    """Measure memory, choose the number of steps, and fix both for the whole run."""
    from course.training.loop import VALIDATIONS, trial_seconds
    from course.training.memory import step_memory
    from course.training.records import now

    started, begun = now(), time.perf_counter()
    used_up = fresh(1000)  # validates rarely
    memory = [step_memory(run, *used_up.batch(0)) for run in used_up.runs]
    steps = arguments["steps"]
    if steps is None:
        step, validation = trial_seconds(used_up, 60 * arguments["minutes"] / 12)
        left = 60 * arguments["minutes"] - (time.perf_counter() - begun) - (VALIDATIONS + 1) * validation
        steps = max(FEWEST_STEPS, int(left / step))
        print(f"{steps} steps fit into {arguments['minutes']:g} minutes here.")
    return {"arguments": arguments, "steps": steps, "memory": memory, "started": started, "resumed": 0,
            "corpus": text.as_dict()["sha256"], "environment": _environment(hardware)}  # fmt: skip


class _Saver:
    """Called after every step: writes a checkpoint when one is due, and obeys a wish to stop."""

    def __init__(self, checkpoints, state, every, stop):
        self.checkpoints, self.state, self.every, self.stop = checkpoints, state, every, stop
        self.saved_at = -math.inf

    def __call__(self, comparison):
        done, ends = comparison.done, (0, comparison.settings.steps)
        waited = time.monotonic() - self.saved_at
        due = done % self.every == 0 if self.every else waited > 30
        if due or done in ends or self.stop:
            self.checkpoints.save({**self.state, **comparison.state()})
            self.saved_at = time.monotonic()
        if self.stop and done < comparison.settings.steps:
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


def _finish(comparison, arguments, hardware, state, folder):
    """Write the record and the picture; print the closing words."""
    from course.training import closing, picture, records
    from course.training.files import write_atomically

    when = {"started": state["started"], "resumed": state["resumed"]}
    gemm = closing.gemm_ratios(comparison)
    record = records.build(comparison, arguments, hardware, when, state["memory"], gemm)
    write_atomically(folder / "record.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    drawn = io.BytesIO()
    picture.draw(record, drawn)
    write_atomically(folder / "curves.png", drawn.getvalue())
    warnings = dict.fromkeys(run.plan.warning for run in comparison.runs if run.plan.warning)
    print("\n" + closing.closing_words(record, warnings))
    print(f"\nRecord: {folder / 'record.json'}\nPicture: {folder / 'curves.png'}")
