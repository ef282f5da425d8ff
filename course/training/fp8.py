"""Training with linear layers in 8 and 4 bits: an emulation of every common recipe, and torchao's layers beside it.

A linear layer has three matrix products: the output (activation × weight), the gradient of its input (gradient × weight), and that
of its weight (gradient × activation). A recipe says how each operand is scaled and rounded before it is multiplied; scales that
are finer than a tensor run along the dimension that is summed over. Operands are rounded for real, once; they are multiplied and
summed in FP32, as a matrix unit with FP32 accumulation does it. Overflow saturates. Weights, biases and whatever is no linear layer
stay FP32.
"""

import contextlib
import io
import logging
from dataclasses import dataclass, replace

import torch
from torch import nn

from course.numerics import E2M1, E4M3, E5M2, FloatFormat
from course.numerics.scales import DelayedScale, hadamard, mx, nvfp4, quality, scaled, with_multiplier
from course.training import RunError

SCALINGS = ("unscaled", "tensor", "delayed", "row", "block", "mx", "nvfp4")
_WHOLE = ("unscaled", "tensor", "delayed")  # one multiplier for a tensor
HADAMARD = 16  # numbers that a random Hadamard transform mixes: those of an NVFP4 block


@dataclass(frozen=True)
class ScaledRecipe:
    """How the operands of linear layers become short: `forward` for activations and weights, `backward` for gradients.

    `scaling` is one of `SCALINGS`; `block` uses 1 × 128 tiles, for weights 128 × 128; `mx` blocks of 32 by `rule`; `nvfp4` blocks of
    16, for weights 16 × 16. `gradient_rounding` may be "stochastic". `mixed` puts a random Hadamard transform over both operands
    of the weight's gradient. `history` and `algorithm` are those of delayed scaling. Raises `RunError` for an unknown
    scaling.

    >>> RECIPES["current E4M3 / E5M2"].backward.name, RECIPES["NVFP4"].forward.name
    ('E5M2', 'E2M1')
    """

    name: str
    scaling: str
    forward: FloatFormat = E4M3
    backward: FloatFormat = E4M3
    gradient_rounding: str = "nearest-even"
    power_of_two: bool = False
    rule: str = "floor"
    mixed: bool = False
    history: int = 16
    algorithm: str = "max"

    def __post_init__(self):
        if self.scaling not in SCALINGS:
            raise RunError(f"scaling={self.scaling!r}: choose one of {', '.join(SCALINGS)}")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        ScaledRecipe("unscaled E4M3 / E4M3", "unscaled"),
        ScaledRecipe("unscaled E4M3 / E5M2", "unscaled", backward=E5M2),
        ScaledRecipe("current E4M3 / E4M3", "tensor"),
        ScaledRecipe("current E4M3 / E5M2", "tensor", backward=E5M2),
        ScaledRecipe("delayed E4M3 / E5M2", "delayed", backward=E5M2),
        ScaledRecipe("row-wise E4M3", "row", power_of_two=True),
        ScaledRecipe("1×128 and 128×128", "block"),
        ScaledRecipe("MXFP8", "mx", rule="round-up"),
        ScaledRecipe("MXFP8, floor", "mx"),
        ScaledRecipe("FP4, one scale", "tensor", E2M1, E2M1),
        ScaledRecipe("FP4, one scale, dice", "tensor", E2M1, E2M1, "stochastic"),
        ScaledRecipe("MXFP4", "mx", E2M1, E2M1),
        ScaledRecipe("NVFP4, nearest", "nvfp4", E2M1, E2M1),
        ScaledRecipe("NVFP4", "nvfp4", E2M1, E2M1, "stochastic", mixed=True),
    )
}


def rounded(x, recipe, role, history=None, generator=None):
    """What `quantised` stands for, in float32.

    >>> rounded(torch.tensor([[1000.0, 0.3]]), RECIPES["unscaled E4M3 / E4M3"], "activation")
    tensor([[4.4800e+02, 3.1250e-01]])
    """
    return quantised(x, recipe, role, history, generator).dequantise()


def quantised(x, recipe, role, history=None, generator=None):
    """A matrix (rows, inner) under a recipe, as a `Quantised`; `inner` is summed over. `role` is activation, weight or gradient.

    `history` is the role's `DelayedScale`: its multiplier is used, then it learns this matrix's amax. `generator` is a
    `torch.Generator` for stochastic rounding. Raises `ValueError` where blocks do not fit the matrix.

    >>> quantised(torch.tensor([[1.0, 2.0]]), RECIPES["current E4M3 / E4M3"], "weight").values
    tensor([[224., 448.]])
    """
    fmt = recipe.backward if role == "gradient" else recipe.forward
    rounding = recipe.gradient_rounding if role == "gradient" else "nearest-even"
    options = {"rounding": rounding, "generator": generator if rounding == "stochastic" else None}
    if recipe.scaling == "mx":
        return mx(x, fmt, recipe.rule, **options)
    if recipe.scaling == "nvfp4":
        return nvfp4(x, (16, 16) if role == "weight" else (1, 16), **options)
    if recipe.scaling in ("unscaled", "delayed"):
        found = with_multiplier(x, fmt, history.multiplier if history else 1.0, **options)
        if history:
            history.update(x.abs().max())
        return found
    block = {"tensor": None, "row": "row", "block": (128, 128) if role == "weight" else (1, 128)}[recipe.scaling]
    return scaled(x, fmt, block, recipe.power_of_two, **options)


class _Product(torch.autograd.Function):
    """x @ weight.T with every operand of its three products rounded by the layer's recipe."""

    @staticmethod
    def forward(ctx, x, weight, layer):
        short_x, short_weight = layer.rounded(x, "activation"), layer.rounded(weight, "weight")
        ctx.save_for_backward(*((short_x, short_weight) if layer.shares else (x, weight)))
        ctx.layer = layer
        return short_x @ short_weight.T

    @staticmethod
    def backward(ctx, gradient):
        (x, weight), layer = ctx.saved_tensors, ctx.layer
        if layer.shares:
            gradient = layer.rounded(gradient, "gradient")
            return gradient @ weight, gradient.T @ x, None
        along_out = layer.rounded(gradient, "gradient") @ layer.rounded(weight.T, "weight").T
        gradient, x = gradient.T, x.T  # the weight's gradient sums over the rows
        if layer.recipe.mixed:
            gradient, x = (hadamard(each, len(layer.signs), layer.signs) for each in (gradient, x))
        return along_out, layer.rounded(gradient, "gradient") @ layer.rounded(x, "activation").T, None


class ScaledLinear(nn.Module):
    """A linear layer under a `ScaledRecipe`; it shares weight and bias with the one it is made from.

    With delayed scaling it keeps three histories, and each forward pass, also one without training, adds to two of them.
    """

    def __init__(self, linear, recipe, generator=None, signs=None):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.recipe, self.generator, self.signs = recipe, generator, torch.ones(HADAMARD) if signs is None else signs
        self.shares = recipe.scaling in _WHOLE and not recipe.mixed  # one rounding of an operand serves both of its products
        formats = {"activation": recipe.forward, "weight": recipe.forward, "gradient": recipe.backward}
        delayed = recipe.scaling == "delayed"
        self.histories = {role: DelayedScale(fmt, recipe.history, algorithm=recipe.algorithm) for role, fmt in formats.items() if delayed}

    def rounded(self, x, role):
        """A matrix of this layer under its recipe."""
        return rounded(x, self.recipe, role, self.histories.get(role), self.generator)

    def forward(self, x):
        out = _Product.apply(x.reshape(-1, x.shape[-1]), self.weight, self)
        out = out if self.bias is None else out + self.bias
        return out.reshape(*x.shape[:-1], -1)


# ---- whole models


def in_blocks(module, name) -> bool:
    """Whether this is a linear layer inside a transformer block: head and embedding stay long, as in every published run."""
    return isinstance(module, nn.Linear) and name.startswith("blocks.")


def convert(model, recipe, chosen=in_blocks, seed=0):
    """Replace the chosen linear layers by `ScaledLinear` under `recipe` (a name or a `ScaledRecipe`), in place; gives the model.

    `seed` starts the draws of stochastic rounding and of Hadamard signs. Raises `RunError` for an unknown name.
    """
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise RunError(f"there is no recipe {recipe!r}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (HADAMARD,), generator=generator) - 1  # one vector for all layers, as in NVIDIA's recipe
    for name, module in [(n, m) for n, m in model.named_modules() if chosen(m, n)]:
        model.set_submodule(name, ScaledLinear(module, recipe, generator, signs))
    return model


def freeze(model, chosen=in_blocks):
    """Leave the chosen linear layers as they are: the control for recipes that train them badly. Gives the model."""
    for name, module in model.named_modules():
        if chosen(module, name):
            module.requires_grad_(False)
    return model


def torchao():
    """The package torchao.float8. Importing torchao tries compiled kernels that a CPU lacks, and says so each time: not here."""
    told, heard = logging.getLogger(), io.StringIO()
    before = told.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(heard):
            import torchao.float8 as float8
    finally:
        logging.disable(before)
    return float8


def convert_with_torchao(model, recipe="tensorwise", chosen=in_blocks, device=None):
    """Replace the chosen layers by torchao's Float8Linear, in place; gives the model. `recipe` is "tensorwise" or "rowwise".

    Real FP8 products where the `device` (a `hardware.Device`; by default the CPU) has them, else torchao's own emulation: operands in
    FP8, dequantised and multiplied in their first dtype. Source: torchao, `float8/config.py`.
    """
    float8 = torchao()
    native = device is not None and device.kind != "cpu" and "fp8" in device.native
    config = replace(float8.Float8LinearConfig.from_recipe_name(recipe), emulate=not native)
    return float8.convert_to_float8_training(model, config=config, module_filter_fn=chosen)


def compare(short, exact) -> tuple[float, float]:
    """(the part of `exact` that `short` keeps: its projection, 1 without bias; the norm of their difference over that of `exact`).

    >>> compare(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0]))
    (0.5, 0.5)
    """
    short, exact = short.double(), exact.double()
    return ((short * exact).sum() / exact.square().sum()).item(), ((short - exact).norm() / exact.norm()).item()


def weight_gradient(x, gradient, recipe, seed=0) -> tuple:
    """What becomes of a linear layer's weight gradient, gradientᵀ · x: (part kept, relative error, `Quality` of its gradient operand).

    `x` is (rows, in), `gradient` (rows, out); the first two numbers are those of `compare`. The operand is judged as the product
    sees it: along the rows, and after the recipe's transform.

    >>> kept, error, found = weight_gradient(torch.eye(16), torch.eye(16), RECIPES["NVFP4, nearest"])
    >>> kept, error, found.sqnr
    (1.0, 0.0, inf)
    """
    layer = nn.Linear(x.shape[1], gradient.shape[1], bias=False)
    made = convert(nn.Sequential(layer), recipe, lambda module, name: name == "0", seed)
    made(x).backward(gradient)
    turned = hadamard(gradient.T, HADAMARD, made[0].signs) if recipe.mixed else gradient.T
    dice = torch.Generator().manual_seed(seed)
    return *compare(layer.weight.grad, gradient.T @ x), quality(turned, quantised(turned, recipe, "gradient", generator=dice))


# ---- accumulators that are too short


def accumulate(a, b, bits=14, promote=None, group=32, nearest=False):
    """a (m, k) @ b (k, n) with an accumulator of `bits` significant bits, emulated in FP64; gives FP64.

    As DeepSeek describes Hopper's matrix unit: of `group` products at a time each is cut to `bits` bits below the largest one's
    first, they are added, and the sum joins the accumulator, which is cut to `bits` bits again. Cutting is toward zero;
    `nearest` rounds to nearest-even instead, as a control.
    `promote`: after so many products the accumulator is added to an FP32 one and starts anew. None for `bits` cuts nothing but to FP32.
    Source: DeepSeek-V3, arXiv:2412.19437, sections 3.3.2 and 3.5.2.

    >>> ones = torch.ones(1, 4096)
    >>> accumulate(ones, 1.01 * ones.T).item() < accumulate(ones, 1.01 * ones.T, promote=128).item() < 4136.96
    True
    """
    a, b = a.double(), b.double()
    every = promote or a.shape[1]
    if every % group or a.shape[1] % group:
        raise ValueError(f"{a.shape[1]} products in groups of {group}, promoted after {every}: both have to be multiples of the group")
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float64)
    part = total.clone()
    for at in range(0, a.shape[1], group):
        products = a[:, at : at + group, None] * b[None, at : at + group]
        part = _cut(part + _cut(products, bits, nearest, products.abs().amax(1, keepdim=True)).sum(1), bits, nearest)
        if (at + group) % every == 0:
            total, part = (total + part).float().double(), torch.zeros_like(part)
    return (total + part).float().double()


def _cut(x, bits, nearest, largest=None):
    """x without what lies below `bits` bits from the first bit of `largest` (by default of each number), toward zero or to nearest."""
    if bits is None:
        return x
    step = torch.exp2(torch.frexp(x.abs() if largest is None else largest).exponent.double() - bits)
    return (torch.round if nearest else torch.trunc)(x / step) * step
