"""What a case of the clinic is: a broken trainer, what to measure of a run, and the findings that the measurements allow.

A trainer is one function `train(seed)` that trains something small and returns a record: a dict of tensors, above all the weights
after each step. All that a verdict rests on is computed from these, in FP64: losses, lengths of updates, learning rates. The texts of
the repaired trainer, of the repairs that only hide the symptom and of other good repairs are edits of the broken one.
"""

import inspect
import linecache
import math
import textwrap
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from ..exercises.checking import Verdict
from ..exercises.model import Exercise, Misconception

SEEDS = ((0,), (1,), (2,))
GROUPS = {"scaler": "the loss scaler", "formats": "formats too short", "states": "states of the optimizer", "sums": "sums and statistics", "attention": "masks and positions"}


@dataclass(frozen=True)
class Finding:
    """One thing that can be wrong with a trainer: `test` tells it from the measurements, `message` tells the learner."""

    name: str
    test: Callable
    message: str


@dataclass(frozen=True)
class Edit:
    """A change of the broken trainer: pieces of text and what stands there instead. `name` is that of the finding, if there is one."""

    name: str
    changes: tuple

    def apply(self, text):
        """The text with all changes made. Raises `ValueError` where a piece is not found."""
        for old, new in self.changes:
            if old not in text:
                raise ValueError(f"{self.name}: {old!r} is not in the trainer")
            text = text.replace(old, new)
        return text


@dataclass(frozen=True)
class Case(Exercise):
    """A case: an exercise whose answer is a trainer. `measure(seed, record)` gives numbers, and `findings` judge them in their order.

    `curve(seed, record)` is what the reader sees first. `hiding` are repairs that only hide the symptom, each named as the finding
    that sees through it; `others` are good repairs beside the solution.
    """

    group: str = ""
    symptom: str = ""
    broken: Callable = None
    fix: Edit = None
    measure: Callable = None
    findings: tuple = ()
    curve: Callable = None
    curve_label: str = "loss that is left"
    hiding: tuple = ()
    others: tuple = ()
    threads: tuple = ()

    @staticmethod
    def surroundings():
        """The context in which trainers run: one thread, which small tensors are faster with, and no warnings."""
        return quietly()

    @cached_property
    def broken_text(self) -> str:
        """The broken trainer as the learner gets it."""
        text = textwrap.dedent(inspect.getsource(self.broken)).rstrip()
        return text.replace(f"def {self.broken.__name__}(", "def train(", 1)

    @property
    def solution_text(self) -> str:
        """The repaired trainer."""
        if not self.fix.changes:  # a copy released without solutions
            return "# This copy of the course has no solutions: ask your teacher."
        return self.fix.apply(self.broken_text)

    def from_text(self, text):
        """The trainer of a text, or the `Verdict` on a text that is none."""
        try:
            return compiled(text, f"your trainer {self.id}")
        except SyntaxError as error:
            return Verdict("crashed", self.id, f"line {error.lineno} is not Python: {error.msg}")
        except Exception as error:
            return Verdict("crashed", self.id, f"the text could not be run: {type(error).__name__}: {error}")

    def judge(self, results) -> Verdict:
        """The verdict on the records of one trainer, one for each of `cases`."""
        measured = []
        for case, record in zip(self.cases, results, strict=True):
            try:
                found = self.measure(*case, record if isinstance(record, dict) else None)
                measured.append({name: float(value) for name, value in found.items()})  # or it is no such record
            except Exception:
                shown = repr(record)
                shown = shown if len(shown) < 80 else shown[:77] + "..."
                message = f"this is not one of the usual mistakes.\nFirst difference: train({case[0]}) gave {shown}, not such a record as the broken trainer returns: leave its last line as it is."
                return Verdict("wrong", self.id, message)
        for finding in self.findings:
            for case, found in zip(self.cases, measured):
                if finding.test(found):
                    return Verdict("wrong", self.id, f"{finding.message}\nFirst difference: train({case[0]}) has {told(found)}.", finding.name)
        return Verdict("right", self.id, f"repaired: the fault is gone, and the training works with {len(results)} of {len(results)} seeds. {self.why}")


@contextmanager
def quietly():
    """One thread and no warnings, as they were afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


def told(numbers) -> str:
    """Measurements in words.

    >>> told({"loss": 0.12345, "steps moved": 7})
    'loss 0.123, steps moved 7'
    """
    return ", ".join(f"{name} {value:.0f}" if value == int(_finite(value)) else f"{name} {value:.3g}" for name, value in numbers.items())


def _finite(value):
    return value if math.isfinite(value) else 0


def compiled(text, name="trainer", module=__name__):
    """The function `train` of a trainer's text, which may use np, torch, F and math. Raises `SyntaxError`, or `ValueError` where it defines no `train`.

    >>> compiled("def train(seed):\\n    return {'weights': torch.ones(seed)}")(2)
    {'weights': tensor([1., 1.])}
    """
    place = f"<{name}>"
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    space = {"__name__": module, "np": np, "torch": torch, "F": F, "math": math}
    exec(compile(text, place, "exec"), space)
    if not callable(space.get("train")):
        raise ValueError("the text defines no function train(seed)")
    return space["train"]


def make_case(id, broken, *, findings, fix, hiding, others=(), limit=0.01, remedy="it still does not train: the loss that is left is too large. The fault may be gone, but something else stops it.", **more) -> Case:
    """A `Case`; the last finding of each is a training that does not work: a loss not below `limit`."""
    findings = (*(Finding(*each) for each in findings), Finding("does not train", lambda m: not m["loss"] < limit, remedy))
    messages = {finding.name: finding.message for finding in findings}
    fix, hiding, others = Edit("repair", fix), tuple(Edit(*each) for each in hiding), tuple(Edit(*each) for each in others)
    case = Case(id=id, broken=broken, findings=findings, fix=fix, hiding=hiding, others=others, cases=SEEDS, reference=None, misconceptions=(), show=lambda seed: f"train({seed})", **more)
    wrong = [Misconception(findings[0].name, _ready(case, Edit("", ())), findings[0].message)]
    wrong += [Misconception(edit.name, _ready(case, edit), messages[edit.name]) for edit in hiding]
    object.__setattr__(case, "misconceptions", tuple(wrong))
    object.__setattr__(case, "reference", _ready(case, fix))
    return case


def _ready(case, edit):
    return compiled(edit.apply(case.broken_text), f"{case.id} {edit.name}", case.broken.__module__)


# ---- measurements, all in FP64


def numbers(values) -> np.ndarray:
    """A tensor, an array or nested lists (which a graded record has instead) as FP64 numbers."""
    if isinstance(values, (list, tuple)):
        return np.array([numbers(value) for value in values], dtype=np.float64)
    return values.detach().double().numpy() if isinstance(values, torch.Tensor) else np.asarray(values, dtype=np.float64)


def path_of(record, key="weights") -> np.ndarray:
    """The weights after each step, as rows."""
    path = numbers(record[key])
    return path.reshape(len(path), -1)


def line_task(seed, rows=128, truth=(-0.5, 0.5), sizes=None, columns=8):
    """The regression most trainers solve: (x, y) in FP64, from the same draws."""
    x = np.random.default_rng(seed).normal(size=(rows, columns))
    x = torch.tensor(x if sizes is None else x * np.array(sizes), dtype=torch.float32)
    y = x @ torch.linspace(*truth, columns)
    return x.double().numpy(), y.double().numpy()


def loss_left(weights, x, y, start=0.0) -> float:
    """The loss of weights as a share of the loss at the start; Inf if it is not finite."""
    def loss(w):
        return float(np.mean((x @ w - y) ** 2))

    with np.errstate(all="ignore"):
        left = loss(np.asarray(weights)) / loss(np.full(x.shape[1], start))
    return left if math.isfinite(left) else math.inf


def loss_curve(path, x, y, start=0.0) -> list:
    """`loss_left` after each step."""
    return [loss_left(weights, x, y, start) for weights in path]


def rates(path, x, y, start=0.0) -> np.ndarray:
    """The learning rate that each step really had: its update against the gradient there, in FP64; 0 where nothing moved."""
    before = np.vstack([np.full(path.shape[1], start), path[:-1]])
    gradient = 2 * (before @ x.T - y) @ x / len(y)
    with np.errstate(all="ignore"):
        return -((path - before) * gradient).sum(1) / (gradient**2).sum(1)


def lengths(path, start=0.0) -> np.ndarray:
    """The length of each update."""
    before = np.vstack([np.full(path.shape[1], start), path[:-1]])
    return np.sqrt(((path - before) ** 2).sum(1))


def distance_from_exact(path, x, y, rate, start=0.0, every=1, longest=math.inf) -> float:
    """How far the weights of SGD stay from those of an exact run: 16-bit products leave traces, FP32 ones hardly do.

    `path` has the weights after the first step and then after each `every`; gradients are clipped to `longest`.
    """
    w, worst = np.full(path.shape[1], start), 0.0
    for step in range((len(path) - 1) * every + 1):
        gradient = 2 * (x @ w - y) @ x / len(y)
        w = w - rate * gradient * min(1.0, longest / np.sqrt((gradient**2).sum()))
        if step % every == 0:
            worst = max(worst, float(np.abs(path[step // every] - w).max()))
    return worst


SWITCHED_OFF = "the weights are those of an FP32 run to the last digits: the symptom is gone because no product is 16 bits wide any more."
