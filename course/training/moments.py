"""Adam whose moments wait in eight bits: what is computed stays FP32, what is stored from step to step is not."""

import torch
import torch.nn.functional as F

from course.numerics.formats import E4M3
from course.numerics.integers import integers
from course.numerics.scales import scaled
from course.training import digits
from course.training.models import MLP

WAYS = {  # how a moment is stored: 32 numbers share a scale, where there is one
    "FP32": lambda x: x,
    "INT8": lambda x: integers(x, block=(1, 32)).dequantise(),
    "E4M3": lambda x: scaled(x, E4M3, (1, 32)).dequantise(),
    "first INT8, second E4M3": (lambda x: integers(x, block=(1, 32)).dequantise(), lambda x: scaled(x, E4M3, (1, 32)).dequantise()),
}


def train(way, seed, steps=200) -> float:
    """Train a small MLP on the digits with torch's Adam, its moments of matrices stored in a `way` of `WAYS`; the mean of the last 30 losses.

    Rounding is to nearest; a block's scale is chosen so that nothing overflows. Moments of biases stay FP32, as in 8-bit optimizers.
    Source: T. Dettmers et al., arXiv:2110.02861, whose eight bits are spaced unevenly, as E4M3's are.

    >>> train("FP32", seed=0, steps=3) == train("FP32", seed=0, steps=3)
    True
    """
    short = WAYS[way] if isinstance(WAYS[way], tuple) else (WAYS[way], WAYS[way])
    pictures, model, losses = digits.load(), MLP((64, 32, 10), seed=seed), []
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        images, labels = pictures.batch(seed, step, 64)
        adam.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        adam.step()
        losses.append(loss.item())
        for layer in model.layers:
            state = adam.state[layer.weight]
            for moment, store in zip(("exp_avg", "exp_avg_sq"), short):
                state[moment].copy_(store(state[moment]))
    return sum(losses[-30:]) / len(losses[-30:])
