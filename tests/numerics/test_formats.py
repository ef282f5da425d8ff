"""The scalars: every code of every small format, and exact encoding, against ml_dtypes, torch, gfloat and IEEE 754."""

import itertools
import math
import pickle
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course.numerics import BF16, E2M1, E4M3, E8M0, FORMATS, FP16, FP32, FP64, TF32, FloatFormat, parse_number

ML_DTYPES = {
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "E5M2": ml_dtypes.float8_e5m2,
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E2M1": ml_dtypes.float4_e2m1fn,
    "E8M0": ml_dtypes.float8_e8m0fnu,
}
GFLOAT = {
    "FP32": gfloat.formats.format_info_binary32,
    "FP64": gfloat.formats.format_info_binary64,
    "FP16": gfloat.formats.format_info_binary16,
    "BF16": gfloat.formats.format_info_bfloat16,
    "E5M2": gfloat.formats.format_info_ocp_e5m2,
    "E4M3": gfloat.formats.format_info_ocp_e4m3,
    "E3M2": gfloat.formats.format_info_ocp_e3m2,
    "E2M3": gfloat.formats.format_info_ocp_e2m3,
    "E2M1": gfloat.formats.format_info_ocp_e2m1,
    "E8M0": gfloat.formats.format_info_ocp_e8m0,
}
TORCH = {"FP64": torch.float64, "FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16,
         "E5M2": torch.float8_e5m2, "E4M3": torch.float8_e4m3fn, "E5M2FNUZ": torch.float8_e5m2fnuz,
         "E4M3FNUZ": torch.float8_e4m3fnuz}  # fmt: skip
SMALL = [fmt for fmt in FORMATS.values() if fmt.bits <= 8]


def same(a, b):
    return (a != a and b != b) or (a == b and math.copysign(1, a) == math.copysign(1, b))


@pytest.mark.parametrize("name", TORCH)
def test_limits_equal_torch_finfo(name):
    fmt, info = FORMATS[name], torch.finfo(TORCH[name])
    assert (fmt.bits, fmt.max, fmt.min_normal) == (info.bits, info.max, info.smallest_normal)
    # torch 2.13 gives E5M2FNUZ an eps of 1/8, yet the code after 1.0 is 1.25 (as ml_dtypes says).
    assert fmt.eps == (0.25 if name == "E5M2FNUZ" else info.eps)


@pytest.mark.parametrize("name", [name for name in ML_DTYPES if name not in ("FP16", "E8M0")])
def test_limits_equal_ml_dtypes_finfo(name):
    fmt, info = FORMATS[name], ml_dtypes.finfo(ML_DTYPES[name])
    assert fmt.max == float(info.max) and fmt.min_normal == float(info.smallest_normal)
    assert fmt.min_subnormal == float(info.smallest_subnormal) and fmt.eps == float(info.eps)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_code_decodes_as_in_ml_dtypes(name):
    fmt = FORMATS[name]
    codes = np.arange(1 << fmt.bits, dtype=np.uint16 if fmt.bits == 16 else np.uint8)
    with np.errstate(invalid="ignore"):
        theirs = codes.view(ML_DTYPES[name]).astype(np.float64)
    ours = np.array([fmt.decode(int(code)) for code in codes])
    assert np.array_equal(ours, theirs, equal_nan=True)
    known = ~np.isnan(ours)
    assert np.array_equal(np.signbit(ours[known]), np.signbit(theirs[known]))


@pytest.mark.parametrize("name", [name for name in GFLOAT if FORMATS[name].bits <= 8])
def test_every_code_decodes_as_in_gfloat(name):
    for code in range(1 << FORMATS[name].bits):
        assert same(FORMATS[name].decode(code), gfloat.decode_float(GFLOAT[name], code).fval)


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS.values() if fmt.bits <= 19], ids=lambda fmt: fmt.name)
def test_every_value_encodes_to_its_own_code(fmt):
    for code in range(1 << fmt.bits):
        value = fmt.decode(code)
        if value == value:
            for rounding, overflow in itertools.product(("nearest-even", "toward-zero"), ("ieee", "saturate")):
                back = fmt.encode(value, rounding, overflow)
                assert back == code or (math.isinf(value) and overflow == "saturate" and fmt.decode(back) == math.copysign(fmt.max, value))
            if fmt.bits > 16:  # one mode is enough where the codes are many
                break


@pytest.mark.parametrize("fmt", SMALL, ids=lambda fmt: fmt.name)
def test_encoding_picks_the_nearest_value_and_the_even_code_in_a_tie(fmt):
    finite = sorted({Fraction(fmt.decode(c)) for c in range(1 << fmt.bits) if math.isfinite(fmt.decode(c))})
    for low, high in itertools.pairwise(finite):
        for part in (Fraction(1, 7), Fraction(1, 2) - Fraction(1, 10**9), Fraction(1, 2), Fraction(1, 2) + Fraction(1, 10**9)):
            x = low + part * (high - low)
            got = Fraction(fmt.decode(fmt.encode(x)))
            if part != Fraction(1, 2):
                assert got == (low if part < Fraction(1, 2) else high)
            else:
                assert got in (low, high) and fmt.encode(x) % 2 == 0
            smaller, larger = sorted((low, high), key=abs)
            assert Fraction(fmt.decode(fmt.encode(x, "toward-zero"))) == smaller
            toward = abs((x - smaller) / (larger - smaller))
            below, at = fmt.encode(x, "stochastic", draw=toward - Fraction(1, 10**12)), fmt.encode(x, "stochastic", draw=toward)
            assert (Fraction(fmt.decode(below)), Fraction(fmt.decode(at))) == (larger, smaller)


def test_overflow_follows_each_standard():
    cases = {  # format: (largest that stays finite, first that overflows, what the overflow is)
        "FP16": (65519.99, 65520, math.inf), "BF16": (3.3961e38, 3.3962e38, math.inf), "E5M2": (61439, 61440, math.inf),
        "E4M3": (464, 464.001, math.nan), "E4M3FNUZ": (247.9, 248, math.nan), "E5M2FNUZ": (61439, 61440, math.nan),
        "E3M2": (30, 1e9, 28.0), "E2M3": (7.75, 1e9, 7.5), "E2M1": (7, 1e9, 6.0), "E8M0": (1.5 * 2.0**127, 1.6 * 2.0**127, math.nan),
    }  # fmt: skip
    for name, (stays, leaves, result) in cases.items():
        fmt = FORMATS[name]
        assert fmt.decode(fmt.encode(stays)) == fmt.max
        assert same(fmt.decode(fmt.encode(leaves)), result)
        for x in (leaves, math.inf):
            assert fmt.decode(fmt.encode(x, overflow="saturate")) == fmt.max
        assert fmt.decode(fmt.encode(leaves, "toward-zero")) == fmt.max
        assert same(fmt.decode(fmt.encode(math.inf, "toward-zero")), fmt.decode(fmt.encode(math.inf)))


def test_fp64_sources_are_rounded_once():
    x = 1.0625 + 2.0**-40  # through float32 this becomes the tie 1.0625, and then 1.0
    assert E4M3.decode(E4M3.encode(x)) == 1.125
    assert float(np.float64(x).astype(ml_dtypes.float8_e4m3fn)) == 1.0
    assert torch.tensor(x, dtype=torch.float64).to(torch.float8_e4m3fn).item() == 1.0


@given(st.floats(), st.sampled_from(sorted(set(GFLOAT) - {"E8M0"})), st.booleans(), st.sampled_from(["nearest-even", "toward-zero"]))
def test_encoding_agrees_with_gfloat(x, name, saturate, rounding):
    fmt, mode = FORMATS[name], {"nearest-even": gfloat.RoundMode.TiesToEven, "toward-zero": gfloat.RoundMode.TowardZero}[rounding]
    if math.isnan(x) and fmt.nan_code is None:
        with pytest.raises(ValueError, match="has no NaN"):
            fmt.encode(x)
        return
    ours = fmt.decode(fmt.encode(x, rounding, "saturate" if saturate else "ieee"))
    assert same(ours, gfloat.round_float(GFLOAT[name], x, mode, sat=saturate or fmt.specials == "finite"))


@given(st.fractions(), st.sampled_from(sorted(FORMATS)))
def test_neighbours_bracket_the_number(x, name):
    fmt = FORMATS[name]
    below, above = fmt.neighbours(x)
    rounded = fmt.decode(fmt.encode(x, "toward-zero"))
    if fmt is E8M0 and x <= 0:
        assert below is None and above == 2.0**-127
        return
    assert below is None or below < x
    assert above is None or above > x
    assert x == rounded or rounded in (below, above)


@pytest.mark.parametrize("fmt", [FP16, *SMALL], ids=lambda fmt: fmt.name)
def test_neighbours_and_ulp_at_every_code(fmt):
    values = sorted({fmt.decode(c) for c in range(1 << fmt.bits) if not math.isnan(fmt.decode(c))})
    for before, value, after in zip([None, *values], values, [*values[1:], None]):
        assert fmt.neighbours(value) == (before, after)
        if value > 0 and after is not None and math.isfinite(after):
            assert fmt.ulp(value) == after - value == fmt.ulp(-value)


def test_ulp_equals_math_ulp_for_doubles():
    for x in (0.0, 1.0, 0.1, 1e300, 5e-324, 2.0**-1022, math.inf):
        assert FP64.ulp(x) == math.ulp(x)
    assert math.isnan(FP64.ulp(math.nan))


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_fp64_and_fp32_encode_to_the_bits_of_the_machine(x, y):
    assert FP64.encode(x) == np.float64(x).view(np.uint64)
    with np.errstate(over="ignore"):
        assert FP32.encode(y) == np.float32(y).view(np.uint32)


def test_numbers_of_many_kinds_are_read_exactly():
    tenth = Fraction(1, 10)
    for x in ("0.1", "1e-1", "1/10", Decimal("0.1"), tenth):
        assert FP64.decode(FP64.encode(x)) == 0.1
    assert FP16.encode(np.float16(1.5)) == FP16.encode(torch.tensor(1.5)) == FP16.encode(1.5) == FP16.encode("0x1.8p0")
    assert FP16.encode(-0.0) == FP16.encode("-0") == FP16.encode(Decimal("-0")) == 0x8000
    assert FORMATS["E4M3FNUZ"].encode(-0.0) == FORMATS["E4M3FNUZ"].encode(-1e-9) == 0


@pytest.mark.parametrize("text", ["", "one", "1/0", "0x", "0xg", "--1", "1e999999", "2^99999999", "9" * 3000, "1,5", "nan1"])
def test_nonsense_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="not a number I can read: try"):
        parse_number(text)


def test_formats_survive_a_journey_to_another_process():
    code = "import pickle, sys; from course.numerics import FP16; sys.exit(pickle.loads(sys.stdin.buffer.read()) not in {FP16})"
    assert subprocess.run([sys.executable, "-c", code], input=pickle.dumps(FP16), timeout=60).returncode == 0


def test_notations_of_powers_and_signs():
    for text, value in (("2^-14", 2.0**-14), ("2⁻¹⁴", 2.0**-14), ("2**(-14)", 2.0**-14), ("−2^3", -8), ("+1 / 4", 0.25), ("-0x1p-1", -0.5)):
        assert parse_number(text) == value
    for text in ("2^(-14", "2^-14)", "1 2 3"):
        with pytest.raises(ValueError, match="not a number I can read"):
            parse_number(text)


def test_what_overflows_keeps_its_sign_and_nan_is_quiet():
    assert E4M3.encode(-1000) == 0xFF and E4M3.encode(1000) == 0x7F and FP16.encode(-math.inf) == 0xFC00
    assert [FORMATS[name].nan_code for name in ("FP16", "BF16", "E5M2", "E4M3", "E4M3FNUZ", "E8M0")] == [0x7E00, 0x7FC0, 0x7E, 0x7F, 0x80, 0xFF]
    assert FP64.ulp("1e400") == math.inf and FP16.ulp(1e6) == 512 and FP16.decode(np.uint16(0xC000)) == -2.0


def test_impossible_formats_and_codes_are_refused():
    with pytest.raises(ValueError, match="needs draw"):
        FP16.encode(0.1, "stochastic", draw=1)
    for bias in (1100, -1030):
        with pytest.raises(ValueError, match="outside the range"):
            FloatFormat("far", 5, 2, bias=bias)
    for wrong in (dict(exponent_bits=1), dict(exponent_bits=12), dict(mantissa_bits=-1), dict(mantissa_bits=53), dict(specials="posit"),
                  dict(bias=1.5), dict(bias=5000), dict(signed=False), dict(specials="exponent-only", signed=False)):  # fmt: skip
        with pytest.raises(ValueError):
            FloatFormat(**{"name": "X", "exponent_bits": 5, "mantissa_bits": 2, **wrong})
    with pytest.raises(ValueError, match="outside FP16"):
        FP16.decode(1 << 16)
    with pytest.raises(ValueError, match="has no NaN"):
        E2M1.encode(math.nan)
    with pytest.raises(ValueError, match="needs draw"):
        FP16.encode(0.1, "stochastic")
    with pytest.raises(ValueError, match="choose one of nearest-even"):
        FP16.encode(0.1, "up")
    with pytest.raises(TypeError, match="not one real number"):
        FP16.encode([1, 2])


def test_known_values():
    assert (FP16.encode(1 / 3), BF16.encode("0.1"), TF32.bits) == (0x3555, 0x3DCD, 19)
    assert [E2M1.decode(code) for code in range(8)] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert (E8M0.decode(0), E8M0.decode(127), E8M0.encode(0), E8M0.encode(-1)) == (2.0**-127, 1.0, 0, 255)
