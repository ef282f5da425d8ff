"""How the gain of BF16 over FP32 grows with the width of the model, and what eats the rest: `python -m benchmarks train_speed`.

For each width both precisions take turns, step by step. "allowed" is Amdahl's bound: FP32's own profile, its linear layers and
its attention quicker by what they gain alone at this model's shapes. Nothing is asserted: the numbers belong to the machine
that printed them. With one thread on a CPU its processor time counts, which other programs hardly disturb.
"""

import argparse
import os
import time

WIDTHS = (64, 128, 256, 384, 512)
KINDS = ("matmul", "attention", "elementwise", "optimizer", "casts", "rest")


def runs(names, width, device, **changes):
    """One `Run` for each name, at the command's own sizes but the width; and a batch."""
    import torch

    from course.training import corpus, models, recipes
    from course.training.loop import Run, Settings

    config = models.GPTConfig(width=width)
    settings = Settings(10**6, **changes)
    batch = corpus.load().batch(0, 0, settings.batch, config.context)
    made = [Run(recipes.plan(name, device), config, settings) for name in names]
    return made, tuple(torch.from_numpy(array).to(device.torch_type) for array in batch)


def sweep(args, device, clock):
    """A line for each width: times, gain, what the products alone gain, and what that allows."""
    from course.training.roofline import compare

    names = (args.precision, "fp32")
    head = ("width", *(f"{name} ms" for name in names), "gain", "linear", "attention", "allowed", "reached")
    print("".join(f"{word:>11}" for word in head))
    found = {}
    for width in args.widths:
        made, batch = runs(names, width, device)
        found[width] = result = compare(made, batch, args.rounds, clock)
        numbers = [1e3 * result["seconds"][name] for name in names]
        numbers += [result[key] for key in ("achieved", "linear", "attention", "allowed")]
        reached = f"{100 * result['achieved'] / result['allowed']:.0f} %"
        print(f"{width:>11}" + "".join(f"{number:>11.2f}" for number in numbers) + f"{reached:>11}", flush=True)
    return found


def what_eats(found, names):
    """Where the time of a step goes, in milliseconds, at each width."""
    print(f"\n{'ms a step':>22}" + "".join(f"{kind:>12}" for kind in KINDS))
    for width, result in found.items():
        for name in names:
            times = (1e3 * result["seconds"][name] * result["kinds"][name][kind] for kind in KINDS)
            print(f"{width:>11}{name:>11}" + "".join(f"{each:>12.2f}" for each in times))


def roof(device, precision, width, clock):
    """The two parts of the roof, and where one product of the model stands under it."""
    from course.training.roofline import attainable, bandwidth, intensity, peak_rates

    speed = bandwidth(device.torch_type, clock=clock)
    rates = peak_rates(("fp32", precision), device.torch_type, clock=clock)
    print(f"\nmemory {speed / 1e9:.1f} GB/s; products of 1024 cubed: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()))
    for name, rate in rates.items():
        each = intensity(1024, width, 4 * width, 4 if name == "fp32" else 2)
        bound = "memory" if attainable(each, rate, speed) < rate else "arithmetic"
        print(f"1024 x {width} x {4 * width} in {name}: {each:.0f} operations a byte, bound by {bound}")


def choices(args, device, clock):
    """Fused against foreach AdamW, fused against written attention, torch.compile against none: one run each, taking turns."""
    import torch

    from course.training.models import ATTENTIONS
    from course.training.roofline import fastest

    width, names = args.width, (args.precision, "fp32")
    made, batch = runs(names, width, device)
    actions = {}
    for run in made:
        for kind, mix in ATTENTIONS.items():
            actions[f"{run.plan.recipe.name}, {kind} attention"] = lambda run=run, mix=mix: _step_with(run, mix, batch)
    if args.compile:
        for run, name in zip(runs(names, width, device, compiled=True)[0], names):
            actions[f"{name}, compiled"] = lambda run=run: run.step(0, *batch)
            begun = time.perf_counter()
            run.step(0, *batch)
            print(f"\nthe first compiled step of {name} took {time.perf_counter() - begun:.0f} s", end="")
    for kind in ("fused", "foreach"):
        other = runs(("fp32",), width, device)[0][0]
        other.optimizer = torch.optim.AdamW(other.optimizer.param_groups, lr=1e-3, **{kind: True})
        for p in other.model.parameters():
            p.grad = torch.ones_like(p)
        actions[f"AdamW alone, {kind}"] = other.optimizer.step
    print(f"\nms at width {width}")
    for name, seconds in fastest(actions, args.rounds, clock, device.torch_type).items():
        print(f"{name:>28}{1e3 * seconds:>10.2f}")


def _step_with(run, mix, batch):
    for block in run.model.blocks:
        block.attention.mix = mix
    run.step(0, *batch)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks train_speed", description=__doc__.split(":")[0])
    parser.add_argument("--precision", default="bf16", help="the recipe to compare with fp32 (default: bf16)")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--width", type=int, default=256, help="of the other tables (default: 256)")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each; the fastest counts (default: 8)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the cores)")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well, which takes minutes to compile")
    args = parser.parse_args(argv)

    import torch

    from course.training import hardware
    from course.training.loop import reproducible

    machine = hardware.probe()
    device, threads = machine.device, args.threads or torch.get_num_threads()
    if args.precision not in device.native:
        raise SystemExit(f"{device.name} has no native {args.precision.upper()}: its speed would say nothing")
    clock = time.process_time if threads == 1 and device.torch_type == "cpu" else time.perf_counter
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{hardware.tier_line(machine)} {device.name}, {threads} threads, load {load:.1f}, {clock.__name__}\n")
    with reproducible(threads, device.torch_type):
        found = sweep(args, device, clock)
        what_eats(found, (args.precision, "fp32"))
        roof(device, args.precision, args.width, clock)
        choices(args, device, clock)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
