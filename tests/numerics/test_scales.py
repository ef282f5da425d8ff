"""Scaled formats: bit for bit torchao's codes and scales, gfloat's blocks, and the specification where these two differ from it."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics import BF16, E2M1, E2M3, E3M2, E4M3, E5M2, round_to
from course.numerics.scales import (
    RULES, DelayedScale, block_amax, hadamard, mx, nvfp4, quality, scale_for, scaled, with_multiplier,
)  # fmt: skip

TORCH = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}


@pytest.fixture(scope="module")
def torchao():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchao.float8.float8_utils as float8
        import torchao.prototype.mx_formats.mx_tensor as mx_tensor
        import torchao.prototype.mx_formats.nvfp4_tensor as nvfp4_tensor
    return float8, mx_tensor, nvfp4_tensor


def tensors(count=12, shape=(32, 256)):
    """Tensors as they occur: sizes from 2⁻³⁰ to 2³⁰, outliers, zeros, whole rows of zeros."""
    for seed in range(count):
        generator = np.random.default_rng(seed)
        x = generator.standard_normal(shape) * 2.0 ** generator.integers(-30, 30)
        x *= np.exp(generator.standard_normal(shape) * (seed % 3))
        x[generator.random(shape) < 0.05] = 0
        x[3] = 0
        x[5, 7] *= 1000
        yield torch.from_numpy(x.astype(np.float32))


# ---- torchao


@pytest.mark.parametrize("fmt", TORCH, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("rows", [False, True])
def test_tensor_and_row_scales_are_torchaos(torchao, fmt, power_of_two, rows):
    float8 = torchao[0]
    for x in tensors():
        amax = x.abs().amax(1, keepdim=True) if rows else x.abs().max()
        scale = float8.amax_to_scale(amax, TORCH[fmt], power_of_two)
        found = scaled(x, fmt, "row" if rows else None, power_of_two)
        assert torch.equal(found.multiplier, scale.expand(x.shape))
        assert torch.equal(found.values, float8.to_fp8_saturated(x * scale, TORCH[fmt]).float())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fmt", [E4M3, E5M2, E3M2, E2M3, E2M1], ids=lambda fmt: fmt.name)
def test_mx_is_torchaos(torchao, fmt, rule):
    module = torchao[1]
    kinds = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2, E3M2: module.DTYPE_FP6_E3M2, E2M3: module.DTYPE_FP6_E2M3, E2M1: torch.float4_e2m1fn_x2}
    mode = module.ScaleCalculationMode({"round-up": "rceil"}.get(rule, rule))
    for x in tensors():
        scale, data = module.to_mx(x, kinds[fmt], 32, mode)
        found = mx(x, fmt, rule)
        theirs = torch.exp2(127.0 - scale.view(torch.uint8).float()).repeat_interleave(32, 1)
        zero = block_amax(x, (1, 32)) == 0
        assert torch.equal(found.multiplier[~zero], theirs[~zero])
        assert torch.equal(found.values, unpacked(module, fmt, data).reshape(x.shape))


def unpacked(module, fmt, data):
    if fmt in TORCH:
        return data.float()
    if fmt == E2M1:
        return module.f4_unpacked_to_f32(module.unpack_uint4(data))
    return (module.f6_e3m2_unpacked_to_f32 if fmt == E3M2 else module.f6_e2m3_unpacked_to_f32)(data)


def test_nvfp4_is_torchaos(torchao):
    _, mx_tensor, module = torchao
    for x in tensors():
        tensor_scale = module.per_tensor_amax_to_scale(x.abs().max())
        scales, data = module.nvfp4_quantize(x, 16, tensor_scale)
        found = nvfp4(x)
        assert torch.equal(found.values, mx_tensor.f4_unpacked_to_f32(mx_tensor.unpack_uint4(data)).reshape(x.shape))
        theirs = (scales.float() * tensor_scale).repeat_interleave(16, 1)
        torch.testing.assert_close(found.dequantise(), found.values * theirs, rtol=3e-7, atol=0)


def test_where_torchaos_round_up_is_not_exact(torchao):
    """A descale just above a large power of two: log2 in FP32 says that it is one, and the block's largest number saturates."""
    module = torchao[1]
    amax = torch.tensor(448.0 * 2.0**100).nextafter(torch.tensor(math.inf))
    x = torch.full((1, 32), amax.item())
    scale, _ = module.to_mx(x, torch.float8_e4m3fn, 32, module.ScaleCalculationMode.RCEIL)
    assert scale.view(torch.uint8).item() - 127 == 100
    assert mx(x, rule="round-up").multiplier[0, 0] == 2.0**-101  # as the specification of the conversion: round towards +Inf
    assert amax.item() / 2.0**100 > E4M3.max


# ---- gfloat, and the specification itself


@pytest.mark.parametrize("fmt, info", [(E4M3, "ocp_e4m3"), (E5M2, "ocp_e5m2"), (E2M1, "ocp_e2m1"), (E3M2, "ocp_e3m2"), (E2M3, "ocp_e2m3")], ids=str)
def test_mx_floor_is_gfloats(fmt, info):
    import gfloat
    from gfloat import formats

    block = gfloat.BlockFormatInfo("mx", getattr(formats, f"format_info_{info}"), 32, formats.format_info_ocp_e8m0)
    for x in tensors(3, (8, 64)):
        found = mx(x, fmt).dequantise().double().numpy().reshape(-1, 32)
        for ours, numbers in zip(found, x.double().numpy().reshape(-1, 32)):
            assert np.array_equal(ours, gfloat.quantize_block(block, numbers, gfloat.compute_scale_amax))


@given(st.floats(2.0**-100, 2.0**100, width=32), st.sampled_from([E4M3, E5M2, E2M1]))
@settings(max_examples=300, deadline=None)
def test_each_rule_by_its_definition(amax, fmt):
    x = torch.full((1, 32), amax)
    exponent = {rule: -math.log2(mx(x, fmt, rule).multiplier[0, 0].item()) for rule in RULES}
    largest = math.floor(math.log2(fmt.max))
    assert exponent["floor"] == math.frexp(amax)[1] - 1 - largest
    assert exponent["ceil"] == (math.frexp(amax)[1] - (math.frexp(amax)[0] == 0.5)) - largest
    quotient = float(np.float32(amax / fmt.max))
    assert 2.0 ** (exponent["round-up"] - 1) < quotient <= 2.0 ** exponent["round-up"]
    # "even": the exponent of the amax rounded to the element's digits, ties away from zero
    digits = math.floor(math.frexp(amax)[0] * 2 ** (fmt.mantissa_bits + 1) + 0.5) / 2 ** (fmt.mantissa_bits + 1)
    assert exponent["even"] == math.frexp(amax)[1] - 1 + (digits >= 1) - largest


def test_a_scale_stays_within_e8m0():
    tiny, huge = (mx(torch.full((1, 32), size), E2M1).multiplier[0, 0].item() for size in (2.0**-149, 3e38))
    assert (tiny, huge) == (2.0**127, 2.0**-125) and mx(torch.zeros(1, 32)).multiplier[0, 0] == 2.0**127


def test_floor_saturates_and_round_up_does_not():
    x = torch.tensor([[500.0] + [1.0] * 31])
    assert quality(x, mx(x)).saturated == 1 / 32 and quality(x, mx(x, rule="round-up")).saturated == 0
    for x in tensors():
        assert quality(x, mx(x, rule="round-up")).saturated == 0 == quality(x, mx(x, rule="ceil")).saturated


# ---- scales and blocks


def test_blocks_cover_each_number_once():
    x = torch.arange(1.0, 65).view(4, 16)
    assert torch.equal(block_amax(x, (2, 8))[0], torch.tensor([24.0] * 8 + [32.0] * 8))
    assert torch.equal(block_amax(x, (2, 8))[3], torch.tensor([56.0] * 8 + [64.0] * 8))
    assert torch.equal(block_amax(x, "row")[:, 0], torch.tensor([16.0, 32, 48, 64])) and block_amax(x).unique() == 64
    batched = torch.stack([x, 2 * x])
    assert torch.equal(block_amax(batched, (2, 8)), torch.stack([block_amax(x, (2, 8)), block_amax(2 * x, (2, 8))]))


@pytest.mark.parametrize("block, bits", [(None, 8 + 32 / 65536), ("row", 8 + 32 / 256), ((1, 128), 8.25), ((128, 128), 8 + 32 / 16384)])
def test_bits_per_value(block, bits):
    assert scaled(torch.ones(256, 256), E4M3, block).bits_per_value == bits
    assert mx(torch.ones(256, 256)).bits_per_value == 8.25 and mx(torch.ones(256, 256), E2M1).bits_per_value == 4.25
    assert nvfp4(torch.ones(256, 256)).bits_per_value == 4.5 + 32 / 65536


def test_finer_blocks_keep_more_of_a_tensor_with_an_outlier():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32))
    x[0, 0] = 1e7
    kept = [quality(x, scaled(x, E4M3, block)) for block in (None, "row", (1, 128))]
    assert kept[0].flushed > 0.9 > 0.02 > kept[1].flushed > kept[2].flushed
    assert all(found.saturated == 0 for found in kept)
    unscaled = quality(x, with_multiplier(x, E4M3, 1.0))
    assert unscaled.saturated == 1 / x.numel()


def test_the_amax_lands_on_the_largest_number():
    for x in tensors():
        for fmt in (E4M3, E5M2, E2M1):
            assert scaled(x, fmt).values.abs().max() == fmt.max
    assert scale_for(torch.tensor(0.0), E4M3) == 448e12 and scaled(torch.zeros(4), E4M3).values.eq(0).all()
    assert scale_for(torch.tensor(1.0), E4M3, margin=3) == 56


def test_quality_by_hand():
    x = torch.tensor([3.0, 4.0, 2.0**-11, 0.0])
    found = quality(x, with_multiplier(x, E4M3, 1.0))
    assert found.sqnr == pytest.approx(20 * math.log10(5 / 2**-11), abs=1e-3) and found.flushed == 1 / 3
    assert quality(torch.tensor([1.0]), with_multiplier(torch.tensor([1.0]), E4M3, 1.0)).sqnr == math.inf
    assert [quality(v, with_multiplier(v, E4M3, 1.0)).saturated for v in torch.tensor([[463.0], [464.0]])] == [0, 1]


def test_stochastic_rounding_is_unbiased_under_a_scale():
    x = torch.full((20_000,), 0.3)
    x[0] = 1
    generator = torch.Generator().manual_seed(0)
    found = scaled(x, E2M1, rounding="stochastic", generator=generator).dequantise()
    nearest = scaled(x, E2M1).dequantise()
    assert abs(found[1:].mean() - 0.3) < 0.002 < abs(nearest[1:].mean() - 0.3)


# ---- delayed


def test_delayed_scaling_is_late_by_a_step_and_remembers():
    delayed = DelayedScale(E4M3, length=3)
    assert [delayed.update(a) for a in (1, 1, 8, 1, 1, 1)] == [448, 448, 56, 56, 56, 448]
    recent = DelayedScale(E5M2, length=3, algorithm="most_recent", margin=1)
    assert [recent.update(a) for a in (1, 8, 1)] == [28672, 3584, 28672]


def test_delayed_scaling_ignores_what_is_no_amax():
    delayed = DelayedScale(E4M3, length=1)
    assert [delayed.update(a) for a in (0, 2, math.nan, math.inf, 0, 4)] == [1, 224, 224, 224, 224, 112]


def test_a_spike_bites_delayed_scaling_only():
    x = torch.linspace(-1, 1, 512)
    delayed = DelayedScale(E4M3, length=16)
    for _ in range(5):
        delayed.update(1.0)
    late, now = with_multiplier(64 * x, E4M3, delayed.multiplier), scaled(64 * x, E4M3)
    assert quality(64 * x, late).saturated > 0.9 and quality(64 * x, late).sqnr < 3 < 25 < quality(64 * x, now).sqnr


# ---- Hadamard


@pytest.mark.parametrize("size", [1, 4, 16, 64])
def test_a_hadamard_transform_keeps_norms_and_products(size):
    generator = np.random.default_rng(size)
    x, y = (torch.from_numpy(generator.standard_normal((8, 64)).astype(np.float32)) for _ in range(2))
    signs = torch.from_numpy(generator.choice([-1.0, 1.0], size).astype(np.float32))
    turned = hadamard(x, size, signs)
    torch.testing.assert_close(turned, hadamard(x * signs.repeat(64 // size), size))
    torch.testing.assert_close(turned.norm(), x.norm())
    torch.testing.assert_close(turned @ hadamard(y, size, signs).T, x @ y.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(hadamard(hadamard(x, size), size), x, atol=1e-5, rtol=1e-5)
    matrix = hadamard(torch.eye(size), size)
    assert torch.equal(matrix.abs(), torch.full((size, size), size**-0.5)) and torch.equal(matrix, matrix.T)


def test_an_outlier_is_spread():
    x = torch.zeros(1, 16)
    x[0, 3] = 100
    assert hadamard(x).abs().max() == 25


# ---- mistakes


def test_mistakes_are_told():
    x = torch.ones(4, 48)
    for wrong, words in (
        (lambda: scaled(x, E4M3, (1, 32)), "does not divide into blocks of 1 × 32"), (lambda: scaled(x * math.inf, E4M3), "Inf or a NaN"),
        (lambda: mx(x, rule="nearest", block=16), "rule='nearest'.*floor"), (lambda: DelayedScale(E4M3, 0), "length=0"),
        (lambda: DelayedScale(E4M3, 1, algorithm="mean"), "algorithm='mean'"), (lambda: hadamard(x, 32), "size=32"), (lambda: hadamard(x, 3), "size=3"),
        (lambda: scaled(torch.empty(0), E4M3), "no number"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            wrong()
    with pytest.raises(TypeError, match="bfloat16"):
        scaled(x.bfloat16(), E4M3)
    assert torch.equal(round_to(scaled(x, BF16).values, BF16), scaled(x, BF16).values)
