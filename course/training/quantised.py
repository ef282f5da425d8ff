"""Trained models on integer grids: their weights, their activations, the gradients of training; and INT8 products for real.

A `Grid` says how a tensor is brought to few bits; rounding is to nearest-even unless it says otherwise, and nothing saturates, since
every grid just reaches the largest number of its block. Where a layer is called emulated its operands are rounded for real and
multiplied in FP32; `Int8Linear` multiplies integers.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from course.numerics.integers import integers, nf4
from course.training import RunError
from course.training.fp8 import in_blocks
from course.training.models import Block, loss_of


@dataclass(frozen=True)
class Grid:
    """How a tensor is brought to `bits` bits. `block` is "tensor", "row" (of the last dimension) or a group size along it.

    `levels` is "even" for integers or "nf4", whose groups are of 64 unless `block` is another number. Raises `RunError` for an unknown
    block; other options as in `course.numerics.integers`.

    >>> Grid(4)(torch.tensor([[0.1, -0.3, 0.7]]))
    tensor([[ 0.1000, -0.3000,  0.7000]])
    """

    bits: int = 8
    block: str | int = "row"
    symmetric: bool = True
    rounding: str = "nearest-even"
    levels: str = "even"

    def __post_init__(self):
        if self.block not in ("tensor", "row") and not isinstance(self.block, int):
            raise RunError(f'block={self.block!r}: choose "tensor", "row" or the size of a group')

    @property
    def name(self) -> str:
        """Short enough for a table.

        >>> Grid(4, 32).name, Grid(8, "tensor", rounding="stochastic").name, Grid(levels="nf4", block=64).name
        ('INT4, groups of 32', 'INT8, one scale, dice', 'NF4, groups of 64')
        """
        kind = "NF4" if self.levels == "nf4" else f"INT{self.bits}"
        blocks = {"tensor": "one scale", "row": "rows"}.get(self.block, f"groups of {self.block}")
        return kind + f", {blocks}" + ", asymmetric" * (not self.symmetric) + ", dice" * (self.rounding == "stochastic")

    def stored(self, x, generator=None):
        """A float32 tensor as `Integers` or `Coded`; `generator` is for stochastic rounding."""
        block = {"tensor": None, "row": "row"}.get(self.block, (1, self.block))
        if self.levels == "nf4":
            return nf4(x, block)
        return integers(x, self.bits, block, self.symmetric, self.rounding, generator)

    def __call__(self, x, generator=None, trials=False):
        """What the stored numbers stand for, float32. `trials`: the first dimension counts trials, and "tensor" means each of them."""
        x = x.detach().contiguous()
        flat = x.reshape(-1, x.shape[-1]) if not (trials and self.block == "tensor") else x.reshape(len(x), -1)
        grid = Grid(self.bits, "row", self.symmetric, self.rounding) if trials and self.block == "tensor" else self
        return grid.stored(flat, generator).dequantise().view(x.shape)


# ---- gradients through a grid


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, grid, trials):
        return grid(x, trials=trials)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None, None


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, grid, generator, trials):
        ctx.how = grid, generator, trials
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        grid, generator, trials = ctx.how
        return grid(gradient, generator, trials), None, None, None


def straight_through(x, grid, trials=False):
    """x on the grid; the gradient passes as if nothing had been rounded (the true derivative is 0 nearly everywhere).

    Source: Y. Bengio, N. Léonard, A. Courville, arXiv:1308.3432.

    >>> x = torch.tensor([[0.9, 0.2, -0.7]], requires_grad=True)
    >>> straight_through(x, Grid(2)).sum().backward()
    >>> x.grad
    tensor([[1., 1., 1.]])
    """
    return _Through.apply(x, grid, trials)


def gradient_on(x, grid, generator=None, trials=False):
    """x as it is; the gradient that comes back through it is brought onto the grid.

    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> (gradient_on(x, Grid(2)) * torch.tensor([1.0, 0.4])).sum().backward()
    >>> x.grad
    tensor([[1., 0.]])
    """
    return _Back.apply(x, grid, generator, trials)


# ---- a trained model on grids


class QuantisedLinear(nn.Module):
    """A linear layer whose weight was brought onto a grid once, and whose input, and its output's gradient, are each time. Emulated.

    Each of the three grids may be None.

    >>> layer = QuantisedLinear(nn.Linear(4, 2), Grid(8))
    >>> layer(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, linear, weights=None, activations=None, gradients=None, generator=None):
        super().__init__()
        weight = linear.weight.detach()
        self.weight = nn.Parameter(weights(weight) if weights else weight.clone())
        self.bias, self.activations, self.gradients, self.generator = linear.bias, activations, gradients, generator

    def forward(self, x):
        out = F.linear(straight_through(x, self.activations) if self.activations else x, self.weight, self.bias)
        return gradient_on(out, self.gradients, self.generator) if self.gradients else out


def quantised(model, weights=None, activations=None, gradients=None, seed=0):
    """A copy of a GPT with the linear layers of its blocks as `QuantisedLinear`; `seed` starts the dice. The model stays as it is."""
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name, module in [(n, m) for n, m in made.named_modules() if in_blocks(m, n)]:
        made.set_submodule(name, QuantisedLinear(module, weights, activations, gradients, generator))
    return made


@torch.no_grad()
def validation_loss(model, batches) -> float:
    """Mean cross-entropy over (inputs, targets) batches of one size, in nats per token; exp of it is the perplexity."""
    return sum(loss_of(model, *batch).item() for batch in batches) / len(batches)


def plant_outlier(model, channel=3, factor=100.0):
    """A copy of a GPT that computes the same, but for rounding, with one channel of each normed activation `factor` times as large.

    The gain and bias of each norm in a block are multiplied there, the column of the linear layer that reads it is divided. Large language
    models grow such channels by themselves (T. Dettmers and others, arXiv:2208.07339); small ones do not.
    """
    made = copy.deepcopy(model)
    for norm, linear in _pairs(made):
        scale = torch.ones(linear.weight.shape[1])
        scale[channel] = 1 / factor
        _shift(norm, linear, scale)
    return made


def _pairs(model):
    for block in model.blocks:
        yield block.attention_norm, block.attention.qkv
        yield block.mlp_norm, block.widen


@torch.no_grad()
def _shift(norm, linear, scale):
    norm.weight /= scale
    norm.bias /= scale
    linear.weight *= scale


def smooth_factors(activation_amax, weight_amax, strength=0.5):
    """SmoothQuant's factors: each channel of the activation is divided by its factor, the weight's column multiplied.

    amax of each channel, both (channels,). With `strength` 0.5 activation and weight end with the same amax in each channel. Channels in which
    either is 0 keep 1. Source: G. Xiao and others, arXiv:2211.10438.

    >>> smooth_factors(torch.tensor([100.0, 1.0]), torch.tensor([1.0, 1.0]))
    tensor([10.,  1.])
    """
    factors = activation_amax**strength / weight_amax ** (1 - strength)
    return torch.where((activation_amax > 0) & (weight_amax > 0), factors, 1.0)


def smoothed(model, batches, strength=0.5):
    """A copy of a GPT in which SmoothQuant's factors, measured on calibration batches, moved from each norm into the layer behind it."""
    made = copy.deepcopy(model)
    seen = activation_amax(made, batches)
    for norm, linear in _pairs(made):
        _shift(norm, linear, smooth_factors(seen[linear], linear.weight.detach().abs().amax(0), strength))
    return made


@torch.no_grad()
def activation_amax(model, batches) -> dict:
    """{linear layer of a block: the largest magnitude of each channel of its input, (channels,)}, over batches."""
    seen, hooks = {}, []

    def note(module, args):
        here = args[0].abs().flatten(0, -2).amax(0)
        seen[module] = torch.maximum(seen.get(module, here), here)

    for name, module in model.named_modules():
        if in_blocks(module, name):
            hooks.append(module.register_forward_pre_hook(note))
    try:
        for inputs, _ in batches:
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def layer_errors(exact, short, inputs) -> dict:
    """{name: ‖short − exact‖ / ‖exact‖ of what it gives}, for each linear layer, norm and block of two GPTs of one shape, as they run."""
    outs = [_outputs(model, inputs) for model in (exact, short)]
    return {name: ((outs[1][name] - out).norm() / out.norm()).item() for name, out in outs[0].items()}


def _outputs(model, inputs):
    kept, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, QuantisedLinear, Int8Linear, nn.LayerNorm, Block)):
            hooks.append(module.register_forward_hook(lambda _, __, out, name=name: kept.update({name: out})))
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def gradient_errors(exact, short, inputs, targets) -> dict:
    """{name of a linear layer in a block: ‖short − exact‖ / ‖exact‖ of its weight's gradient}, in the order of the way forward."""
    found = []
    for model in (exact, short):
        model.zero_grad()
        loss_of(model, inputs, targets).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2})
        model.zero_grad()
    return {name.removesuffix(".weight"): ((found[1][name] - g).norm() / g.norm()).item() for name, g in found[0].items()}


# ---- INT8 products for real


def saturating_pairs(a, b):
    """a (m, k) int8 times b (n, k) int8, transposed, as an x86 processor without VNNI does it: (m, n) int64, k even.

    Its instruction takes an unsigned and a signed byte: 128 is added to a, and taken out of the sum again. It adds two neighbouring products and
    saturates them to 16 bits; only then it goes on in 32. With |b| ≤ 64 nothing saturates. Source: oneDNN, *Nuances of int8 computations*.

    >>> a = torch.tensor([[127, 127]], dtype=torch.int8)
    >>> saturating_pairs(a, a).item(), saturating_pairs(a, a // 2).item()
    (255, 16002)
    """
    lifted, other = a.long() + 128, b.long()
    pairs = (lifted[:, None, :] * other[None]).unflatten(-1, (-1, 2)).sum(-1)
    return pairs.clamp(-(2**15), 2**15 - 1).sum(-1) - 128 * other.sum(-1)


class Int8Linear(nn.Module):
    """A linear layer that multiplies integers: INT8 weights with a scale for each row, INT8 activations with one for each row, INT32 sums.

    Activations are rounded each time by their own amax, to nearest-even; bias and scales are FP32. For real, by `torch._int_mm`. `bits=7`
    keeps weights within ±63, which is exact on every processor (see `saturating_pairs`); ONNX Runtime calls that reduce_range.

    >>> layer = Int8Linear(nn.Linear(8, 4))
    >>> layer.weight.dtype, layer(torch.ones(2, 8)).shape
    (torch.int8, torch.Size([2, 4]))
    """

    def __init__(self, linear, bits=8):
        super().__init__()
        found = integers(linear.weight.detach(), bits, "row")
        self.register_buffer("weight", found.codes.to(torch.int8))
        self.register_buffer("scale", found.scale[:, 0].contiguous())
        self.bias = linear.bias

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        scale = flat.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
        codes = (flat / scale).round_().to(torch.int8)
        out = torch._int_mm(codes, self.weight.T) * scale * self.scale
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1)
