"""Recipes and how a device runs them: native where it has the circuit, emulated elsewhere, refused with a way out."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml

from course.training import RunError, recipes
from course.training.capabilities import TIERS
from course.training.recipes import RECIPES, RoundedProducts, plan, recommended
from tests.training.test_hardware import machine

T4 = machine("cuda", (7, 5), name="Tesla T4").device
A100 = machine("cuda", (8, 0), name="A100").device
ZEN4 = machine("cpu", features=("avx512_bf16",), name="a CPU").device
LAPTOP = machine("cpu", features=("avx2",), name="a laptop").device
XPU = machine("xpu", features=("has_subgroup_matrix_multiply_accumulate_tensor_float32",)).device
DEVICES = yaml.safe_load((Path(__file__).parents[2] / "data" / "hardware.yaml").read_text())


@pytest.mark.parametrize(
    ("device", "native", "emulated", "refused"),
    [
        (A100, "fp32 tf32 bf16 fp16 pure-bf16 bf16-sr", "", ""),
        (T4, "fp32 fp16", "bf16 pure-bf16 bf16-sr", "tf32"),
        (ZEN4, "fp32 bf16 pure-bf16 bf16-sr", "fp16", "tf32"),
        (LAPTOP, "fp32", "bf16 fp16 pure-bf16 bf16-sr", "tf32"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_how_each_device_runs_each_recipe(device, native, emulated, refused):
    assert sorted([*native.split(), *emulated.split(), *refused.split()]) == sorted(RECIPES)
    for name in native.split():
        made = plan(name, device)
        assert made.execution == "native" and made.speed_counts and made.warning is None
    for name in emulated.split():
        made = plan(name, device)
        assert made.execution == "emulated" and not made.speed_counts
        assert device.name in made.warning and made.recipe.weights.name in made.warning and name in made.warning
        assert made.autocast is None and made.dtype == torch.float32 and made.attention == "fused"
    for name in refused.split():
        with pytest.raises(RunError, match=f"{device.name} has no native .*use --precision fp32 here"):
            plan(name, device)


@pytest.mark.parametrize("row", DEVICES, ids=lambda row: row["name"])
def test_what_every_known_device_trains_with(row):
    """The decisions of a run, for each device of the table and each recipe that it can run, from its natives alone."""
    capability = tuple(row["capability"]) if isinstance(row.get("capability"), list) else row.get("capability")
    device = machine(row["kind"], capability, row.get("features", ())).device
    native = set(row["native"])
    wanted = "fp32" if row["tier"] in ("cpu", "gpu") else "fp16" if row["tier"] == "gpu-fp16" else "bf16"
    assert recommended(device) == wanted and (wanted in native)
    for name, recipe in RECIPES.items():
        if name == "tf32" and "tf32" not in native:
            with pytest.raises(RunError, match="use --precision fp32"):
                plan(name, device)
            continue
        made = plan(name, device)
        here = recipe.compute in native
        assert made.execution == ("native" if here else "emulated") and made.fused
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        assert made.autocast == (dtypes.get(name) if here else None)
        assert made.dtype == (torch.bfloat16 if here and recipe.master is None and name != "fp32" else torch.float32)
        assert made.float32_products == ("tf32" if name == "tf32" else "ieee")
        written = row["kind"] == "cpu" and here and recipe.compute == "bf16"
        assert made.attention == ("written" if written else "fused")
        assert made.torch_type == ("cuda" if row["kind"] == "rocm" else row["kind"])


def test_every_tier_has_its_recipe():
    assert set(recipes.RECOMMENDED) == set(TIERS) and set(recipes.RECOMMENDED.values()) <= set(RECIPES)


def test_intels_gpus_have_a_tf32_switch_of_their_own(monkeypatch):
    cuda, onednn = torch.backends.cuda.matmul.fp32_precision, SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch.backends, "mkldnn", onednn)
    with plan("tf32", XPU).step():
        assert onednn.allow_tf32 is True and torch.backends.cuda.matmul.fp32_precision == cuda
    assert onednn.allow_tf32 is False
    onednn.allow_tf32 = True  # somebody else's choice: FP32 is FP32 within the run, and the choice comes back
    with plan("fp32", XPU).backward():
        assert onednn.allow_tf32 is False
    assert onednn.allow_tf32 is True


def test_the_warning_names_the_way_out():
    assert "(--precision fp16)" in plan("bf16", T4).warning
    assert "(--precision bf16)" in plan("fp16", ZEN4).warning
    assert "--precision" not in plan("bf16", LAPTOP).warning


def test_unknown_precision():
    with pytest.raises(RunError, match="no precision 'fp12'.*fp32, tf32, bf16"):
        plan("fp12", ZEN4)


def test_scaling_belongs_to_fp16_and_masters_to_short_compute():
    assert [name for name, recipe in RECIPES.items() if recipe.scaler] == ["fp16"]
    for recipe in RECIPES.values():
        assert (recipe.master is not None) == (recipe.stored.name.lower() != recipe.compute)
        assert recipe.stored.name == ("BF16" if recipe.name in ("pure-bf16", "bf16-sr") else "FP32")
        # torch.optim keeps the moments in the dtype of the parameters
        assert recipe.first_moment == recipe.second_moment == recipe.stored
        assert recipe.reductions.name == "FP32"


def test_a_role_takes_a_format_only():
    with pytest.raises(TypeError, match="activations='bf16' is no FloatFormat"):
        recipes.Recipe("mine", activations="bf16")
    with pytest.raises(TypeError, match="weights=None"):
        recipes.Recipe("mine", weights=None)


def test_the_command_runs_only_its_own_recipes():
    mine = recipes.Recipe("bf16", weights=RECIPES["fp16"].weights)
    with pytest.raises(RunError, match="a recipe of your own.*Emulation"):
        plan(mine, ZEN4)


def test_native_bf16_computes_products_in_bf16_and_leaves_weights_alone():
    layer = torch.nn.Linear(8, 8)
    with plan("bf16", ZEN4).step():
        assert layer(torch.ones(2, 8)).dtype == torch.bfloat16
    with plan("fp32", ZEN4).step():
        assert layer(torch.ones(2, 8)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_emulated_products_equal_real_ones(dtype):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(16, 16, generator=generator).requires_grad_() for _ in range(2))
    with RoundedProducts(dtype):
        y = F.linear(x, w)
    real_x, real_w = (t.detach().to(dtype).requires_grad_() for t in (x, w))
    real = F.linear(real_x, real_w)
    seed = torch.randn(16, 16, generator=generator)
    y.backward(seed)
    real.backward(seed.to(dtype))
    ulp = torch.finfo(dtype).eps
    for ours, theirs in ((y, real), (x.grad, real_x.grad), (w.grad, real_w.grad)):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, ours.to(dtype).float())  # every value is one of the format
        # Equal but for the order of the sum, which may tip a rounding: one ulp, rarely.
        error = (ours - theirs.float()).abs() / theirs.float().abs().clamp_min(1e-2)
        assert error.max() <= 2 * ulp and (error > 0).float().mean() < 0.1


def test_emulation_overflows_like_the_format_and_leaves_other_operations_alone():
    with RoundedProducts(torch.float16):
        assert F.linear(torch.tensor([300.0]), torch.tensor([[300.0]])).isinf().all()
        assert torch.tensor([1 / 3]).add(0).item() == torch.tensor([1 / 3]).item()


PRODUCTS = {
    "linear": lambda x, w: F.linear(x, w.T), "by name": lambda x, w: F.linear(input=x, weight=w.T), "@": lambda x, w: x @ w, "matmul": torch.matmul,
    "mm": torch.mm, "method": lambda x, w: x.mm(w), "bmm": lambda x, w: torch.bmm(x[None], w[None])[0], "x.bmm": lambda x, w: x[None].bmm(w[None])[0],
    "addmm": lambda x, w: torch.addmm(torch.zeros(1, 1), x, w), "einsum": lambda x, w: torch.einsum("ij,jk->ik", x, w),
    "baddbmm": lambda x, w: torch.baddbmm(torch.zeros(1, 1, 1), x[None], w[None])[0],
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_one_however_it_is_written(name):
    """1 + 2⁻⁸ goes to 1 first, and 3 × 1.0078125 = 3.0234375 to 3.03125 at the end."""
    for x, w, result in ((1 + 2**-8, 3.0, 3.0), (3.0, 1.0078125, 3.03125)):
        with RoundedProducts(torch.bfloat16):
            assert PRODUCTS[name](torch.tensor([[x]]), torch.tensor([[w]])).item() == result


def test_attention_is_a_product_too():
    q = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    with RoundedProducts(torch.bfloat16):
        out = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert torch.equal(out, out.bfloat16().float())
    assert not torch.equal(out, F.scaled_dot_product_attention(q, q, q, is_causal=True))


def test_the_product_switch_is_put_back_after_an_error():
    before = torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), plan("tf32", A100).step():
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        raise ZeroDivisionError
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.gpu
def test_tf32_rounds_fp32_products_on_a_gpu():
    from course.training import hardware

    device = hardware.probe().device
    if "tf32" not in device.native:
        pytest.skip("this GPU has no TF32")
    x = torch.full((64, 64), 1 + 2**-12, device="cuda")
    with plan("fp32", device).step():
        exact = x @ x
    with plan("tf32", device).step():
        assert not torch.equal(x @ x, exact)


def test_all_recipes_are_named_by_their_key():
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    assert recipes.RECIPES["bf16"].as_dict() == {
        "name": "bf16", "weights": "BF16", "activations": "BF16", "activation_gradients": "BF16", "weight_gradients": "BF16",
        "master": "FP32", "first_moment": "FP32", "second_moment": "FP32", "reductions": "FP32", "scaler": False,
        "update": "nearest-even",
    }  # fmt: skip
    short, dice = (recipes.RECIPES[name].as_dict() for name in ("pure-bf16", "bf16-sr"))
    assert {key for key in short if short[key] != dice[key]} == {"name", "update"} and dice["update"] == "stochastic"
    assert recipes.RECIPES["fp32"].as_dict()["master"] is None
