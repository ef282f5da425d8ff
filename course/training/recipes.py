"""Precision recipes: which number format each role of a training step has, and how this device runs them.

A recipe says *what*: the format of weights, activations, gradients, master copy, moments, reductions. `plan` says *how*
the recipes of the `train` command run on one device: natively, through `torch.autocast` or with the model in the short format; or
emulated in FP32, where the operands and results of matrix products are rounded, or, for a model that *is* in the short
format, whatever one operation hands to the next (`course.training.emulation`). The native way is never taken where the device has no
circuit for it: there a library converts element by element, and a CPU with AVX2 alone then multiplies BF16 eighty times
more slowly than FP32. Any other recipe runs, in any formats, under `course.training.emulation`.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices
from torch.utils._pytree import tree_map

from course.numerics.formats import BF16, FP16, FP32, TF32, FloatFormat
from course.training import RunError
from course.training.capabilities import tier
from course.training.emulation import Emulation

_NO_ROLES = ("name", "scaler", "update")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Recipe:
    """The format of each role in a training step; FP32 where nothing else is said.

    Raises `TypeError` where a role is given something else than a `FloatFormat`.

    >>> RECIPES["fp16"].activations.name, RECIPES["fp16"].master.name, RECIPES["fp16"].scaler
    ('FP16', 'FP32', True)
    """

    name: str
    weights: FloatFormat = FP32  # the copy that is multiplied
    activations: FloatFormat = FP32  # what one operation of the forward pass hands to the next
    activation_gradients: FloatFormat = FP32  # the same on the way back
    weight_gradients: FloatFormat = FP32  # what the optimizer reads
    master: FloatFormat | None = None  # the longer copy that the optimizer updates; None: it updates `weights`
    first_moment: FloatFormat = FP32  # momentum, and Adam's m
    second_moment: FloatFormat = FP32  # Adam's v
    reductions: FloatFormat = FP32  # sums, means, variances, log-probabilities, losses
    scaler: bool = False  # dynamic loss scaling, for a format whose small gradients underflow
    update: str = "nearest-even"  # how the sum of weight and update is rounded to `stored`; or "stochastic"

    def __post_init__(self):
        for role, fmt in self.roles().items():
            if not isinstance(fmt, FloatFormat) and not (role == "master" and fmt is None):
                raise TypeError(f"{role}={fmt!r} is no FloatFormat: take one of course.numerics, such as BF16, or make your own")

    def roles(self) -> dict:
        """The format of each role, by the role's name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NO_ROLES}

    @property
    def stored(self) -> FloatFormat:
        """The format of the parameters that the optimizer updates."""
        return self.master or self.weights

    @property
    def compute(self) -> str:
        """The format of the operands of matrix products, as the `train` command and a device's list name it."""
        return self.weights.name.lower()

    def as_dict(self) -> dict:
        """Names instead of formats, as JSON values."""
        formats = {role: fmt and fmt.name for role, fmt in self.roles().items()}
        return {"name": self.name, **formats, "scaler": self.scaler, "update": self.update}


def _short(name, fmt, **more):
    """Weights, activations and gradients in one format."""
    return Recipe(name, weights=fmt, activations=fmt, activation_gradients=fmt, weight_gradients=fmt, **more)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("fp32"),
        Recipe("tf32", weights=TF32, activations=TF32, activation_gradients=TF32, master=FP32),
        _short("bf16", BF16, master=FP32),
        _short("fp16", FP16, master=FP32, scaler=True),
        _short("pure-bf16", BF16, first_moment=BF16, second_moment=BF16),
        # As pure-bf16 in all but one rounding, so that whatever differs between the two is due to it.
        _short("bf16-sr", BF16, first_moment=BF16, second_moment=BF16, update="stochastic"),
    )
}
# What to train with on a device, by its tier: the shortest format that is safe without looking at each tensor.
RECOMMENDED = {"cpu": "fp32", "cpu-bf16": "bf16", "gpu": "fp32", "gpu-fp16": "fp16", "gpu-bf16": "bf16",
               "gpu-fp8": "bf16", "gpu-fp4": "bf16"}  # fmt: skip


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

    @property
    def autocast(self) -> torch.dtype | None:
        """What `torch.autocast` casts products to; None without autocast: FP32, TF32, a model in BF16, emulation."""
        short = self.recipe.master is not None and self.recipe.compute != "tf32"
        return DTYPES[self.recipe.compute] if short and self.execution == "native" else None

    @property
    def float32_products(self) -> str:
        """How FP32 operands are multiplied: "ieee", or "tf32" (ten mantissa bits)."""
        return "tf32" if self.recipe.compute == "tf32" else "ieee"

    @property
    def fused(self) -> bool:
        """Whether torch has an AdamW in one kernel for this device; elsewhere it goes tensor by tensor."""
        return self.torch_type in _get_fused_kernels_supported_devices()

    @property
    def attention(self) -> str:
        """Which of `models.ATTENTIONS` is quicker: torch's fused one, but for BF16 on CPUs, where its way back is slow.

        There it took twice the time of FP32's, and the written one less than half of it (torch 2.13).
        """
        return "written" if (self.torch_type, self.autocast or self.dtype) == ("cpu", torch.bfloat16) else "fused"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's parameters; emulated formats are held in float32."""
        return DTYPES[self.recipe.stored.name.lower()] if self.execution == "native" else torch.float32

    @contextmanager
    def step(self, model=None):
        """The context in which a forward pass of `model` runs; only a model emulated as a whole has to be named."""
        inner = nullcontext()
        if self.execution == "emulated":
            stored_short = self.recipe.master is None and model is not None
            inner = Emulation(model, self.recipe) if stored_short else RoundedProducts(DTYPES[self.recipe.compute])
        elif self.autocast:
            inner = torch.autocast(self.torch_type, self.autocast)
        with self.backward(), inner:
            yield

    def backward(self):
        """The context in which a backward pass runs: each operation's way back has the dtype of its way forward."""
        return float32_products(self.torch_type, self.float32_products)


def plan(recipe, device) -> Plan:
    """Decide how `recipe` (a name or a `Recipe`) runs on `device` (a `hardware.Device`).

    Raises `RunError` for an unknown name, and where a device can neither run nor emulate the recipe.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise RunError(f"there is no precision {recipe!r}: choose one of {', '.join(RECIPES)}")
        recipe = RECIPES[recipe]
    if recipe != RECIPES.get(recipe.name):
        raise RunError(f"{recipe.name} is a recipe of your own: run it under course.training.emulation.Emulation")
    name = recipe.compute.upper()
    if recipe.compute in device.native:
        return Plan(recipe, device.torch_type, "native")
    where = f"{device.name} has no native {name}"
    if recipe.compute == "tf32":
        raise RunError(f"{where} (it is a format of GPU matrix units): use --precision fp32 here")
    how = "matrix operand and result" if recipe.master else "weight, gradient and result of an operation"
    also = [short for short in ("bf16", "fp16") if short in device.native]
    advice = f"; {also[0].upper()} is native here (--precision {also[0]})" if also else ""
    warning = (
        f"{where}: {recipe.name} is emulated, in FP32 with every {how} rounded to {name}. "
        f"The losses are those of {name}; the speed says nothing about it{advice}."
    )
    return Plan(recipe, device.torch_type, "emulated", warning)


def recommended(device) -> str:
    """The name of the recipe to train with on a `hardware.Device`; "fp32" where no short format is native.

    >>> from course.training.hardware import probe
    >>> recommended(probe().cpu) in ("bf16", "fp32")
    True
    """
    return RECOMMENDED[tier(device.kind, device.native)]


def to_try(device) -> str:
    """The recipe that `train` compares with FP32 where none is named: the recommended one, else BF16, emulated."""
    name = recommended(device)
    return "bf16" if name == "fp32" else name


@contextmanager
def float32_products(torch_type, mode):
    """Within it, devices of this type multiply FP32 operands as "ieee" says, or as "tf32".

    CUDA and ROCm have one switch, Intel's GPUs another, that of oneDNN; CPUs and Apple's GPUs know no TF32.
    """
    if torch_type == "xpu":
        owner, name, value = torch.backends.mkldnn, "allow_tf32", mode == "tf32"
    else:
        owner, name, value = torch.backends.cuda.matmul, "fp32_precision", mode
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class RoundedProducts(TorchFunctionMode):
    """Emulates matrix units of a short format: within it, operands and results of products are rounded to `dtype`.

    The same holds for the gradients that flow back through them; sums are accumulated in FP32, as the units do.
    Rounding is to nearest, ties to even; overflow follows IEEE 754, to infinity.

    >>> with RoundedProducts(torch.bfloat16):
    ...     F.linear(torch.tensor([1.00390625]), torch.tensor([[3.0]]))  # 1 + 2⁻⁸ is a tie: it goes to 1
    tensor([3.])
    """

    PRODUCTS = (F.linear, F.scaled_dot_product_attention, torch.matmul, torch.Tensor.matmul, torch.mm, torch.Tensor.mm,
                torch.bmm, torch.Tensor.bmm, torch.addmm, torch.baddbmm, torch.einsum)  # fmt: skip

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in self.PRODUCTS:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(self._rounded, (tuple(args), kwargs or {}))
        return self._rounded(func(*args, **kwargs))

    def _rounded(self, value):
        return _Round.apply(value, self.dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


class _Round(torch.autograd.Function):
    """Rounds a tensor on the way forward and its gradient on the way back; the dtype stays."""

    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = dtype
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype).to(gradient.dtype), None
