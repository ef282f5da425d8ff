"""Precision recipes by name: which number format each part of a training step uses, and how this device runs it.

A recipe says *what* (weights, compute, master copy, loss scaling); `plan` says *how* on one device: natively through
`torch.autocast`, or emulated, in FP32 with every operand and result of a matrix product rounded to the
format. The native way is never taken where the device has no circuit for it: there a library converts
element by element, and a CPU with AVX2 alone then multiplies BF16 eighty times more slowly than FP32.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from course.training import RunError

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Recipe:
    """Formats of one training step, by name.

    >>> RECIPES["bf16"].weights, RECIPES["bf16"].compute
    ('fp32', 'bf16')
    """

    name: str
    weights: str  # the parameters that the optimizer updates, and its two moments
    compute: str  # operands of the matrix products; they accumulate in FP32
    master: str | None = None  # full-precision parameters behind a shorter compute format; None: there are none
    scaler: bool = False  # dynamic loss scaling, for a format whose small gradients underflow

    def as_dict(self) -> dict:
        return asdict(self)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("fp32", weights="fp32", compute="fp32"),
        Recipe("tf32", weights="fp32", compute="tf32"),
        Recipe("bf16", weights="fp32", compute="bf16", master="fp32"),
        Recipe("fp16", weights="fp32", compute="fp16", master="fp32", scaler=True),
        Recipe("pure-bf16", weights="bf16", compute="bf16"),
    )
}


@dataclass(frozen=True)
class Plan:
    """A recipe on a device: `execution` is "native" or "emulated"; `warning` says what follows from the latter."""

    recipe: Recipe
    torch_type: str  # "cpu", "cuda", "mps", "xpu"
    execution: str
    warning: str | None = None

    @property
    def speed_counts(self) -> bool:
        """Only a native run says anything about the format's speed."""
        return self.execution == "native"

    @contextmanager
    def step(self):
        """The context in which forward and backward passes run."""
        recipe, dtype = self.recipe, DTYPES[self.recipe.compute]
        rounded = recipe.master is not None
        if self.execution == "emulated":
            inner = RoundedProducts(dtype)
        elif rounded:
            inner = torch.autocast(self.torch_type, dtype)
        else:
            inner = nullcontext()
        with _float32_products("tf32" if recipe.compute == "tf32" else "ieee"), inner:
            yield


def plan(recipe, device) -> Plan:
    """Decide how `recipe` (a name or a `Recipe`) runs on `device` (a `hardware.Device`).

    Raises `RunError` for an unknown name, and where a device can neither run nor emulate the recipe.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise RunError(f"there is no precision {recipe!r}: choose one of {', '.join(RECIPES)}")
        recipe = RECIPES[recipe]
    name = recipe.compute.upper()
    if recipe.compute in device.native:
        return Plan(recipe, device.torch_type, "native")
    where = f"{device.name} has no native {name}"
    if recipe.compute == "tf32":
        raise RunError(f"{where} (it is a format of GPU matrix units): use --precision fp32 here")
    if recipe.master is None:
        raise RunError(f"{where}, and {recipe.name} keeps its weights in it: use --precision {recipe.compute} here")
    also = [short for short in ("bf16", "fp16") if short in device.native]
    advice = f"; {also[0].upper()} is native here (--precision {also[0]})" if also else ""
    warning = (
        f"{where}: it is emulated, in FP32 with every matrix operand and result rounded to {name}. "
        f"The losses are those of {name}; the speed says nothing about it{advice}."
    )
    return Plan(recipe, device.torch_type, "emulated", warning)


@contextmanager
def _float32_products(mode):
    """How GPUs multiply FP32 operands: "ieee", or "tf32" (ten mantissa bits)."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = mode
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


class RoundedProducts(TorchFunctionMode):
    """Emulates matrix units of a short format: within it, operands and results of products are rounded to `dtype`.

    The same holds for the gradients that flow back through them; sums are accumulated in FP32, as the units do.
    Rounding is to nearest, ties to even; overflow follows IEEE 754, to infinity.

    >>> with RoundedProducts(torch.bfloat16):
    ...     F.linear(torch.tensor([1.00390625]), torch.tensor([[3.0]]))  # 1 + 2⁻⁸ is a tie: it goes to 1
    tensor([3.])
    """

    PRODUCTS = (F.linear, F.scaled_dot_product_attention, torch.matmul, torch.Tensor.matmul)

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in self.PRODUCTS:
            return func(*args, **(kwargs or {}))
        operands = [self._rounded(value) if isinstance(value, torch.Tensor) else value for value in args]
        return self._rounded(func(*operands, **(kwargs or {})))

    def _rounded(self, tensor):
        return _Round.apply(tensor, self.dtype)


class _Round(torch.autograd.Function):
    """Rounds a tensor on the way forward and its gradient on the way back; the dtype stays."""

    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = dtype
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype).to(gradient.dtype), None
