"""Record the runs that notebook 08 draws: every precision of this device side by side, for five seeds, into data/runs.

One command: `python -m benchmarks record_runs`. What is measured is what `python -m course train --record` measures. The
losses are the same whatever else the machine does; a speed is claimed only where it was steady, so run it on a quiet one.
"""

import argparse

SIZE = "--width 128 --layers 4 --context 128 --batch 8 --lr 0.0003 --steps 300".split()
SEEDS = 5


def precisions(device) -> list:
    """Every recipe that this device can train besides FP32: TF32 where it has it, and all others, emulated if need be."""
    from course.training.recipes import RECIPES

    return [name for name in RECIPES if name != "fp32" and (name != "tf32" or "tf32" in device.native)]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_runs", description=__doc__.split(":")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=range(SEEDS), help="default: 0 to 4")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1, the steadiest)")
    args, others = parser.parse_known_args(argv)

    from course.__main__ import main as course
    from course.training import hardware

    names = precisions(hardware.probe().device)
    for seed in args.seeds:
        flags = ["--precision", *names, "--versus", "fp32", *SIZE, "--seed", str(seed), "--threads", str(args.threads)]
        code = course(["train", *flags, *others, "--record", "--fresh", "--out", f"runs/recorded-{seed}"])
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
