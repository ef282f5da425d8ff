"""The training loop: several recipes trained side by side, step by step, on the same data from the same weights.

One step of each run follows one step of the other, so that whatever slows the machine slows both, and their
times can be compared as a ratio. Everything is a function of (settings, step): no global random state is read, which is
what lets a killed run go on from its checkpoint and end with bitwise the same losses.
"""

import math
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from course.training.models import GPT, loss_of
from course.training.moved import moved_shares, snapshot
from course.training.optimizers import AdamW
from course.training.stochastic import StochasticAdamW

WARM_STEPS = 3  # after each start or resume: kernels are chosen, caches filled; these steps are not timed
VALIDATION_BATCHES = 8
VALIDATIONS = 8  # over the whole run, besides the one before the first step
COUNTS = 8  # of moved weights, over the whole run
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Settings:
    """What a comparison depends on besides its recipes and its text."""

    steps: int
    batch: int = 8
    lr: float = 1e-3
    seed: int = 0
    weight_decay: float = 0.1
    compiled: bool = False  # through torch.compile: minutes of compiling, for a tenth of the time of a step on CPUs

    def learning_rate(self, step) -> float:
        """Linear warm-up over a tenth of the steps (10 to 100 of them), then a cosine down to a tenth of the peak.

        A run of fewer than 20 steps warms up over the first half.

        >>> s = Settings(steps=100, lr=1.0)
        >>> s.learning_rate(0), s.learning_rate(9), round(s.learning_rate(99), 3)
        (0.1, 1.0, 0.1)
        """
        warm = max(1, min(100, max(10, self.steps // 10), self.steps // 2))
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - 1 - warm)
        return self.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))

    def validates_after(self, done) -> bool:
        """Whether the validation loss is taken once `done` steps are behind: at the start, the end, evenly between."""
        return done in (0, self.steps) or done % max(1, math.ceil(self.steps / VALIDATIONS)) == 0

    def counts_moved(self, index) -> bool:
        """Whether the weights that step `index` moves are counted: at the end of each eighth of the run.

        >>> [index for index in range(40) if Settings(steps=40).counts_moved(index)]
        [4, 9, 14, 19, 24, 29, 34, 39]
        """
        return any(index + 1 == (part + 1) * self.steps // COUNTS for part in range(COUNTS))


@dataclass
class History:
    """What one run leaves: a loss and a time (seconds; None while warming up) per step, and what happened on the way."""

    losses: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    validation: list = field(default_factory=list)  # [steps done, loss in nats per token]
    skipped: list = field(default_factory=list)  # steps that the loss scaler left out because a gradient overflowed
    scales: list = field(default_factory=list)  # [step, loss scale that it ran with], the first and after each change
    moved: list = field(default_factory=list)  # {"step": its number, kind of weights: share that it changed}


class Run:
    """One model under one recipe's plan: weights, optimizer, loss scaler, history."""

    def __init__(self, plan, config, settings):
        self.plan, self.settings = plan, settings
        self.model = GPT(replace(config, attention=plan.attention), settings.seed).to(plan.torch_type, plan.dtype)
        self.compiled = torch.compile(self.model) if settings.compiled else self.model
        self.optimizer = _optimizer(self.model, plan, settings)
        self.scaler = torch.amp.GradScaler(plan.torch_type, enabled=plan.recipe.scaler)
        self.history = History()

    def step(self, index, inputs, targets) -> float:
        """Train on one batch; returns its loss before the update."""
        loss = self.forward(inputs, targets)
        self.backward(loss)
        self.update(index)
        return loss.item()

    def forward(self, inputs, targets):
        """The loss of a batch, in nats per token."""
        with self.plan.step(self.model):
            return loss_of(self.compiled, inputs, targets)

    def backward(self, loss):
        """Gradients into `.grad`, times the loss scale where there is one."""
        with self.plan.backward():
            self.scaler.scale(loss).backward()

    def update(self, index):
        """Unscale, clip, step, update the scale; forget the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate(index)
        self.scaler.unscale_(self.optimizer)  # before clipping: the norm of scaled gradients means nothing
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() < scale:
            self.history.skipped.append(index)
        if self.scaler.is_enabled() and (not self.history.scales or self.history.scales[-1][1] != scale):
            self.history.scales.append([index, scale])
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def validate(self, batches) -> float:
        """Mean loss over fixed batches, computed in the recipe's own precision."""
        with self.plan.step(self.model):
            return statistics.fmean(loss_of(self.model, x, y).item() for x, y in batches)

    def state(self) -> dict:
        """Everything that the next step depends on, and the history so far."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": vars(self.history),
        }

    def load(self, state):
        """Go back to a `state()`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = History(**state["history"])


def _optimizer(model, plan, settings):
    """AdamW; biases and norms are not pulled to zero."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    options = {"lr": settings.lr, "betas": (0.9, 0.95)}
    recipe, dice = plan.recipe, torch.Generator().manual_seed(settings.seed)
    if recipe.master is None and plan.execution == "emulated":
        formats = {role: getattr(recipe, role) for role in ("weights", "first_moment", "second_moment", "update")}
        return AdamW(groups, generator=dice, **formats, **options)
    if recipe.update == "stochastic":
        return StochasticAdamW(groups, generator=dice, **options)
    return torch.optim.AdamW(groups, fused=plan.fused, **options)


class Comparison:
    """Runs of one model shape under several plans, on one text; `done` counts the steps that all of them have made."""

    def __init__(self, plans, config, settings, corpus):
        self.config, self.settings, self.corpus = config, settings, corpus
        self.torch_type = plans[0].torch_type
        self.runs = [self.run_of(plan) for plan in plans]
        self.done = 0
        self.warm = WARM_STEPS
        self.validation = [self.batch(i, "validation") for i in range(VALIDATION_BATCHES)]

    def run_of(self, plan):
        return Run(plan, self.config, self.settings)

    def batch(self, step, split="train"):
        """The (inputs, targets) of a step, on the device."""
        arrays = self.corpus.batch(self.settings.seed, step, self.settings.batch, self.config.context, split)
        return tuple(torch.from_numpy(array).to(self.torch_type) for array in arrays)

    def validate(self):
        for run in self.runs:
            run.history.validation.append([self.done, run.validate(self.validation)])

    def step(self):
        """One step of every run; the order alternates, so that no run always finds the caches the other left."""
        inputs, targets = self.batch(self.done)
        for run in self.runs if self.done % 2 == 0 else reversed(self.runs):
            before = snapshot(run.model) if self.settings.counts_moved(self.done) else None
            self.synchronize()
            start = time.perf_counter()
            loss = run.step(self.done, inputs, targets)
            self.synchronize()
            seconds = time.perf_counter() - start
            run.history.losses.append(loss)
            run.history.seconds.append(None if self.warm > 0 else seconds)
            if before:
                shares = moved_shares(before, run.model, run.plan.recipe.weights)
                run.history.moved.append({"step": self.done, **shares})
        self.done += 1
        self.warm -= 1
        if self.settings.validates_after(self.done):
            self.validate()

    def synchronize(self):
        """Wait for the device: a GPU answers before it has computed."""
        if self.torch_type != "cpu":
            torch.accelerator.synchronize()

    def most(self, *values) -> tuple:
        """Each value; where several processes train, the largest that one of them gave."""
        return values

    def train(self, after_step=lambda comparison: None):
        """Go on to the last step. `after_step` may save, report, or end the loop by raising an exception."""
        if not self.runs[0].history.validation:  # not so when resumed from the checkpoint before the first step
            self.validate()
            after_step(self)
        while self.done < self.settings.steps:
            self.step()
            after_step(self)

    def state(self) -> dict:
        return {"done": self.done, "runs": [run.state() for run in self.runs]}

    def load(self, state):
        self.done = state["done"]
        for run, saved in zip(self.runs, state["runs"], strict=True):
            run.load(saved)


def trial_seconds(comparison, seconds=5.0) -> tuple:
    """(seconds of one step of all runs, seconds of one validation); the comparison is used up by it.

    Takes the median over about `seconds`, but 3 to 30 steps: a short burst of other work must not decide.
    """

    def timed(action):
        start = time.perf_counter()
        action()
        return comparison.most(time.perf_counter() - start)[0]

    for _ in range(2):
        comparison.step()
    times = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 30):
        times.append(timed(comparison.step))
    return statistics.median(times), timed(comparison.validate)


@contextmanager
def reproducible(threads, torch_type="cpu"):
    """Fix what the bits of a sum depend on: the number of threads, and on GPUs the choice of algorithms."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    if torch_type != "cpu":  # on the CPU the same number of threads always adds in the same order
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
