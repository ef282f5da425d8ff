"""Proofs: FP8 formats, scales, accumulators, and training with them."""

import math
from functools import lru_cache

import numpy as np
import torch

from course.numerics.formats import BF16, E4M3, E5M2, FORMATS
from course.numerics.rounding import round_to
from course.numerics.scales import DelayedScale, quality, scaled
from course.training import chips, fp8_runs
from course.training.fp8 import accumulate
from course.training.storage import bytes_per_parameter

from .evidence import about, cases, fact


def _spread(seed=0, n=65_536, width=3.0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy((generator.lognormal(0, width, n) * generator.choice([-1, 1], n)).astype(np.float32)).reshape(-1, 256)


@lru_cache(maxsize=1)
def _recorded():
    """Final losses by recipe and loss weight: medians over the recorded seeds."""
    return {key: np.median([fp8_runs.final(curve) for curve in curves]) for key, curves in fp8_runs.load().items()}


def _loss(name, share=1.0):
    return next(value for (recipe, weight), value in _recorded().items() if recipe == name and weight == share)


def forward_and_backward():
    x = _spread()
    found = {fmt.name: quality(x, scaled(x, fmt)) for fmt in (E4M3, E5M2)}
    return cases({"fewer gradients flushed": found["E5M2"].flushed < 0.5 * found["E4M3"].flushed, "smaller error of a gradient": found["E5M2"].sqnr > found["E4M3"].sqnr}, True,
                 **{f"{k}: {what}": about(getattr(q, what)) for k, q in found.items() for what in ("flushed", "sqnr")})  # fmt: skip


def both_formats_required():
    fp32, e4m3 = _loss("FP32"), _loss("current E4M3 / E4M3")
    return fact(e4m3 > fp32 + 0.05, abs(e4m3 - fp32) < 0.05, loss_FP32=about(fp32), E4M3_only=about(e4m3))


def native_fp8():
    native = {name: "fp8" in chip.peak for name, chip in chips.load().items()}
    return cases({name: value for name, value in native.items() if name in ("T4", "A100 SXM 80 GB", "L40S", "H100 SXM")},
                 FORMATS["E4M3FNUZ"].max == 240, largest_E4M3=E4M3.max, largest_E4M3FNUZ=FORMATS["E4M3FNUZ"].max)  # fmt: skip


def compute_scale():
    def naive(x):
        scale = torch.tensor(448.0) / x.abs().max()
        return x * scale

    ordinary, zeros = torch.tensor([0.5, -2.0]), torch.zeros(2)
    broken = naive(torch.tensor([1.0, math.inf]))
    safe = scaled(zeros, E4M3)
    return cases({"an ordinary tensor": naive(ordinary).abs().max() == 448, "a tensor of zeros": naive(zeros).isfinite().all(), "one with an Inf": broken.isfinite().all() and broken[0] != 0},
                 (safe.dequantise() == 0).all(), zeros=str(naive(zeros).tolist()), with_an_Inf=str(broken.tolist()), safe="0, 0")  # fmt: skip


def _product_error(fmt):
    generator = np.random.default_rng(0)
    a, b = (torch.from_numpy(generator.normal(0, 1, shape).astype(np.float32)) for shape in ((64, 256), (256, 64)))
    x, y = (scaled(m, fmt) for m in (a, b))
    product = (x.values @ y.values) / (x.multiplier[0, 0] * y.multiplier[0, 0])
    exact = a.double() @ b.double()
    return ((product - exact).norm() / exact.norm()).item()


def descaling():
    errors = {fmt.name: _product_error(fmt) for fmt in (E4M3, E5M2)}
    return fact(0.02 < errors["E4M3"] < 0.06 and 1.7 < errors["E5M2"] / errors["E4M3"] < 2.3, **{f"error of the product, {k}": about(v) for k, v in errors.items()})


def accumulated_in_fp8():
    generator = np.random.default_rng(0)
    a, b = (torch.from_numpy(generator.normal(1, 1, shape).astype(np.float32)) for shape in ((4, 4096), (4096, 4)))
    a, b = round_to(a, E4M3), round_to(b, E4M3)
    exact = a.double() @ b.double()
    error = {name: ((accumulate(a, b, bits=14, promote=p) - exact).norm() / exact.norm()).item() for name, p in (("14 bits", None), ("14 bits, promoted every 128", 128))}
    in_fp8 = torch.tensor(0.0)
    for product in (a[0] * b[:, 0])[:512]:
        in_fp8 = round_to(in_fp8 + product, E4M3, overflow="saturate")
    partial = (a[0, :512].double() * b[:512, 0].double()).sum()
    return cases({"the operands": torch.equal(a, round_to(a, E4M3)), "the sum": abs(in_fp8 - partial) < 0.1 * abs(partial)}, error["14 bits"] > 3 * error["14 bits, promoted every 128"],
                 **{f"error, {k}": about(v) for k, v in error.items()}, sum_of_512_in_E4M3=about(in_fp8), exact=about(partial))  # fmt: skip


def per_tensor_is_mandatory():
    gentle = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (256, 256)).astype(np.float32))
    spiky = gentle.clone()
    spiky[0, 0] = 1e5
    plain = quality(gentle, scaled(gentle, E4M3)).sqnr - 10 * math.log10((gentle**2).sum() / ((round_to(gentle, E4M3) - gentle) ** 2).sum())
    tensor, block = (quality(spiky, scaled(spiky, E4M3, b)).flushed for b in (None, (1, 128)))
    unscaled = _loss("unscaled E4M3 / E4M3")
    return cases({"activations of about 1": plain > 3, "gradients": unscaled > _loss("FP32") + 0.2, "one outlier in a tensor: per tensor is enough": tensor < 2 * block}, block < 0.01 < tensor,
                 gain_from_a_scale_in_decibels=about(plain), flushed_per_tensor_beside_an_outlier=about(tensor), in_blocks_of_128=about(block), loss_unscaled=about(unscaled))  # fmt: skip


def delayed_is_last_step():
    amaxes = [1.0, 8.0, 1.0, 1.0, 1.0]
    tracks = {length: [DelayedScale(E4M3, length=length)] for length in (1, 4)}
    scales = {length: [one.update(a) for a in amaxes] for length, (one,) in tracks.items()}
    import inspect

    default = inspect.signature(DelayedScale).parameters["length"].default
    jump = 8.0 * scales[4][0]  # the tensor that arrives in step 2, with the scale that step 1 left
    return cases({"history of 1": scales[1][3] == 448.0, "history of 4": scales[4][3] == 448.0}, jump > 448 and default == 1024, default_history=default, a_jump_of_8_arrives_at=jump, scales_after_it=str(scales[4]))


def speed_of_fp8():
    from course.training.chips import step_speedup

    found = {share: step_speedup(share, 2.0) for share in (0.2, 0.5, 0.8)}
    return cases({f"products are {share:.0%} of the time": 1.3 <= value <= 1.5 for share, value in found.items()}, found[0.2] < 1.15 and found[0.8] > 1.6, **{f"times as fast, at {s:.0%}": about(v) for s, v in found.items()})


def twice_bf16():
    peak = chips.load()["H100 SXM"].peak
    return fact(1.95 < peak["fp8"] / peak["bf16"] < 2.05, fp8=peak["fp8"], bf16=peak["bf16"], unit="TFLOP/s, dense, of the data sheet")


def fp8_memory():
    mixed = sum(bytes_per_parameter(weights=BF16, update="master").values())
    copies = sum(bytes_per_parameter(weights=BF16, update="master", copy=E4M3).values())
    return cases({"operands of the products": E4M3.bits / BF16.bits <= 0.5, "what training keeps": copies <= 0.75 * mixed}, copies > mixed, bytes_per_parameter_BF16=mixed, with_FP8_copies=copies)


def good_enough():
    fp32 = _loss("FP32")
    found = {"BF16": _loss("BF16 autocast"), "E4M3 per tensor": _loss("current E4M3 / E4M3"), "E4M3 without scales": _loss("unscaled E4M3 / E4M3")}
    return cases({name: abs(value - fp32) < 0.05 for name, value in found.items()}, True, FP32=about(fp32), **{k: about(v) for k, v in found.items()})


def small_gap():
    fp32 = np.array([fp8_runs.final(c) for c in next(v for (n, w), v in fp8_runs.load().items() if n == "FP32" and w == 1.0)])
    gap = _loss("current E4M3 / E4M3") - np.median(fp32)
    return cases({"the loss of a small model": 0.001 <= gap / np.median(fp32) <= 0.003, "beyond the scatter of its seeds": gap > fp32.std()}, abs(gap) < 2 * fp32.std(), relative_gap=about(gap / np.median(fp32), 2), scatter_of_seeds=about(fp32.std() / np.median(fp32), 2))
