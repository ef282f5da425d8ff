"""Stochastic rounding: the probability of rounding up is the dropped fraction, for every pattern of dropped bits."""

import numpy as np
import pytest
import torch

from course.numerics import BF16, E4M3, E8M0, FORMATS, FP16, FloatFormat, kernels, round_rows, round_to, rounding
from tests.numerics.oracle import dense_sample
from tests.numerics.test_rounding import as_float32


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def torch_engine(monkeypatch):
    def use():
        monkeypatch.setattr(rounding, "kernels", None)

    return use


def chances(fmt, x, draws, dtype=torch.float32):
    """The share of draws in which each x was rounded up (away from zero)."""
    many = torch.from_numpy(x).to(dtype).repeat(draws, 1)
    low = round_to(many[0], fmt, "toward-zero")
    return (round_to(many, fmt, "stochastic", generator=generator()) != low).double().mean(0).numpy()


# A share p over n draws scatters by sqrt(p(1-p)/n). With thousands of shares tested at once, 6 of these never happen by chance.
def within(share, p, draws):
    return np.all(np.abs(share - p) <= 6 * np.sqrt(p * (1 - p) / draws) + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_pattern_of_the_upper_dropped_bits(dtype):
    fmt = FloatFormat("E8M15", 8, 15)  # drops 8 bits of a float32: all 256 patterns
    patterns = np.arange(256)
    x = (np.float32(1.0).view(np.uint32) + patterns).astype(np.uint32).view(np.float32)
    assert within(chances(fmt, x, 40_000, dtype), patterns / 256, 40_000)


@pytest.mark.parametrize("fmt", [BF16, FP16, E4M3, FORMATS["E2M1"], E8M0], ids=lambda fmt: fmt.name)
def test_each_single_dropped_bit_and_their_sums(fmt):
    drop = 23 - fmt.mantissa_bits
    dropped = np.unique(np.concatenate([2 ** np.arange(drop), 2**drop - 2 ** np.arange(drop), np.random.default_rng(0).integers(0, 2**drop, 100)]))
    x = (np.float32(1.0).view(np.uint32) + dropped).astype(np.uint32).view(np.float32)
    assert within(chances(fmt, x, 40_000), dropped / 2**drop, 40_000)


@pytest.mark.parametrize("fmt", [FP16, E4M3, BF16], ids=lambda fmt: fmt.name)
def test_subnormals_and_numbers_below_the_smallest(fmt):
    quantum = fmt.min_subnormal
    parts = np.array([3.5, 2.25, 1.125, 0.75, 0.5, 0.25, 1 / 64, 2.0**-10])
    x = (parts * quantum).astype(np.float32)
    assert np.array_equal(x.astype(np.float64), parts * quantum) or fmt is BF16
    fraction = (x.astype(np.float64) / quantum) % 1
    assert within(chances(fmt, x, 100_000), fraction, 100_000)


def test_the_mean_is_the_number_itself():
    x = torch.full((1_000_000,), 0.1)
    for fmt in (BF16, FP16, E4M3):
        mean = round_to(x, fmt, "stochastic", generator=generator()).double().mean().item()
        assert abs(mean - float(np.float32(0.1))) < 6 * fmt.ulp(0.1) / 2 / 1000


def test_what_is_in_the_format_never_moves():
    for fmt in (BF16, E4M3, FP16, E8M0):
        values = round_to(as_float32(dense_sample(E4M3)), fmt, "nearest-even", "saturate")
        values = values[~values.isnan()]
        again = round_to(values, fmt, "stochastic", "saturate", generator())
        assert torch.equal(values, again) and torch.equal(values.signbit(), again.signbit())


def test_overflow_comes_with_the_chance_of_the_fraction():
    x = torch.full((40_000,), 456.0)  # a quarter of the way from 448 to what would be 480
    rounded = round_to(x, E4M3, "stochastic", "ieee", generator())
    assert abs(rounded.isnan().double().mean() - 0.25) < 6 * np.sqrt(0.25 * 0.75 / 40_000)
    assert (rounded[~rounded.isnan()] == 448).all()
    assert (round_to(x, E4M3, "stochastic", "saturate", generator()) == 448).all()


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_rows_and_batches_have_random_numbers_of_their_own(engine, torch_engine):
    if engine == "torch":
        torch_engine()
    n = 100_000
    ups = (round_rows(torch.full((2, n), 1 + 2.0**-8), [BF16, BF16], "stochastic", generator=generator()) > 1).double()
    assert abs(torch.corrcoef(ups)[0, 1]) < 6 / n**0.5
    assert abs(torch.corrcoef(torch.stack([ups[0, :-4096], ups[0, 4096:]]))[0, 1]) < 6 / n**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fmt", [BF16, E4M3, FP16, E8M0, FORMATS["E4M3FNUZ"], FloatFormat("E5M0", 5, 0)], ids=lambda fmt: fmt.name)
def test_same_seed_same_result_on_either_engine(fmt, dtype, torch_engine):
    x = as_float32(dense_sample(FP16)).to(dtype)
    first, second = (round_to(x, fmt, "stochastic", generator=generator()) for _ in range(2))
    other = round_to(x, fmt, "stochastic", generator=generator(8))
    rows = round_rows(x.repeat(3, 1), [BF16, fmt, FP16], "stochastic", generator=generator()) if fmt is not E8M0 else None
    torch_engine()
    third = round_to(x, fmt, "stochastic", generator=generator())
    assert torch.equal(first.nan_to_num(7), second.nan_to_num(7)) and torch.equal(first.nan_to_num(7), third.nan_to_num(7))
    assert torch.equal(first.signbit()[~first.isnan()], third.signbit()[~first.isnan()])
    assert not torch.equal(first.nan_to_num(7), other.nan_to_num(7))
    if rows is not None:
        again = round_rows(x.repeat(3, 1), [BF16, fmt, FP16], "stochastic", generator=generator())
        assert torch.equal(rows.nan_to_num(7), again.nan_to_num(7))
        assert not torch.equal(rows[0].nan_to_num(7), round_to(x, BF16, "stochastic", generator=generator(99)).nan_to_num(7))


def test_the_random_words_are_philox_and_look_random():
    # Known answer of Philox4x32-7 for counter 0 and key 0 (Random123 1.14, kat_vectors).
    words = np.empty(4096, np.uint32)
    kernels.random_words(words, 0, 0, np.uint32(0), np.uint32(0))
    assert [f"{words[i * 1024]:08x}" for i in range(4)] == ["5f6fb709", "0d893f64", "4f121f81", "4f730a48"]
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32)
    assert within(bits.mean(0), np.full(32, 0.5), len(bits))
    neighbours = np.corrcoef(words[:-1].astype(float), words[1:].astype(float))[0, 1]
    assert abs(neighbours) < 6 / np.sqrt(len(words))
