"""What `test_ranks.py` has the processes do."""

import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from course.numerics import BF16, FP32
from course.training.comms import Formats, held_here, wire

NUMBERS = 2 * (64 * 64 + 64) + 64 * 16 + 16
POLICIES = {"fp32": (None, None), "sums in fp32": (torch.bfloat16, torch.float32), "sums in bf16": (torch.bfloat16, None)}


def rows(count, size):
    return torch.from_numpy(np.float32(np.random.default_rng(0).normal(size=(count, size)))).bfloat16().float()


def reduced(rows):
    mine = rows[dist.get_rank()].bfloat16()
    dist.all_reduce(mine)
    return mine


def model():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))


def one_step(model, optimizer):
    """(collectives of the second step, bytes held after its gradients): the first step builds DDP's buckets anew."""
    for _ in range(3):
        with wire() as seen:
            model(torch.ones(8, 64)).float().square().mean().backward()
            optimizer.step()
        kept = held_here(model, optimizer)
        optimizer.zero_grad()
    return seen.calls, kept


def strategies():
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.nn.parallel import DistributedDataParallel

    found, mesh = {}, dist.init_device_mesh("cpu", (dist.get_world_size(),))
    wrapped = DistributedDataParallel(model())
    found["DDP"] = one_step(wrapped, torch.optim.AdamW(wrapped.parameters()))
    for name, (param, sums) in POLICIES.items():
        sharded, policy = model(), MixedPrecisionPolicy(param_dtype=param, reduce_dtype=sums)
        for layer in [*(layer for layer in sharded if isinstance(layer, nn.Linear)), sharded]:
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        found[f"FSDP2 {name}"] = one_step(sharded, torch.optim.AdamW(sharded.parameters()))
    return found


def expected(answer):
    formats = {"DDP": Formats(FP32, FP32), "FSDP2 fp32": Formats(FP32, FP32), "FSDP2 sums in fp32": Formats(BF16, FP32), "FSDP2 sums in bf16": Formats(BF16, BF16)}
    assert set(answer) == set(formats)
    return {name: (name.split()[0], formats[name], *answer[name]) for name in answer}


def doubled(value):
    total = torch.ones(())
    dist.all_reduce(total)
    return value | {"ranks": total.item()}


def raises():
    if dist.get_rank() == 1:
        raise ValueError("mine alone")
    dist.barrier()


def dies():
    if dist.get_rank() == 1:
        os.kill(os.getpid(), 9)
    dist.barrier()


def unsendable():
    return object()


def hangs(flag=None):
    if flag and dist.get_rank() == 0:
        Path(flag).touch()
    time.sleep(1000)


def small_runs():
    """(DDP's losses, PowerSGD's losses and what it counted, FSDP2's whole gradient)."""
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power

    from course.training.parallel import ddp_losses, fsdp_gradient

    state = power.PowerSGDState(None, 2, start_powerSGD_iter=2)
    counted = ddp_losses(power.powerSGD_hook, state)
    return ddp_losses(), counted, state.compression_stats(), fsdp_gradient(("float32", "float32"), seed=3)
