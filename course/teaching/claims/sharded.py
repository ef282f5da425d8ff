"""Proofs: who holds and sums what when several processes train one model."""

import dataclasses

import numpy as np
import torch

from course.numerics.formats import BF16, FP32
from course.training.reduction import ErrorFeedback, PowerSGD, all_reduce, top_k

from .evidence import about, cases, fact


def zero_two():
    def held(stage, n):
        weights, gradients, rest = 2, 2, 12
        return weights / (n if stage > 2 else 1) + gradients / (n if stage > 1 else 1) + rest / (n if stage > 0 else 1)

    table = {stage: 7 * held(stage, 8) for stage in range(4)}
    return fact(held(2, 8) == 2 + 14 / 8 and list(table.values()) == [112, 38.5, 26.25, 14], **{f"gigabytes per GPU for 7 B on 8, stage {k}": v for k, v in table.items()})


def _ranks(n, size=512):
    return torch.from_numpy(np.random.default_rng(0).normal(0.1, 1, (n, size)).astype(np.float32))


def _error(n, fmt, order):
    parts = _ranks(n)
    exact = parts.double().sum(0)
    return ((all_reduce(parts, fmt, order) - exact).norm() / exact.norm()).item()


def low_precision_sums():
    found = {n: _error(n, BF16, "ring") for n in (2, 64, 1024)}
    wide = _error(1024, BF16, "wide")
    return cases({"2 processes": found[2] > 0.02, "1024 processes": found[1024] > 0.02}, wide < 0.25 * found[1024], **{f"error of a BF16 ring of {n}": about(v) for n, v in found.items()}, BF16_sent_FP32_summed=about(wide))


def fsdp_has_three():
    from torch.distributed.fsdp import MixedPrecision, MixedPrecisionPolicy

    one, two = ([f.name for f in dataclasses.fields(kind)] for kind in (MixedPrecision, MixedPrecisionPolicy))
    names = {"param_dtype", "reduce_dtype", "buffer_dtype"}
    return cases({"FSDP1": names <= set(one), "FSDP2": names <= set(two)}, "output_dtype" in two, FSDP2=", ".join(two))


def batch_norm_buffers():
    from torch.distributed.fsdp import MixedPrecision, MixedPrecisionPolicy

    ignored = [kind.__name__ for kind in MixedPrecision()._module_classes_to_ignore]
    two = {f.name for f in dataclasses.fields(MixedPrecisionPolicy)}
    return fact("_BatchNorm" not in ignored or "buffer_dtype" in two, "_BatchNorm" in ignored, FSDP1_leaves_out=", ".join(ignored), FSDP2_has_buffer_dtype="no")


def _fsdp(dtype):
    """Formats of the shard, the gradient and Adam's second moment of a layer that FSDP2 shards in one process."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from course.training.files import silent_errors

    import torch.distributed as dist

    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with silent_errors():
            torch.manual_seed(0)
            layer = torch.nn.Linear(8, 8).to(dtype)
            mesh = dist.init_device_mesh("cpu", (1,))
            fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
            out = layer(torch.ones(2, 8))
            out.float().sum().backward()
            optimizer = torch.optim.AdamW(layer.parameters())
            optimizer.step()
            return {"shard": str(layer.weight.dtype), "output": str(out.dtype), "gradient": str(layer.weight.grad.dtype), "second moment": str(optimizer.state[layer.weight]["exp_avg_sq"].dtype)}
    finally:
        if ours:
            dist.destroy_process_group()


def shard_follows_param_dtype():
    long = _fsdp(torch.float32)
    return fact(long["shard"] == "torch.bfloat16", long["shard"] == "torch.float32" and long["output"] == "torch.bfloat16", **long)


def fsdp_update_is_fp32():
    found = {name: _fsdp(dtype) for name, dtype in (("loaded in FP32", torch.float32), ("loaded in BF16", torch.bfloat16))}
    return cases({name: kinds["second moment"] == "torch.float32" for name, kinds in found.items()}, found["loaded in BF16"]["gradient"] == "torch.bfloat16", **{f"{k}, second moment": v["second moment"] for k, v in found.items()})


def reduce_dtype():
    from torch.distributed.fsdp import MixedPrecisionPolicy

    default = MixedPrecisionPolicy(param_dtype=torch.bfloat16).reduce_dtype
    long, low = _error(256, FP32, "ring"), _error(256, BF16, "ring")
    return cases({"reduce_dtype left out": default is not None, "reduce_dtype given": low > 100 * long}, default is None, default=f"{default}: the format of param_dtype", error_in_BF16=about(low), in_FP32=about(long))


def top_k_saves():
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 1, 10_000).astype(np.float32))
    saved = {share: 1 - top_k(share)(x).bits / (32 * x.numel()) for share in (0.01, 0.05, 0.1)}
    generator, target = np.random.default_rng(1), torch.linspace(-1, 1, 200)
    loud = np.where(np.arange(200) < 20, 20.0, 0.05)  # the gradients of a tenth of the weights are mostly noise
    ends = {}
    for name in ("without", "with"):
        w, compress = torch.zeros(200), top_k(0.05)
        compress = ErrorFeedback(compress) if name == "with" else compress
        for _ in range(3000):
            noise = torch.from_numpy((generator.normal(0, 1, 200) * loud).astype(np.float32))
            w = w - 0.005 * compress(w - target + noise).values
        ends[name] = ((w - target)[20:] ** 2).mean().item()
    return cases({f"the largest {share:.0%}": value >= 0.9 - 1e-9 for share, value in saved.items()}, ends["with"] < 0.3 * ends["without"], **{f"saved with {s:.0%}": about(v) for s, v in saved.items()}, **{f"error {k} feedback": about(v) for k, v in ends.items()})


def powersgd_is_adaptive():
    x = [torch.from_numpy(np.random.default_rng(i).normal(0, 1, (256, 256)).astype(np.float32)) for i in range(2)]
    x.append(torch.outer(torch.arange(256.0), torch.arange(256.0)))
    bits = {PowerSGD(4)(m).bits for m in x}
    return fact(len(bits) > 1, bits == {4 * (256 + 256) * 32}, bits_for_any_256_by_256_matrix=bits.pop(), saving_at_rank_4_for_4096_by_4096=f"{4096 * 4096 / (4 * 2 * 4096):g} times")


def masters_are_sharded():
    found = _fsdp(torch.float32)
    return fact(found == {"shard": "torch.float32", "output": "torch.bfloat16", "gradient": "torch.float32", "second moment": "torch.float32"}, **found)


def orthogonal():
    grown = {fmt.name: _error(64, fmt, "ring") - _error(2, fmt, "ring") for fmt in (FP32, BF16)}
    return cases({f"gradients summed in {name}": value < 1e-3 for name, value in grown.items()}, grown["BF16"] > 1000 * grown["FP32"], **{f"error added from 2 to 64 processes, {k}": about(v) for k, v in grown.items()})
