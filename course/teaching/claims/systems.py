"""Proofs: bytes, rates, and what they make of a whole step."""

import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from course.numerics.formats import BF16, E4M3, FP16, FP32
from course.training import chips
from course.training.models import GPT, GPTConfig, loss_of
from course.training.storage import bytes_per_parameter

from .evidence import about, cases, fact

SEVEN = 7e9


def _states(**kinds):
    return sum(bytes_per_parameter(**kinds).values())


MIXED = {"weights": BF16, "update": "master"}
PURE = {"weights": BF16, "first_moment": BF16, "second_moment": BF16}


def mixed_keeps_memory():
    return cases({"weights, moments and gradients": _states(**MIXED) < _states(), "operands and activations": BF16.bits < FP32.bits}, _states(**MIXED) == _states() == 16,
                 bytes_per_parameter_FP32=_states(), mixed=_states(**MIXED))  # fmt: skip


def _peak(name, a, b):
    rates = chips.load()[name].peak
    return rates[a] / rates[b]


def v100_eightfold():
    ratio = _peak("V100 SXM2", "fp16", "fp32")
    return cases({"peak rates": 7.5 < ratio < 8.5, "a step, products 60 % of its time": 7.5 < chips.step_speedup(0.6, ratio)}, chips.step_speedup(0.6, ratio) < 2.5, peaks=about(ratio), step=about(chips.step_speedup(0.6, ratio)))


def a100_sixteenfold():
    ratios = {other: _peak("A100 SXM 80 GB", "bf16", other) for other in ("fp32", "tf32")}
    return cases({"against FP32 without matrix units": 15 < ratios["fp32"] < 17, "against FP32 products in TF32": 15 < ratios["tf32"] < 17}, ratios["tf32"] == 2 and not torch.backends.cuda.matmul.allow_tf32,
                 **{f"peak over {k}": about(v) for k, v in ratios.items()}, torchs_default_for_TF32_products=str(torch.backends.cuda.matmul.allow_tf32))  # fmt: skip


def h100_rates():
    peak = chips.load()["H100 SXM"].peak
    return cases({"dense": abs(peak["fp8"] - 1979) < 5 and abs(peak["bf16"] - 989) < 5, "as headlined, with sparsity": abs(2 * peak["fp8"] - 1979) < 5}, True, fp8=peak["fp8"], bf16=peak["bf16"])


def v100_bf16():
    from course.training.capabilities import native_dtypes

    old, new = native_dtypes("cuda", (7, 0)), native_dtypes("cuda", (8, 0))
    return fact("bf16" in old, "fp16" in old and "bf16" in new, **{"native at capability 7.0": ", ".join(old), "at 8.0": ", ".join(new)})


def end_to_end():
    found = {share: chips.step_speedup(share, 8.0) for share in (0.3, 0.5, 0.9)}
    return cases({f"products {share:.0%} of the time, 8 times as fast": 1.5 <= value <= 2 for share, value in found.items()}, found[0.3] < 1.5 < 2 < found[0.9], **{f"{s:.0%}": about(v) for s, v in found.items()})


def _saved(kind):
    """Bytes that a GPT's forward pass keeps, in FP32, under autocast, or in BF16 throughout."""
    model = GPT(GPTConfig(width=64, layers=4, context=64), seed=0)
    model = model.to(torch.bfloat16) if kind == "pure" else model
    tokens, own = torch.zeros(4, 64, dtype=torch.int64), {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = (t, t.untyped_storage().nbytes())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        loss_of(model, tokens, tokens)
    return sum(size for _, size in kept.values())


def half_the_memory():
    autocast, pure = (_saved(kind) / _saved("fp32") for kind in ("autocast", "pure"))
    return cases({"weights, gradients and moments": _states(**MIXED) <= 0.55 * _states(), "activations under autocast": autocast <= 0.55, "activations in BF16 throughout": pure <= 0.58},
                 0.5 < pure < autocast < 0.9, activations_under_autocast=about(autocast), in_BF16_throughout=about(pure))  # fmt: skip


def seven_billion_fp32():
    parts = bytes_per_parameter()
    total = SEVEN * sum(parts.values()) / 1e9
    return fact(total == 112 and parts["weights"] * 7 == 28, gigabytes=total, gibibytes=about(total * 1e9 / 2**30, 4))


def seven_billion_mixed():
    long = _states(**MIXED, gradients=FP32)
    return fact(SEVEN * _states(**MIXED) / 1e9 == 112, long == 18, gigabytes=SEVEN * _states(**MIXED) / 1e9, with_FP32_gradients=SEVEN * long / 1e9)


def seven_billion_pure():
    return fact(SEVEN * _states(**PURE) / 1e9 == 56, gigabytes=SEVEN * _states(**PURE) / 1e9)


def bf16_needs_ampere():
    x = torch.ones(2, 2, dtype=torch.bfloat16)
    from course.training.capabilities import native_dtypes

    return cases({"matrix units of NVIDIA": "bf16" not in native_dtypes("cuda", (7, 5)), "computing with BF16 at all": not (x @ x).isfinite().all()}, (x @ x)[0, 0] == 2, this_machine="multiplied two BF16 matrices on its CPU")


def bandwidth_is_memory():
    return cases({"bytes moved by a product's operands": BF16.bits * 2 == FP32.bits, "bytes kept in training": _states(**MIXED) == _states() / 2}, _states(**MIXED) == _states(), operands="half", kept="the same 16 bytes a parameter")


def quadratic_attention():
    def flops(length):
        torch.manual_seed(0)
        q = torch.empty(1, 4, length, 64, device="meta")
        layer = torch.nn.Linear(256, 12 * 256, bias=False, device="meta")
        with FlopCounterMode(display=False) as counter:
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
            attention = counter.get_total_flops()
            layer(torch.empty(1, length, 256, device="meta"))
        return attention, counter.get_total_flops()

    short, long = flops(512), flops(1024)
    return fact(long[1] == 2 * short[1], long[0] == 4 * short[0] and short[0] == 4 * 512**2 * 256, attention_share_at_512=about(short[0] / short[1]), at_1024=about(long[0] / long[1]), attention_grows_by=long[0] / short[0])


def bottleneck():
    def share(gigabytes_per_second, parameters=1e9, seconds=0.5):
        return 2 * parameters * BF16.bits / 8 / (gigabytes_per_second * 1e9) / seconds

    found = {rate: share(rate) for rate in (10, 100, 900)}
    return cases({f"{rate} GB/s": value > 0.5 for rate, value in found.items()}, found[900] < 0.05, **{f"seconds sent per second computed, {k} GB/s": about(v) for k, v in found.items()})


def moves_less():
    from course.training.roofline import intensity

    found = {size: intensity(1, 4096, 4096, size) for size in (2, 4)}
    return cases({"operands that are stored in 16 bits": found[2] > 1.9 * found[4], "casts that are not fused into an operation": (4 + 2) + 2 < 4}, (4 + 2) + 2 == 8, operations_per_byte_16_bit=about(found[2]), of_32_bit=about(found[4]))


def communication_halves():
    layer = torch.nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = layer(torch.ones(2, 8)).float().sum()
    loss.backward()
    under_autocast = layer.weight.grad.element_size()
    return cases({"autocast and DDP": under_autocast == 2, "a reduction in BF16": BF16.bits / 8 == 2}, under_autocast == 4, bytes_per_gradient_under_autocast=under_autocast)


def how_many_steps():
    runs = {"300 billion tokens, 3.2 million a step": 300e9 / 3.2e6, "15.6 trillion tokens, 16 million a step": 15.6e12 / 16e6}
    return cases({name: 100_000 <= steps <= 5_000_000 for name, steps in runs.items()}, runs["300 billion tokens, 3.2 million a step"] == 93750, **{k: round(v) for k, v in runs.items()})


def fp16_and_fp8_bytes():
    return fact(FP16.bits / FP32.bits == 0.5 and E4M3.bits / FP32.bits == 0.25, with_FP32_scales_of_128=about(1 - (8 + 32 / 128) / 32))


def millions_of_parameters():
    sizes = {"GPT-3": 175e9, "a 7 B model": 7e9, "BERT large": 340e6}
    return cases({name: 1e8 <= size < 1e9 for name, size in sizes.items()}, math.log10(sizes["GPT-3"]) > 11, **{k: f"{v:.3g}" for k, v in sizes.items()})
