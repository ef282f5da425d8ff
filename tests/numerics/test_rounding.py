"""Rounding tensors: both engines against the table oracle and the libraries, in every mode."""

import math
import subprocess
import sys

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course.numerics import BF16, E4M3, E8M0, FORMATS, FP16, FP32, FP64, FloatFormat, round_rows, round_to, rounding
from tests.numerics.oracle import dense_sample, expected_bits, got_bits
from tests.numerics.test_formats import GFLOAT, ML_DTYPES

OTHERS = [
    FloatFormat("E3M4", 3, 4), FloatFormat("E6M12", 6, 12), FloatFormat("E8M1", 8, 1), FloatFormat("E5M0", 5, 0),
    FloatFormat("E6M3FN", 6, 3, specials="fn"), FloatFormat("E2M10", 2, 10), FloatFormat("E4M0", 4, 0, bias=6, specials="finite"),
    FloatFormat("E5M21", 5, 21), FloatFormat("E5M3 of large numbers", 5, 3, bias=-90), FloatFormat("E5M3 of small numbers", 5, 3, bias=120),
]  # fmt: skip
IN_FLOAT32 = [fmt for fmt in FORMATS.values() if fmt not in (FP64, FP32)] + OTHERS
MODES = [(r, o) for r in ("nearest-even", "toward-zero") for o in ("ieee", "saturate")]


@pytest.fixture(params=["numba", "torch"])
def engine(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(rounding, "kernels", None)
    return request.param


def as_float32(patterns):
    return torch.from_numpy(patterns.view(np.float32))


def agrees(fmt, patterns, mode, overflow):
    got, want = got_bits(round_to(as_float32(patterns), fmt, mode, overflow)), expected_bits(fmt, mode, overflow, patterns)
    wrong = np.flatnonzero(got != want)
    assert not len(wrong), f"{fmt.name}: {patterns[wrong[0]]:#010x} gives {got[wrong[0]]:#x}, not {want[wrong[0]]:#x} ({len(wrong)} wrong)"


@pytest.mark.parametrize(("mode", "overflow"), MODES)
@pytest.mark.parametrize("fmt", IN_FLOAT32, ids=lambda fmt: fmt.name)
def test_float32_agrees_with_the_oracle_around_every_break_point(fmt, mode, overflow, engine):
    agrees(fmt, dense_sample(fmt), mode, overflow)


@pytest.mark.parametrize(("mode", "overflow"), MODES)
@pytest.mark.parametrize("fmt", [BF16, FORMATS["TF32"], E8M0, E4M3, FP16], ids=lambda fmt: fmt.name)
def test_flush_to_zero_changes_nothing(fmt, mode, overflow, engine):
    patterns = np.concatenate([np.arange(1, 1 << 23, 997), dense_sample(fmt)]).astype(np.uint32)
    want, x = expected_bits(fmt, mode, overflow, patterns), as_float32(patterns)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        flushes = (x[:1] * 1).item() == 0
        rounded = round_to(x, fmt, mode, overflow)
    finally:
        torch.set_flush_denormal(False)
    assert flushes and np.array_equal(got_bits(rounded), want)


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_all_65536_codes_and_the_numbers_beside_them(name, engine):
    fmt = FORMATS[name]
    with np.errstate(all="ignore"):
        values = np.arange(1 << 16, dtype=np.uint16).view(ML_DTYPES[name]).astype(np.float32)
        beside = [np.nextafter(values, np.float32(way)) for way in (-np.inf, np.inf)]
    for x in (values, *beside):
        with np.errstate(all="ignore"):
            theirs = x.astype(ML_DTYPES[name]).astype(np.float32)
        ours = round_to(torch.from_numpy(x), fmt).numpy()
        known = ~np.isnan(theirs)
        assert np.array_equal(np.isnan(ours), ~known)
        assert np.array_equal(ours[known].view(np.uint32), theirs[known].view(np.uint32))


@pytest.mark.parametrize("fmt", [fmt for fmt in IN_FLOAT32 if fmt.mantissa_bits <= 16], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("mode", "overflow"), MODES)
def test_float64_sources_are_rounded_once(fmt, mode, overflow, engine):
    rng = np.random.default_rng(3)
    middles = rng.standard_normal(300) * np.exp2(rng.integers(-150, 135, 300))
    tie = round_to(torch.from_numpy(middles), fmt, "toward-zero", "saturate").numpy()
    tie = tie + np.sign(middles) * np.array([fmt.ulp(v) / 2 for v in tie])
    x = np.concatenate([middles, tie, np.nextafter(tie, np.inf), np.nextafter(tie, -np.inf), [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324]])
    for value, rounded in zip(x.tolist(), round_to(torch.from_numpy(x), fmt, mode, overflow).tolist()):
        if math.isnan(value):
            assert math.isnan(rounded)
            continue
        exact = fmt.decode(fmt.encode(value, mode, overflow))
        assert (math.isnan(exact) and math.isnan(rounded)) or (exact, math.copysign(1, exact)) == (rounded, math.copysign(1, rounded))


def test_double_rounding_is_avoided(engine):
    assert round_to(torch.tensor([1.0625 + 2.0**-40], dtype=torch.float64), E4M3).item() == 1.125


@pytest.mark.parametrize(("mode", "overflow"), MODES)
def test_rows_equal_one_call_per_row(mode, overflow, engine):
    formats = [fmt for fmt in IN_FLOAT32 if fmt is not E8M0] + [FP32]
    patterns = dense_sample(E4M3)[::7]
    x = as_float32(np.tile(patterns, (len(formats), 1)))
    rounded = round_rows(x, formats, mode, overflow)
    for row, fmt in zip(rounded, formats):
        assert np.array_equal(got_bits(row), got_bits(round_to(x[0], fmt, mode, overflow))), fmt.name
    assert torch.equal(round_rows(x[:2, :6].double().view(2, 2, 3), [BF16, FP16]), round_rows(x[:2, :6].view(2, 2, 3), [BF16, FP16]).double())


def test_shape_dtype_views_and_gradients_are_handled(engine):
    x = torch.linspace(-3, 3, 24, requires_grad=True).view(4, 6)
    assert round_to(x.T, FP16).shape == (6, 4) and torch.equal(round_to(x.T, FP16), round_to(x, FP16).T)
    assert not round_to(x, BF16).requires_grad and round_to(x.double(), BF16).dtype == torch.float64
    assert round_to(torch.empty(0), FP16).shape == (0,) and round_to(torch.tensor(0.1), FP16).shape == ()
    before = x.detach().clone()
    round_to(x, E4M3)
    assert torch.equal(x, before)
    assert round_to(x, FP64).data_ptr() != x.data_ptr() and torch.equal(round_to(x, FP64), x)


@pytest.mark.parametrize("drop", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_formats_nearly_as_precise_as_the_carrier(drop, dtype, engine):
    fmt = FloatFormat("E5 and nearly all bits", 5, (23 if dtype == torch.float32 else 52) - drop)
    x = torch.from_numpy(np.random.default_rng(5).uniform(-8, 8, 2000)).to(dtype)
    for mode in ("nearest-even", "toward-zero"):
        assert round_to(x, fmt, mode).tolist() == [fmt.decode(fmt.encode(v, mode)) for v in x.tolist()]


def test_saturation_holds_in_the_carriers_own_format(engine):
    x = torch.tensor([math.inf, -math.inf, 1.5, math.nan])
    for rounded in (round_to(x, FP32, overflow="saturate"), round_rows(x.view(1, 4), [FP32], overflow="saturate")[0]):
        assert rounded[:3].tolist() == [FP32.max, -FP32.max, 1.5] and rounded[3].isnan()
    assert round_to(x, FP32)[:2].isinf().all() and round_to(x.double(), FP64, overflow="saturate")[0] == FP64.max
    assert round_to(x, FP64, overflow="saturate")[0].isinf(), "FP64's largest number does not fit in float32"
    assert torch.equal(round_to(torch._neg_view(torch.tensor([1.003])), BF16), -round_to(torch.tensor([1.003]), BF16))


def test_bad_requests_name_the_value_and_the_way_out():
    x = torch.ones(3)
    with pytest.raises(TypeError, match=r"not torch.bfloat16: convert it first, for example x.float\(\)"):
        round_to(x.bfloat16(), FP16)
    with pytest.raises(TypeError, match="not ndarray"):
        round_to(np.ones(3), FP16)
    with pytest.raises(ValueError, match="rounding='nearest' is unknown: choose one of nearest-even"):
        round_to(x, FP16, "nearest")
    with pytest.raises(ValueError, match="overflow='clamp' is unknown"):
        round_to(x, FP16, overflow="clamp")
    with pytest.raises(ValueError, match="needs generator="):
        round_to(x, FP16, "stochastic")
    with pytest.raises(ValueError, match="convert x to float64"):
        round_to(x, FloatFormat("E9M3", 9, 3))
    with pytest.raises(ValueError, match="one row per format"):
        round_rows(x, [FP16])
    with pytest.raises(ValueError, match="one row per format"):
        round_rows(torch.empty(0, 3), [])
    for wrong in ("FP16", torch.float16):
        with pytest.raises(TypeError, match="is not a FloatFormat: import one"):
            round_to(x, wrong)
    with pytest.raises(ValueError, match="needs generator="):
        round_to(x, FP16, "stochastic", generator=7)
    with pytest.raises(ValueError, match="E8M0, which has no zero"):
        round_rows(x.view(1, 3), [E8M0])


@given(st.integers(2, 8), st.integers(0, 23), st.sampled_from(["ieee", "fn", "fnuz", "finite"]), st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_any_format_a_learner_makes(e, m, specials, values):
    fmt = FloatFormat("mine", e, m, specials=specials)
    x = torch.tensor(values)
    kernels, rounding.kernels = rounding.kernels, None if m % 2 else rounding.kernels  # both engines take turns
    try:
        compare_with_scalars(fmt, x, values)
    finally:
        rounding.kernels = kernels


def compare_with_scalars(fmt, x, values):
    if fmt.max > FP32.max or fmt._min_exponent < -126:
        with pytest.raises(ValueError, match="cannot hold"):
            round_to(x, fmt)
        return
    for mode, overflow in MODES:
        for value, rounded in zip(values, round_to(x, fmt, mode, overflow).tolist()):
            if not math.isnan(value) and (fmt.nan_code is not None or fmt.specials == "ieee"):
                exact = fmt.decode(fmt.encode(value, mode, overflow))
                assert exact == rounded or (math.isnan(exact) and math.isnan(rounded))


@pytest.mark.parametrize("name", ["FP16", "BF16", "E5M2", "E4M3", "E3M2", "E2M3", "E2M1"])
@pytest.mark.parametrize("saturate", [False, True])
def test_gfloat_agrees(name, saturate):
    fmt, info = FORMATS[name], GFLOAT[name]
    patterns = dense_sample(fmt)[::17]
    with np.errstate(invalid="ignore"):
        x = patterns.view(np.float32).astype(np.float64)
    x = x[~np.isnan(x)]
    saturate = saturate or fmt.specials == "finite"
    with np.errstate(all="ignore"):
        theirs = gfloat.round_ndarray(info, x, sat=saturate)
    ours = round_to(torch.from_numpy(x), fmt, overflow="saturate" if saturate else "ieee").numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)


def test_where_the_libraries_differ_from_the_standards():
    """Known differences of the installed versions; a failure here means that a library changed and the course must say so."""
    over = torch.tensor([464.0, 465.0, math.inf])
    assert over.to(torch.float8_e4m3fn).float().tolist() == [448.0, 448.0, 448.0]  # torch 2.13 saturates E4M3 ...
    assert torch.tensor([61440.0]).to(torch.float8_e5m2).float().item() == math.inf  # ... but not E5M2
    theirs = over.numpy().astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert theirs[0] == 448 and np.isnan(theirs[1:]).all()  # ml_dtypes 0.6 follows OCP without saturation
    assert round_to(over, E4M3)[0] == 448 and round_to(over, E4M3)[1:].isnan().all()
    # E8M0: both round the tie 1.5 up always, and 2^-127 · 1.25 up to 2^-126; the nearest value is 2^-127.
    tie, small = torch.tensor([1.5, 3.0]), torch.tensor([2.0**-127 * 1.25])
    assert round_to(tie, E8M0).tolist() == [2.0, 2.0] and round_to(small, E8M0).item() == 2.0**-127
    assert tie.to(torch.float8_e8m0fnu).float().tolist() == [2.0, 4.0] and small.to(torch.float8_e8m0fnu).float().item() == 2.0**-126
    assert small.numpy().astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)[0] == 2.0**-126
    # Negative numbers: torch drops the sign in silence; there is no such scale.
    assert torch.tensor([-2.0]).to(torch.float8_e8m0fnu).float().item() == 2.0 and round_to(torch.tensor([-2.0]), E8M0).isnan().item()


def test_importing_numerics_is_quick_and_loads_no_torch():
    code = "import sys, course.numerics; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_without_numba_the_torch_operations_take_over():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from course.numerics import rounding, BF16\n"
        "assert rounding.kernels is None and rounding.round_to(torch.tensor([1.005]), BF16).item() == 1.0078125"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_cast_takes_a_format_or_one_per_row():
    x = torch.tensor([[1 + 2**-9, 1e6], [1 + 2**-9, 1e6]])
    for formats in ((FP16, BF16), [FP16, BF16]):
        both = rounding.cast(x, formats, "toward-zero", "saturate")
        assert torch.equal(both, torch.stack([rounding.cast(row, fmt, "toward-zero", "saturate") for row, fmt in zip(x, formats)]))
    assert both.tolist() == [[1 + 2**-9, 65504.0], [1.0, 999424.0]]
