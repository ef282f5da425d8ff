"""What a machine could do, and what a training step makes of it: products, memory, Amdahl's bound. Times in seconds.

A clock is passed in: `time.perf_counter` is what a person waits for; `time.process_time` counts what this process
computed, on all threads, so with one thread it tells the same on a busy machine. GPUs need the first.
"""

import time

import torch

from course.training.breakdown import kinds
from course.training.models import ATTENTIONS
from course.training.recipes import DTYPES, float32_products


def linear_layers(config) -> list:
    """(inputs, outputs, how many) of the linear layers of a `models.GPT`.

    >>> from course.training.models import GPTConfig
    >>> sum(i * o * n for i, o, n in linear_layers(GPTConfig(width=64, layers=2)))  # 12 w² a block, and the output layer
    106496
    """
    w, blocks = config.width, config.layers
    return [(w, 3 * w, blocks), (w, w, blocks), (w, 4 * w, blocks), (4 * w, w, blocks), (w, config.vocabulary, 1)]


def step_flops(config, batch) -> int:
    """Multiplications and additions in the products of one training step: 2 a weight and token forward, 4 backward.

    Attention is counted in full, as if nothing were masked: that is the convention. Source: A. Chowdhery et al., PaLM,
    arXiv:2204.02311, appendix B.
    """
    tokens = batch * config.context
    linear = 6 * tokens * sum(i * o * n for i, o, n in linear_layers(config))
    return linear + 12 * config.layers * tokens * config.context * config.width


def intensity(rows, inner, columns, size) -> float:
    """Operations per byte moved of a product (rows × inner) @ (inner × columns) of numbers of `size` bytes.

    >>> intensity(1024, 1024, 1024, 2)
    341.3333333333333
    """
    return 2 * rows * inner * columns / (size * (rows * inner + inner * columns + rows * columns))


def attainable(operations_per_byte, peak, bandwidth) -> float:
    """The roofline: operations per second that memory (bytes/s) and arithmetic (operations/s) allow.

    Source: S. Williams, A. Waterman, D. Patterson, Roofline, Communications of the ACM 52 (2009).

    >>> attainable(4, peak=100, bandwidth=10), attainable(40, peak=100, bandwidth=10)
    (40, 100)
    """
    return min(peak, operations_per_byte * bandwidth)


def amdahl(shares, gains) -> float:
    """The speed-up of a whole whose parts take these shares of its time and gain by these factors; others gain nothing.

    Source: G. Amdahl, AFIPS Spring Joint Computer Conference (1967).

    >>> amdahl({"products": 0.75, "rest": 0.25}, {"products": 3})
    2.0
    """
    return 1 / sum(share / gains.get(kind, 1) for kind, share in shares.items())


def fastest(actions, rounds, clock=time.perf_counter, torch_type="cpu") -> dict:
    """The shortest time of each action (name -> function); they take turns, so that a disturbance hits all alike."""
    wait = (lambda: None) if torch_type == "cpu" else torch.accelerator.synchronize
    best = dict.fromkeys(actions, float("inf"))
    for turn in range(rounds + 1):  # the first warms up
        for name, action in actions.items():
            wait()
            start = clock()
            action()
            wait()
            best[name] = min(best[name], clock() - start) if turn else float("inf")
    return best


def product_seconds(config, batch, names, torch_type="cpu", rounds=6, clock=time.perf_counter) -> dict:
    """{(format, inputs, outputs): seconds of the three products of one linear layer}, at the model's own shapes.

    Forward y = x Wᵀ; backward dx = dy W and dW = dyᵀ x; `names` as in a recipe's `compute`.
    """
    actions = {}
    for name in names:
        for inputs, outputs, _ in linear_layers(config):
            actions[name, inputs, outputs] = _three_products(name, batch * config.context, inputs, outputs, torch_type)
    return fastest(actions, rounds, clock, torch_type)


def _three_products(name, rows, inputs, outputs, torch_type):
    def numbers(*shape):
        count = shape[0] * shape[1]
        return torch.linspace(-1, 1, count).view(shape).to(torch_type, DTYPES[name])

    x, weight, dy = numbers(rows, inputs), numbers(outputs, inputs), numbers(rows, outputs)

    def products():
        with float32_products(torch_type, "tf32" if name == "tf32" else "ieee"):
            x @ weight.T, dy @ weight, dy.T @ x

    return products


def linear_seconds(times, config, name) -> float:
    """Seconds of all products of linear layers in one step, from `product_seconds`."""
    return sum(times[name, inputs, outputs] * count for inputs, outputs, count in linear_layers(config))


def attention_seconds(config, batch, plans, rounds=6, clock=time.perf_counter) -> dict:
    """{recipe's name: seconds of all attentions of one step, forward and backward}, each as its plan runs it."""
    actions = {plan.recipe.name: _attention(config, batch, plan) for plan in plans}
    times = fastest(actions, rounds, clock, plans[0].torch_type)
    return {name: seconds * config.layers for name, seconds in times.items()}


def _attention(config, batch, plan):
    shape = (3, batch, config.head_count, config.context, config.width // config.head_count)
    numbers = torch.linspace(-1, 1, 3 * batch * config.context * config.width).view(shape)
    short = DTYPES[plan.recipe.compute] if plan.execution == "native" else torch.float32
    qkv = numbers.to(plan.torch_type, short).requires_grad_()

    def attention():
        with plan.backward():
            ATTENTIONS[plan.attention](*qkv).sum().backward()
        qkv.grad = None

    return attention


def bandwidth(torch_type="cpu", megabytes=256, rounds=4, clock=time.perf_counter) -> float:
    """Bytes per second read and written in copying a tensor that is larger than the caches."""
    source = torch.ones(megabytes * 2**20 // 4, device=torch_type)
    target = torch.empty_like(source)
    seconds = fastest({"copy": lambda: target.copy_(source)}, rounds, clock, torch_type)["copy"]
    return 2 * megabytes * 2**20 / seconds


def peak_rates(names, torch_type="cpu", size=1024, rounds=4, clock=time.perf_counter) -> dict:
    """{format: operations per second in the best of some products of `size` cubed}: the flat part of the roof."""
    times = fastest({name: _product(name, size, torch_type) for name in names}, rounds, clock, torch_type)
    return {name: 2 * size**3 / seconds for name, seconds in times.items()}


def _product(name, size, torch_type):
    a, b = torch.linspace(-1, 1, 2 * size * size).view(2, size, size).to(torch_type, DTYPES[name])

    def product():
        with float32_products(torch_type, "tf32" if name == "tf32" else "ieee"):
            a @ b

    return product


def compare(runs, batch, rounds=5, clock=time.perf_counter) -> dict:
    """Two runs (`loop.Run`, to be used up): what the first gained over the second, and what Amdahl allows it.

    {"seconds": {name: of a step}, "kinds": {name: shares, see `breakdown.kinds`}, "rates": {name: operations per second
    in the products of linear layers alone}, "linear": the gain that these have, "attention": gain of attention alone, "achieved", "allowed": gains of the step}. Allowed is what
    the *second* run's profile gives if its products gain what they gain alone, and all else takes the time that it took.
    """
    plans = [run.plan for run in runs]
    (short, full), where = plans, plans[0].torch_type
    names = [plan.recipe.name for plan in plans]
    size = len(batch[0])
    seconds = fastest({run.plan.recipe.name: lambda run=run: run.step(0, *batch) for run in runs}, rounds, clock, where)
    shares = {run.plan.recipe.name: kinds(run, batch) for run in runs}
    config = runs[0].model.config
    computes = [plan.recipe.compute if plan.speed_counts else "fp32" for plan in plans]  # emulation multiplies in FP32
    products = product_seconds(config, size, computes, where, rounds, clock)
    alone = attention_seconds(config, size, plans, rounds, clock)
    spent = {name: linear_seconds(products, config, name) for name in computes}
    linear = spent[computes[1]] / spent[computes[0]]
    work = 6 * size * config.context * sum(i * o * n for i, o, n in linear_layers(config))
    attention = alone[full.recipe.name] / alone[short.recipe.name]
    return {
        "seconds": seconds, "kinds": shares, "linear": linear, "attention": attention,
        "rates": {name: work / spent[compute] for name, compute in zip(names, computes)},
        "achieved": seconds[names[1]] / seconds[names[0]],
        "allowed": amdahl(shares[names[1]], {"matmul": linear, "attention": attention}),
    }  # fmt: skip
