"""How much quicker is a batched sweep than one run after another? 77 formats at once against a sample of them, singly.

CPU time, one thread. The single runs are timed both as sweeps of one and as what a learner would write: `Emulation` of an
`MLP` with the same recipe. They take turns with the batched sweep, so that load hits all alike.
"""

import statistics
import time

STEPS, SAMPLE = 60, 4
SHAPE = {"widths": (64, 64, 64, 64, 10), "batch": 64}


def recipes():
    """Every format of 2 to 8 exponent bits and 0 to 10 mantissa bits, in all roles, with FP32 masters behind it."""
    from course.numerics import FP32, FloatFormat
    from course.training.recipes import Recipe

    made = []
    for exponent_bits in range(2, 9):
        for mantissa_bits in range(11):
            fmt = FloatFormat(f"E{exponent_bits}M{mantissa_bits}", exponent_bits, mantissa_bits)
            made.append(Recipe(fmt.name, fmt, fmt, fmt, fmt, master=FP32))
    return made


def alone(recipe):
    """The same training with the parts that a learner would put together."""
    import torch.nn.functional as F

    from course.training import digits
    from course.training.emulation import Emulation
    from course.training.models import MLP
    from course.training.optimizers import AdamW

    model = MLP(SHAPE["widths"], 0)
    optimizer, emulation = AdamW(model.parameters(), lr=2e-3), Emulation(model, recipe, overflow="saturate")
    for step in range(STEPS):
        images, labels = digits.load().batch(0, step, SHAPE["batch"])
        optimizer.zero_grad()
        with emulation:
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()


def main():
    import torch

    from course.training.sweeps import Trial, sweep

    torch.set_num_threads(1)
    every = recipes()
    options = {**SHAPE, "steps": STEPS, "lr": 2e-3, "overflow": "saturate"}

    def cost(run):
        start = time.process_time()
        run()
        return time.process_time() - start

    sample = every[:: len(every) // SAMPLE][:SAMPLE]
    sweep([Trial(recipe) for recipe in every], **{**options, "steps": 2})  # caches, kernels
    alone(sample[0])
    together, singly, by_hand = [], [], []
    for recipe in sample:
        together.append(cost(lambda: sweep([Trial(r) for r in every], **options)))
        singly.append(cost(lambda recipe=recipe: sweep([Trial(recipe)], **options)))
        by_hand.append(cost(lambda recipe=recipe: alone(recipe)))
    batch = statistics.median(together)
    print(f"{len(every)} formats at once, {STEPS} steps: {batch:.2f} CPU-s, {1000 * batch / len(every):.1f} ms a format")
    for name, times in (("one after another, as sweeps of one", singly), ("one after another, by hand", by_hand)):
        one = statistics.median(times)
        print(f"{name}: {1000 * one:.0f} ms a format, {one * len(every) / batch:.1f} times as long")
