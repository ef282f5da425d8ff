"""Integer grids: every code there and back, torchao's primitives as the oracle, NF4's published levels."""

import numpy as np
import pytest
import torch

from course.numerics.integers import ROUNDINGS, integers, nf4, nf4_levels, pack4, unpack4
from course.numerics.scales import sqnr

# As published with QLoRA (arXiv:2305.14314, appendix E).
PUBLISHED = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
             -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
             0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip
BLOCKS = [None, "row", (1, 32), (16, 16)]


def normal(seed=0, shape=(32, 64)):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_every_code_comes_back(bits, symmetric):
    end = 2 ** (bits - 1) - 1
    codes = torch.arange(-end, end + 1) if symmetric else torch.arange(0, 2**bits)
    x = (codes - (0 if symmetric else 3 if bits > 2 else 1)).float() * 0.25
    for rounding in ROUNDINGS:
        found = integers(x, bits, symmetric=symmetric, rounding=rounding, generator=torch.Generator().manual_seed(0))
        assert torch.equal(found.codes, codes.to(torch.int16)) and torch.equal(found.dequantise(), x), rounding
    assert found.bits_per_value == bits + (32 if symmetric else 32 + bits) / len(x)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_nothing_is_further_off_than_half_a_step_and_zero_is_exact(block, symmetric, bits):
    x = normal() + (0 if symmetric else 0.7)
    x[0, 0] = 0.0
    found = integers(x, bits, block, symmetric)
    assert ((found.dequantise() - x).abs() <= found.scale * 0.5001).all() if symmetric else (
        (found.dequantise() - x).abs() <= found.scale * 1.0001).all()  # the zero itself was rounded
    assert found.dequantise()[0, 0] == 0
    count = {None: 1, "row": 32, (1, 32): 64, (16, 16): 8}[block]
    assert found.scale_bits == count * (32 if symmetric else 32 + bits)
    assert len(found.scale.unique()) <= count and found.codes.unique().numel() <= 2**bits


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_asymmetric_grid_is_that_of_torchao(bits, block):
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    x = normal(1) + 0.3
    sizes = {None: (32, 64), "row": (1, 64)}.get(block, block)
    high = 2**bits - 1
    scale, zero = primitives.choose_qparams_affine(
        x, primitives.MappingType.ASYMMETRIC, sizes, torch.uint8, 0, high, eps=1e-12, scale_dtype=torch.float32)
    theirs = primitives.quantize_affine(x, sizes, scale, zero, torch.uint8, 0, high)
    ours = integers(x, bits, block, symmetric=False)
    assert torch.equal(ours.scale.unique(), scale.unique())
    # torchao multiplies by 1/scale: a number midway between two codes may go to the other one.
    assert (ours.codes != theirs).float().mean() < 0.002 and (ours.codes - theirs).abs().max() <= 1


def test_torchao_s_symmetric_grid_has_another_step():
    """It divides by 127.5 and uses the code −128; ours is the textbook's 127, so that x and −x are mirrored."""
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    x = normal(2)
    scale, _ = primitives.choose_qparams_affine(
        x, primitives.MappingType.SYMMETRIC, (32, 64), torch.int8, -128, 127, eps=1e-12, scale_dtype=torch.float32)
    amax = x.abs().max()
    assert scale.item() == pytest.approx(amax.item() / 127.5, rel=1e-6) and integers(x).scale[0, 0] == amax / 127
    assert torch.equal(integers(-x).codes, -integers(x).codes) and integers(x).codes.min() >= -127


def test_rounding_names_do_what_they_say():
    x = torch.tensor([7.0, 2.5, 3.5, -2.5, 2.9])
    assert integers(x, 4).codes.tolist() == [7, 2, 4, -2, 3]
    assert integers(x, 4, rounding="toward-zero").codes.tolist() == [7, 2, 3, -2, 2]
    generator = torch.Generator().manual_seed(0)
    many = torch.cat([torch.tensor([7.0]), torch.full((20000,), 2.25)])
    codes = integers(many, 4, rounding="stochastic", generator=generator).codes[1:]
    assert set(codes.tolist()) == {2, 3} and codes.float().mean().item() == pytest.approx(2.25, abs=0.015)
    minus = integers(-many, 4, rounding="stochastic", generator=generator).codes[1:]
    assert minus.float().mean().item() == pytest.approx(-2.25, abs=0.015)


def test_asymmetric_grids_hold_zero_and_what_lies_on_one_side():
    found = integers(torch.tensor([2.0, 3.0, 5.0]), 4, symmetric=False)
    assert found.zero[0] == 0 and found.scale[0] == pytest.approx(5 / 15)
    found = integers(torch.tensor([-2.0, -3.0, -5.0]), 4, symmetric=False)
    assert found.zero[0] == 15 and found.codes.tolist()[2] == 0
    for symmetric in (True, False):
        assert (integers(torch.zeros(4), 8, symmetric=symmetric).dequantise() == 0).all()


def test_smaller_blocks_lose_less_of_a_tensor_with_an_outlier():
    x = normal(3)
    x[0, 0] = 100.0
    levels = [sqnr(x[1:], integers(x, 4, block).dequantise()[1:]) for block in (None, (16, 16), "row")]
    assert levels[0] < levels[1] < levels[2]


def test_nf4_levels_are_the_published_ones():
    assert (nf4_levels() - torch.tensor(PUBLISHED)).abs().max() < 2e-7 and nf4_levels()[7] == 0


def test_nf4_takes_the_nearest_level():
    x = normal(4)
    found = nf4(x, (1, 32))
    scale = x.abs().view(32, 2, 32).amax(2, keepdim=True).expand(-1, -1, 32).reshape(32, 64)
    distance = (x / scale).unsqueeze(2).sub(torch.tensor(PUBLISHED)).abs()
    assert torch.equal(found.codes.long(), distance.argmin(2)) and torch.equal(found.scale, scale)
    assert found.bits_per_value == 5.0 and (nf4(torch.zeros(1, 64)).dequantise() == 0).all()
    assert torch.equal(found.dequantise(), torch.tensor(PUBLISHED)[distance.argmin(2)] * scale) or torch.allclose(
        found.dequantise(), torch.tensor(PUBLISHED)[distance.argmin(2)] * scale, rtol=1e-5, atol=1e-6)


def test_nf4_beats_int4_on_a_bell_curve_and_loses_on_a_flat_one():
    bell = normal(5, (64, 64))
    flat = torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (64, 64)).astype(np.float32))
    gain = {name: sqnr(x, nf4(x).dequantise()) - sqnr(x, integers(x, 4, (1, 64)).dequantise()) for name, x in (("bell", bell), ("flat", flat))}
    assert gain["bell"] > 0.3 and gain["flat"] < -0.3, gain


def test_two_codes_to_a_byte():
    signed, unsigned = torch.arange(-8, 8, dtype=torch.int16), torch.arange(16, dtype=torch.int16)
    assert torch.equal(unpack4(pack4(signed)), signed) and torch.equal(unpack4(pack4(unsigned), signed=False), unsigned)
    pairs = torch.cartesian_prod(signed, signed).flatten()
    packed = pack4(pairs)
    assert packed.dtype == torch.uint8 and len(packed.unique()) == 256 and torch.equal(unpack4(packed), pairs)
    assert pack4(signed.view(2, 8)).shape == (2, 4)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: integers(torch.ones(2), 9), ValueError, "bits=9: choose a whole number from 2 to 8"),
    (lambda: integers(torch.ones(2), rounding="up"), ValueError, "rounding='up' is unknown"),
    (lambda: integers(torch.ones(2), rounding="stochastic"), ValueError, "generator=torch.Generator"),
    (lambda: integers(torch.ones(2).double()), TypeError, r"float64: convert it with x.float\(\)"),
    (lambda: integers(torch.tensor([1.0, np.inf])), ValueError, "an Inf or a NaN"),
    (lambda: nf4(torch.ones(1, 48)), ValueError, "does not divide into blocks of 1 × 64"),
    (lambda: pack4(torch.ones(3)), ValueError, "3 codes do not fill whole bytes"),
    (lambda: pack4(torch.tensor([16, 0])), ValueError, "do not fit into 4 bits"),
])  # fmt: skip
def test_mistakes_are_told(call, error, words):
    with pytest.raises(error, match=words):
        call()
