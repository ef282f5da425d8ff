"""How fast is rounding? The course's engines beside their peers, in one run, on one thread.

Large tensors are written to memory that the process already holds (glibc is told to keep freed memory), since
otherwise the first touch of each page of a new tensor costs several times the rounding itself.
"""

import os
import sys
import time

WARM = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_TOP_PAD_": str(1 << 28)}


def interleaved(cases, rounds):
    """Fastest CPU time of each case (name -> function), the cases taking turns so that load hits all alike."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, run in cases.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def large(n):
    """Cases of `n` float32 numbers."""
    import gfloat
    import gfloat.formats
    import ml_dtypes
    import numpy as np
    import torch

    from course.numerics import BF16, E4M3, FP16, FloatFormat, round_to, rounding

    x = torch.from_numpy(np.random.default_rng(0).standard_normal(n).astype(np.float32) * 100)
    generator = torch.Generator().manual_seed(0)

    def in_torch(*args, **options):
        kernels, rounding.kernels = rounding.kernels, None
        try:
            round_to(x, *args, **options)
        finally:
            rounding.kernels = kernels

    return {
        "clone": x.clone,
        "course nearest E4M3": lambda: round_to(x, E4M3),
        "course nearest FP16": lambda: round_to(x, FP16),
        "course nearest BF16": lambda: round_to(x, BF16),
        "course nearest E5M3": lambda: round_to(x, FloatFormat("E5M3", 5, 3)),
        "course toward-zero E4M3": lambda: round_to(x, E4M3, "toward-zero"),
        "course stochastic BF16": lambda: round_to(x, BF16, "stochastic", generator=generator),
        "course in torch nearest E4M3": lambda: in_torch(E4M3),
        "course in torch nearest FP16": lambda: in_torch(FP16),
        "course in torch nearest BF16": lambda: in_torch(BF16),
        "course in torch saturating E4M3": lambda: in_torch(E4M3, overflow="saturate"),
        "course in torch toward-zero E4M3": lambda: in_torch(E4M3, "toward-zero"),
        "torch .to(float8_e4m3fn).float()": lambda: x.to(torch.float8_e4m3fn).float(),
        "torch .to(bfloat16).float()": lambda: x.to(torch.bfloat16).float(),
        "torch .to(float16).float()": lambda: x.to(torch.float16).float(),
        "ml_dtypes e4m3fn": lambda: x.numpy().astype(ml_dtypes.float8_e4m3fn).astype(np.float32),
        "gfloat e4m3 (numpy)": lambda: gfloat.round_ndarray(gfloat.formats.format_info_ocp_e4m3, x.numpy()),
    }


def rows(n):
    """50 formats at once, one row of `n` numbers each."""
    import torch

    from course.numerics import FloatFormat, round_rows

    formats = [FloatFormat(f"E{e}M{m}", e, m) for e in range(2, 7) for m in range(1, 11)]
    x = torch.linspace(-100, 100, 50 * n).view(50, n)
    return {"clone": x.clone, "course round_rows, 50 formats": lambda: round_rows(x, formats)}


def report(title, best, n):
    print(f"\n{title}")
    for name, seconds in best.items():
        print(f"  {name:<36}{seconds / n * 1e9:9.3f} ns per number {seconds / best['clone']:9.2f} × clone")


def small_call():
    import torch

    from course.numerics import E4M3, round_to

    x = torch.linspace(-100, 100, 4096)
    best = interleaved({"clone": x.clone, "course": lambda: round_to(x, E4M3)}, 300)
    print(f"\nOne call on 4 096 numbers: {best['course'] * 1e6:.1f} µs (clone {best['clone'] * 1e6:.1f} µs)")


def main():
    if not set(WARM.items()) <= set(os.environ.items()) and sys.platform == "linux":
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", "rounding"], {**os.environ, **WARM})
    import torch

    torch.set_num_threads(1)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, load average {load:.1f}")
    report("10 million float32 numbers to the values of a format and back", interleaved(large(10_000_000), 7), 10_000_000)
    for n in (4096, 65_536, 200_000):
        report(f"50 rows of {n:,} numbers", interleaved(rows(n), 30), 50 * n)
    small_call()


if __name__ == "__main__":
    main()
