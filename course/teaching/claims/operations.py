"""Proofs: which operations need FP32, and what autocast does about it."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from course.numerics.formats import BF16, FP16
from course.numerics.rounding import round_to
from course.training.autocast import policies

from . import runs
from .evidence import about, cases, fact
from .formats import stored

HALF, BRAIN = torch.float16, torch.bfloat16


def _on_cpu(call, dtype=BRAIN):
    with torch.autocast("cpu", BRAIN):
        return str(call(torch.ones(4, 4, dtype=dtype)).dtype).removeprefix("torch.")


def autocast_measures():
    x = {size: torch.full((4, 4), size) for size in (1e-30, 1.0, 1e30)}
    with torch.autocast("cpu", BRAIN):
        kinds = {str((value @ value).dtype) for value in x.values()}
    lists = policies("cuda")
    sizes = {name: list(lists.values()).count(name) for name in sorted(set(lists.values()))}
    return fact(len(kinds) > 1, kinds == {"torch.bfloat16"} and len(sizes) >= 3, product_of_tiny_and_huge_numbers=", ".join(kinds), operations_listed_for_CUDA=sizes)


def convert_inputs():
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with torch.autocast("cpu", BRAIN):
        out = layer(x)
    return fact(out.dtype != BRAIN, out.dtype == BRAIN and x.dtype == layer.weight.dtype == torch.float32, inputs="float32", output=str(out.dtype))


def amp_matches_fp32():
    fp32, bf16, fp16 = runs.finals("fp32", "bf16", ("fp16", (("dynamic", True), ("scale", 65536.0))), steps=300)
    worst = max(np.abs(bf16 / fp32 - 1).max(), np.abs(fp16 / fp32 - 1).max())
    return fact(worst < 0.05, fp32=about(fp32.mean()), bf16=about(bf16.mean()), fp16=about(fp16.mean()))


def softmax_overflows():
    x = torch.tensor([12.0, 13.0, 14.0], dtype=HALF)
    naive, stable = x.exp() / x.exp().sum(), F.softmax(x, 0)
    total = torch.tensor(0.0, dtype=BRAIN)
    for _ in range(2000):
        total += 1
    return cases({"exponentials of the raw numbers": naive.isnan().any(), "after the maximum was taken off": stable.isnan().any()}, abs(stable.float().sum() - 1) < 1e-3 and total == 256,
                 naive=str(naive.tolist()), stable=about(stable[2]), FP16_ends_at_exp_of=about(math.log(65504)), BF16_sum_of_2000_ones=total.item())  # fmt: skip


def norm_statistics():
    x = torch.from_numpy(np.random.default_rng(0).normal(100, 1, 4096).astype(np.float32))

    def one_pass(fmt):
        short = round_to(x, fmt)
        square = round_to(round_to(short**2, fmt).mean(), fmt)
        return round_to(square - round_to(round_to(short.mean(), fmt) ** 2, fmt), fmt).item()

    found = {fmt.name: one_pass(fmt) for fmt in (BF16, FP16)}
    exact = x.double().var().item()
    return fact(all(abs(v - exact) > 0.3 for v in found.values()) and abs(exact - 1) < 0.1, FP64=about(exact), **{f"one pass in {k}": about(v) for k, v in found.items()})


def loss_in_fp32():
    logits, target = torch.tensor([[20.0, 0.0]]), torch.tensor([1])
    two_steps = -torch.log(F.softmax(logits.to(HALF), 1))[0, 1].item()
    small = torch.tensor([[7.0, 0.0]])
    fused = {str(d)[6:]: F.cross_entropy(small.to(d), torch.tensor([0])).item() for d in (BRAIN, HALF, torch.float32)}
    return fact(two_steps == math.inf and fused["bfloat16"] != fused["float32"] and F.cross_entropy(logits, target).isfinite(), log_of_a_softmax_in_FP16=two_steps, small_loss={k: about(v) for k, v in fused.items()})


def _running(dtype, n):
    total = torch.tensor(0.0, dtype=dtype)
    for _ in range(n):
        total += 1
    return total.item()


def long_sums():
    n = 5000
    library = torch.ones(n, dtype=BRAIN).sum().item()
    return fact(_running(BRAIN, n) == 256 and _running(HALF, n) == 2048 and library == stored(n, BF16), ones=n, one_by_one_in_BF16=_running(BRAIN, n), in_FP16=_running(HALF, n), torch_sum_in_BF16=library)


def softmax_stays_fp32():
    cuda = policies("cuda")
    cpu = {"softmax": _on_cpu(lambda x: F.softmax(x, 0)), "layer_norm": _on_cpu(lambda x: F.layer_norm(x, (4,)))}
    loss = _on_cpu(lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.int64)))
    return cases({"CUDA": "fp32" in str(cuda["softmax"]) and "fp32" in str(cuda["layer_norm"]), "CPU": set(cpu.values()) == {"float32"}}, loss == "float32",
                 CUDA_softmax=str(cuda["softmax"]), **{f"CPU {k}": v for k, v in cpu.items()}, CPU_cross_entropy=loss)  # fmt: skip


def norm_in_fp32():
    g = torch.from_numpy(np.random.default_rng(0).normal(0, 1, 100_000).astype(np.float32)).to(BRAIN)
    p = torch.nn.Parameter(torch.zeros_like(g))
    p.grad = g.clone()
    found, exact = torch.nn.utils.clip_grad_norm_([p], math.inf), g.double().norm().item()
    return fact(found.dtype == BRAIN and abs(found.item() - exact) <= BF16.ulp(exact) / 2 * 1.01 and found.item() != exact, norm_of_BF16_gradients=found.item(), exact=about(exact, 6))


def norm_in_bf16_is_biased():
    g = torch.from_numpy(np.random.default_rng(0).normal(0, 1e-3, 20_000).astype(np.float32)).to(BRAIN)
    exact = g.double().norm().item()
    total = torch.tensor(0.0, dtype=BRAIN)
    for square in g * g:
        total += square
    own, library = total.double().sqrt().item(), g.norm().item()
    return cases({"a sum of squares one by one": abs(own / exact - 1) > 0.1, "torch's norm": abs(library / exact - 1) > 0.01}, abs(library / exact - 1) <= 2**-8,
                 exact=about(exact), one_by_one=about(own), torch=about(library))  # fmt: skip


def pointwise_in_lower_precision():
    x = torch.linspace(0.5, 2, 4001).to(BRAIN)
    inside = torch.equal(torch.exp(x), torch.exp(x.float()).to(BRAIN))
    product = (torch.ones(1, 8192, dtype=BRAIN) @ torch.ones(8192, 1, dtype=BRAIN)).item()
    flags = torch.backends.cuda.matmul
    split = flags.allow_bf16_reduced_precision_reduction
    return fact(not inside, inside and product == 8192,
                BF16_exp_is_FP32_exp_rounded_once=inside, products_may_be_reduced_in_BF16_on_CUDA=str(split), BF16_product_of_8192_ones=product)  # fmt: skip


def norm_over_and_underflows():
    ends = {x: stored(stored(x, FP16) ** 2, FP16) for x in (300.0, 1e-4)}
    bf16 = {x: stored(stored(x, BF16) ** 2, BF16) for x in (300.0, 1e-4)}
    return fact(ends[300.0] == math.inf and ends[1e-4] == 0 and all(0 < v < math.inf for v in bf16.values()), FP16_of_300_squared=ends[300.0], **{"FP16 of 0.0001 squared": ends[1e-4]}, BF16=str(list(bf16.values())))


def runs_in_bf16():
    kinds = {"matmul": _on_cpu(lambda x: x.float() @ x.float(), torch.float32), "relu of FP32": _on_cpu(torch.relu, torch.float32), "relu of BF16": _on_cpu(torch.relu)}
    return cases({"products": kinds["matmul"] == "bfloat16", "activation functions of an FP32 input": kinds["relu of FP32"] == "bfloat16"}, kinds["relu of BF16"] == "bfloat16", **kinds)


def saturated_units():
    def slope(x, dtype):
        x = torch.tensor(x, dtype=dtype, requires_grad=True)
        torch.sigmoid(x).backward()
        return x.grad.item()

    exact = slope(7.0, torch.float64)
    return fact(slope(20.0, torch.float64) < 1e-8 and slope(12.0, HALF) == 0, slope(7.0, BRAIN) == 0 < exact, slope_at_20=about(slope(20.0, torch.float64)), FP16_at_12=slope(12.0, HALF), BF16_at_7=slope(7.0, BRAIN), exact_at_7=about(exact))


def bf16_squares():
    return fact(math.isfinite(stored(1e18**2, BF16)), stored(2e19**2, BF16) == math.inf, largest_safe=math.sqrt(BF16.max))


def range_prevents():
    from .scaling import spread_gradients, flushed_share

    x = spread_gradients(1e-9)
    return fact(flushed_share(x, BF16) == 0 and flushed_share(x, FP16) > 0.5, flushed_in_FP16=about(flushed_share(x, FP16)), in_BF16=flushed_share(x, BF16))
