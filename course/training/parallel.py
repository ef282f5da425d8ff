"""Data parallel training with as many simulated processes as one likes: each has its own gradient, and a function sums them.

`ddp_losses` is the exception: it trains with DDP in the real processes of a group. For the rest, the model is a perceptron of one hidden layer that reads digits, in FP32; its gradients are written out, so that those of all processes come
out of a few batched products. What is simulated is the way from the gradients of the processes to their mean, with its roundings and
its compression: `summed`, `compressed`, `compressed_mean` (rounding to nearest, ties to even; overflow "ieee"). See `reduction`.
"""

import numpy as np
import torch
import torch.nn.functional as F

from course.numerics.formats import FP32
from course.training import digits
from course.training.reduction import all_reduce

HIDDEN = 64
SHAPES = ((64, HIDDEN), (HIDDEN,), (HIDDEN, 10), (10,))  # 4 810 parameters


def weights_of(seed) -> list:
    """The four tensors of the model, by numpy's generator: He's normal numbers, and zeros for what is added.

    >>> sum(weight.numel() for weight in weights_of(0))
    4810
    """
    draw = np.random.default_rng((seed, 12))
    return [torch.from_numpy(np.float32(draw.normal(0, (2 / shape[0]) ** 0.5, shape) if len(shape) > 1 else np.zeros(shape))) for shape in SHAPES]


def losses_and_gradients(weights, images, labels, loss_scale=1.0):
    """(mean loss of each process, its gradient for each weight); images (ranks, batch, 64), labels (ranks, batch).

    >>> weights = weights_of(0)
    >>> losses, gradients = losses_and_gradients(weights, torch.ones(3, 2, 64), torch.zeros(3, 2, dtype=torch.int64))
    >>> losses.shape, [tuple(gradient.shape) for gradient in gradients]
    (torch.Size([3]), [(3, 64, 64), (3, 64), (3, 64, 10), (3, 10)])
    """
    first, add, second, add_too = weights
    hidden = (images @ first + add).relu()
    logs = F.log_softmax(hidden @ second + add_too, -1)
    wanted = F.one_hot(labels, 10).float()
    back = (logs.exp() - wanted) * (loss_scale / labels.shape[1])
    inner = (back @ second.T) * (hidden > 0)
    gradients = [images.mT @ inner, inner.sum(1), hidden.mT @ back, back.sum(1)]
    return -(logs * wanted).sum(-1).mean(1), gradients


def batch_for(seed, step, ranks, batch):
    """One step's digits, dealt to the processes: images (ranks, batch, 64), labels (ranks, batch)."""
    images, labels = digits.load().batch(seed, step, ranks * batch)
    return images.view(ranks, batch, 64), labels.view(ranks, batch)


def flat(gradients):
    """All gradients of each process in one row: (ranks, parameters)."""
    return torch.cat([gradient.flatten(1) for gradient in gradients], 1)


def train(mean, ranks=4, batch=16, steps=100, seed=0, lr=0.1, momentum=0.0) -> list:
    """Losses of SGD where `mean(place, gradients)` makes one gradient of those of all processes, for each of the four weights.

    >>> losses = train(summed(), ranks=2, steps=30)
    >>> losses[0] > 2 > losses[-1]
    True
    """
    weights, speeds, losses = weights_of(seed), [0.0] * len(SHAPES), []
    for step in range(steps):
        found, gradients = losses_and_gradients(weights, *batch_for(seed, step, ranks, batch))
        losses.append(found.mean().item())
        for place, gradient in enumerate(gradients):
            speeds[place] = momentum * speeds[place] + mean(place, gradient)
            weights[place] -= lr * speeds[place]
    return losses


def finals(ways, seeds, last=10, versus=None, **options) -> dict:
    """{name: mean of the last losses, for each seed}; each of the ways makes a new mean for each run.

    With `versus` each is given as what it is more than that way, seed by seed.

    >>> found = finals({"FP32": summed, "again": summed}, range(2), versus="FP32", ranks=2, steps=12)
    >>> found["again"].tolist()
    [0.0, 0.0]
    """
    ends = {name: np.array([np.mean(train(make(), seed=seed, **options)[-last:]) for seed in seeds]) for name, make in ways.items()}
    return {name: end - ends[versus] for name, end in ends.items()} if versus else ends


def bits_sent(make, ranks=4) -> int:
    """Bits that one process sends in one step, in the way that `make` makes; a plain sum sends each number in FP32.

    >>> from course.training.reduction import top_k
    >>> bits_sent(summed) // 32, bits_sent(lambda: compressed(lambda: top_k(0.01))) // 64
    (4810, 49)
    """
    way = make()
    train(way, ranks, steps=1)
    return getattr(way, "bits", FP32.bits * sum(weight.numel() for weight in weights_of(0)))


# ---- from the gradients of all processes to one


def summed(fmt=FP32, order="wide"):
    """A mean by a sum in `fmt` and in the order of `reduction.all_reduce`; it divides at the end.

    >>> summed()(0, torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])).tolist()
    [[2.0, 3.0]]
    """
    return lambda place, ranks: all_reduce(ranks.flatten(1), fmt, order).view(ranks.shape[1:]) / len(ranks)


def compressed(make, whole=()):
    """A mean of what compressors let through: each process has one of its own for each weight, made by `make()`.

    Weights at the places `whole` are sent as they are. The attribute `bits` counts what one process has sent.
    """
    return _Compressed(make, whole, each=True)


def compressed_mean(make, whole=(1, 3)):
    """The same for a compressor that is linear until it is summed, as PowerSGD is: all processes together have one."""
    return _Compressed(make, whole, each=False)


class _Compressed:
    def __init__(self, make, whole, each):
        self.make, self.whole, self.each, self.kept, self.bits = make, whole, each, {}, 0

    def __call__(self, place, ranks):
        if place in self.whole:
            self.bits += FP32.bits * ranks[0].numel()
            return ranks.mean(0)
        parts = ranks if self.each else ranks.mean(0, keepdim=True)
        if place not in self.kept:
            self.kept[place] = [self.make() for _ in parts]
        sent = [compress(part) for compress, part in zip(self.kept[place], parts)]
        self.bits += sent[0].bits
        return torch.stack([one.values for one in sent]).mean(0)


# ---- in the processes of a group


def ddp_losses(hook=None, state=None, seed=0, steps=12, batch=64, lr=0.5) -> list:
    """Losses of this process over a run of DDP with that communication hook: a small `MLP` that reads its part of a batch of digits."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from course.training.models import MLP

    rank, size, losses = dist.get_rank(), dist.get_world_size(), []
    model = DistributedDataParallel(MLP((64, HIDDEN, 10), seed))
    if hook:
        model.register_comm_hook(state, hook)
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for step in range(steps):
        images, labels = (part.chunk(size)[rank] for part in digits.load().batch(seed, step, batch))
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fsdp_gradient(dtypes, seed=0, batch=64):
    """The whole gradient, as one row, of a small `MLP` under FSDP2 whose policy has these (param, reduce) dtypes, by name."""
    import torch.distributed as dist
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from course.training.models import MLP

    rank, size = dist.get_rank(), dist.get_world_size()
    images, labels = (part.chunk(size)[rank] for part in digits.load().batch(seed, 0, batch))
    model, mesh = MLP((64, HIDDEN, HIDDEN, 10), seed), dist.init_device_mesh("cpu", (size,))
    policy = MixedPrecisionPolicy(*(getattr(torch, each) for each in dtypes))
    for part in [*model.layers, model]:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    F.cross_entropy(model(images).float(), labels).backward()
    return torch.cat([weight.grad.full_tensor().flatten() for weight in model.parameters()])
