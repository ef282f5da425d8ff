"""The same comparison over several processes with FSDP2: each holds a part of every weight, gradient and moment.

A layer's weights are gathered from all processes just before they are used and given back after; each process computes
on its part of the batch, and the gradients are averaged on the way to their shards. What a recipe means here:

- fp32, tf32: shards, gathered weights and sums of gradients in FP32.
- bf16, fp16: shards in FP32, which are the master weights; what is gathered is rounded to the short format
  (nearest-even; FP16 overflows to infinity), so a forward pass is in it throughout, and no autocast takes part;
  gradients are summed in FP32. The loss scaler of fp16 asks all processes whether one of them has an infinity.
- pure-bf16: shards and gathered weights in BF16; gradients are summed in FP32 and then rounded to BF16.
- An emulated recipe with master weights gathers FP32 and rounds the operands of products, as in one process.

A batch holds the same windows as in one process, so the losses are the same but for what is rounded in another order:
`MARGINS`. In the number of processes that wrote a checkpoint a run goes on to the same bits.

Sources: S. Rajbhandari et al., ZeRO, arXiv:1910.02054; PyTorch's pages on `fully_shard` and `MixedPrecisionPolicy`.
"""

from contextlib import contextmanager

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from course.training import RunError
from course.training.loop import Comparison, Run
from course.training.recipes import DTYPES, Plan


# How far a loss may lie from that of one process, in nats, in a model of width 32 over 60 steps. In FP32 the sums have
# another order; in the short formats a sum that changes in its last bit may round to the next number. Between BF16 that is
# gathered and BF16 by autocast lies more: the residual stream, norms and embeddings are BF16 here, FP32 there. On CPUs
# eight seeds, in 2 and 4 processes, stayed below a quarter of each margin; tf32's is that of fp16, as it has as many bits.
MARGINS = {"fp32": 1e-5, "tf32": 1e-3, "fp16": 1e-3, "bf16": 1e-2, "pure-bf16": 1e-2}


class ShardedPlan(Plan):
    """A plan whose casts are made where weights are gathered, not by autocast."""

    @property
    def policy(self) -> MixedPrecisionPolicy:
        """In which dtype weights are gathered and computed with, and gradients summed; None: that of the shards.

        >>> from course.training.recipes import RECIPES
        >>> ShardedPlan(RECIPES["bf16"], "cpu", "native").policy.param_dtype
        torch.bfloat16
        """
        sums = DTYPES[self.recipe.reductions.name.lower()]
        return MixedPrecisionPolicy(param_dtype=self.autocast, reduce_dtype=sums)

    @contextmanager
    def step(self, model=None):
        with self.backward() if self.execution == "native" else super().step(model):
            yield


def sharded_plan(plan) -> ShardedPlan:
    """`plan` for several processes; raises `RunError` for the recipes that work in one process only.

    >>> from course.training.recipes import RECIPES
    >>> sharded_plan(Plan(RECIPES["bf16-sr"], "cpu", "native"))
    Traceback (most recent call last):
    course.training.RunError: bf16-sr throws its dice in one process only: ... use --precision bf16 here, ...
    """
    recipe = plan.recipe
    if recipe.update == "stochastic":
        raise RunError(
            f"{recipe.name} throws its dice in one process only: shard by shard they would depend on the number of "
            "processes; use --precision bf16 here, or train without torchrun"
        )
    if plan.execution == "emulated" and recipe.master is None:
        raise RunError(
            f"{recipe.name} is emulated on this device, and emulated weights cannot be sharded: use --precision "
            f"{recipe.compute} here, or train without torchrun"
        )
    return ShardedPlan(**vars(plan))


class ShardedRun(Run):
    """A `Run` whose model and optimizer are sharded over `mesh`; its losses are means over all processes."""

    def __init__(self, plan, config, settings, world, mesh):
        super().__init__(plan, config, settings)
        self.world = world
        shard(self.model, self.optimizer, plan.policy, mesh)

    def step(self, index, inputs, targets):
        return self.world.mean(super().step(index, inputs, targets))

    def validate(self, batches):
        loss = self.world.mean(super().validate(batches))
        self.model.reshard()  # the outer weights stay gathered, and rounded, until a backward pass ends
        return loss


def shard(model, optimizer, policy, mesh):
    """Shard a GPT, block by block, and hand its sharded parameters to the optimizer, which has made no step yet."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in [*model.blocks, model]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    sharded = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [sharded[names[id(parameter)]] for parameter in group["params"]]


class ShardedComparison(Comparison):
    """A `Comparison` over the processes of `world`; each takes its part of the windows of every batch."""

    def __init__(self, plans, config, settings, corpus, world):
        self.world = world
        super().__init__([sharded_plan(plan) for plan in plans], config, settings, corpus)

    def run_of(self, plan):
        return ShardedRun(plan, self.config, self.settings, self.world, self.world.mesh(plan.torch_type))

    def batch(self, step, split="train"):
        part = self.settings.batch // self.world.size
        return tuple(whole[part * self.world.rank :][:part] for whole in super().batch(step, split))

    def most(self, *values):
        return self.world.most(*values)


def check(batch, compiled, processes):
    """Raise `RunError` for what several processes cannot do; a batch must be split into equal parts.

    Else the mean of the parts' losses would not be the loss of the batch.

    >>> check(8, False, 3)
    Traceback (most recent call last):
    course.training.RunError: --batch 8 does not divide by 3 processes: use --batch 6 or 9
    """
    if compiled:
        raise RunError("--compile is for one process here: leave it out, or train without torchrun")
    if batch % processes:
        less = batch - batch % processes
        offers = " or ".join(str(size) for size in (less, less + processes) if size)
        raise RunError(f"--batch {batch} does not divide by {processes} processes: use --batch {offers}")
