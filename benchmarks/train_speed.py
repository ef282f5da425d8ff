"""How the gain of BF16 over FP32 grows with the width of the model: `python -m benchmarks.train_speed`.

Both precisions are trained side by side, one step of one after one step of the other; the ratio is the median over
the paired steps. Nothing is asserted: the numbers belong to the machine that printed them.
"""

import argparse
import os

WIDTHS = (64, 128, 256, 384, 512)


def measure(width, precision, device, text, seconds):
    """Train both recipes at this width for about `seconds`; returns the steps' median times (s), ratio and quartiles."""
    import statistics
    import time

    from course.training import models, recipes, records
    from course.training.loop import Comparison, Settings

    plans = [recipes.plan(name, device) for name in (precision, "fp32")]
    comparison = Comparison(plans, models.GPTConfig(width=width), Settings(steps=10**9), text)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or comparison.done < 10:
        comparison.step()
    times = [run.history.seconds for run in comparison.runs]
    ratio, quartiles = records.speed_ratio(*times)
    medians = [statistics.median(t for t in each if t is not None) for each in times]
    return comparison.done, medians, ratio, quartiles


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_speed", description=__doc__.split(":")[0])
    parser.add_argument("--precision", default="bf16", help="the recipe to compare with fp32 (default: bf16)")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each width (default: 10)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the cores)")
    args = parser.parse_args(argv)

    import torch

    from course.training import corpus, hardware
    from course.training.loop import reproducible

    machine, text = hardware.probe(), corpus.load()
    threads = args.threads or torch.get_num_threads()
    print(f"{hardware.tier_line(machine)} {machine.device.name}, {threads} threads, load {machine.load_average}")
    print(f"{'width':>6}{'steps':>7}{args.precision + ' ms':>12}{'fp32 ms':>12}{'ratio':>8}{'half between':>16}{'load':>7}")
    with reproducible(threads, machine.device.torch_type):
        for width in args.widths:
            steps, (short, full), ratio, (low, high) = measure(width, args.precision, machine.device, text, args.seconds)
            load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "-"
            span = f"{low:.2f} to {high:.2f}"
            print(f"{width:>6}{steps:>7}{1e3 * short:>12.1f}{1e3 * full:>12.1f}{ratio:>8.2f}{span:>16}{load:>7}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
