"""Proofs: what formats hold, where they end, and how numbers get into them."""

import math

import numpy as np
import torch

from course.numerics.formats import BF16, E4M3, E5M2, FORMATS, FP16, FP32, FloatFormat
from course.numerics.integers import integers
from course.numerics.rounding import round_to

from .evidence import about, cases, fact


def stored(x, fmt):
    """The number that a format keeps of x, rounded to nearest even; beyond its end what its own standard says."""
    return fmt.decode(fmt.encode(x))


def digits(fmt):
    """Decimal digits of a format's significand."""
    return (fmt.mantissa_bits + 1) * math.log10(2)


def binades(fmt):
    """How many doublings lie between a format's smallest and largest positive number."""
    return math.log2(fmt.max / fmt.min_subnormal)


def bf16_smallest():
    floor = BF16.min_subnormal
    return fact(floor == 1.56e-5 or BF16.min_normal == 1.56e-5, floor == 2.0**-133 and BF16.min_normal == 2.0**-126,
                smallest_BF16=floor, smallest_normal_BF16=BF16.min_normal, smallest_FP16=FP16.min_subnormal)  # fmt: skip


def bf16_floor_above_fp16():
    ratio = FP16.min_subnormal / BF16.min_subnormal
    return fact(BF16.min_subnormal > FP16.min_subnormal, ratio == 2.0**109, FP16_over_BF16=ratio)


def bf16_smallest_of_fp32():
    return fact(stored(1.4e-45, BF16) > 0, FP32.min_subnormal == 2.0**-149 and stored(1.4e-45, BF16) == 0,
                smallest_FP32=FP32.min_subnormal, smallest_BF16=BF16.min_subnormal, BF16_of_it=stored(1.4e-45, BF16))  # fmt: skip


def bf16_loses_1e10():
    kept = stored(1e-10, BF16)
    fp16_limit, bf16_limit = math.sqrt(2.0**-25), math.sqrt(2.0**-134)
    below = stored((0.99 * bf16_limit) ** 2, BF16) == 0 < stored((1.01 * bf16_limit) ** 2, BF16)
    return fact(kept == 0, kept > 0 and below and stored(1e-10, FP16) == 0,
                **{"BF16 of 1e-10": kept, "FP16 of 1e-10": stored(1e-10, FP16), "g whose square is lost in FP16": fp16_limit, "in BF16": bf16_limit})  # fmt: skip


def fp32_range():
    at = (FP32.min_normal, FP32.max)
    return fact(at == (2.0**-126, (2 - 2.0**-23) * 2.0**127) and abs(digits(FP32) - 7.22) < 0.01,
                smallest_normal=at[0], largest=at[1], smallest_of_all=FP32.min_subnormal, digits=round(digits(FP32), 2))  # fmt: skip


def bf16_range_is_fp32s():
    ratio = BF16.max / FP32.max
    return fact(BF16.min_normal == FP32.min_normal and 0.99 < ratio < 1, largest_BF16_over_FP32=ratio, smallest_normal_of_both=BF16.min_normal)


def fp16_range():
    return cases({"with subnormals": FP16.min_subnormal == 2.0**-24, "normals only": FP16.min_normal == 2.0**-24},
                 FP16.min_normal == 2.0**-14 and FP16.max == 65504, smallest=FP16.min_subnormal, smallest_normal=FP16.min_normal)  # fmt: skip


def fp16_smallest_normal():
    return fact(FP16.min_normal == 2.0**-24, FP16.min_normal == 2.0**-14 and FP16.min_normal / FP16.min_subnormal == 1024,
                smallest_normal=FP16.min_normal, smallest_subnormal=FP16.min_subnormal)  # fmt: skip


def one_formula():
    formats = {name: FORMATS[name] for name in ("FP32", "FP16", "BF16", "E5M2", "E4M3")}
    largest = {name: (2 - 2.0**-f.mantissa_bits) * 2.0 ** (2 ** (f.exponent_bits - 1) - 1) for name, f in formats.items()}
    return cases({name: value == formats[name].max for name, value in largest.items()},
                 largest["E4M3"] == 240 and E4M3.max == 448, formula_for_E4M3=largest["E4M3"], largest_E4M3=E4M3.max)  # fmt: skip


def seven_bits_are_0004():
    unit = BF16.eps / 2
    return fact(math.isclose(2.0**-7, 0.004, rel_tol=0.05), BF16.eps == 2.0**-7 == 0.0078125 and unit == 0.00390625, spacing=BF16.eps, largest_rounding_error=unit)


def layouts():
    found = {name: (1, FORMATS[name].exponent_bits, FORMATS[name].mantissa_bits) for name in ("FP32", "FP16", "BF16", "E4M3", "E5M2")}
    told = {"FP32": (1, 8, 23), "FP16": (1, 5, 10), "BF16": (1, 8, 7), "E4M3": (1, 4, 3), "E5M2": (1, 5, 2)}
    torchs = {"FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16, "E4M3": torch.float8_e4m3fn, "E5M2": torch.float8_e5m2}
    oracle = all(torch.finfo(kind).eps == 2.0 ** -told[name][2] and torch.finfo(kind).bits == sum(told[name]) for name, kind in torchs.items())
    return fact(found == told and oracle, **{name: "-".join(map(str, bits)) for name, bits in found.items()})


def fp16_row():
    return fact(FP16.max == 65504 and FP16.min_normal == 2.0**-14 and abs(digits(FP16) - 3.31) < 0.01,
                largest=FP16.max, smallest_normal=FP16.min_normal, digits=round(digits(FP16), 2))  # fmt: skip


def bf16_row():
    return cases({"largest 3.4e38": math.isfinite(stored(3.4e38, BF16)), "smallest normal 1.2e-38": abs(BF16.min_normal / 1.2e-38 - 1) < 0.03,
                  "about two digits": 2 < digits(BF16) < 2.5}, stored(3.39e38, BF16) == BF16.max and stored(3.4e38, BF16) == math.inf,
                 **{"BF16 of 3.4e38": stored(3.4e38, BF16)}, largest=BF16.max, digits=round(digits(BF16), 2))  # fmt: skip


def e4m3_limits():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return fact(E4M3.max == 448 == codes[~codes.isnan()].max() and E4M3.min_normal == 2.0**-6, codes.isnan().sum() == 2 and not codes.isinf().any(),
                largest=E4M3.max, smallest_normal=E4M3.min_normal, smallest=E4M3.min_subnormal, codes_for_NaN=int(codes.isnan().sum()), codes_for_Inf=int(codes.isinf().sum()))  # fmt: skip


def e5m2_limits():
    return fact(E5M2.max == 57344 and E5M2.min_normal == 2.0**-14, stored(61439, E5M2) == 57344 and stored(61440, E5M2) == math.inf,
                largest=E5M2.max, smallest_normal=E5M2.min_normal, smallest=E5M2.min_subnormal, first_that_becomes_Inf=next(n for n in range(57344, 65536) if stored(n, E5M2) == math.inf))  # fmt: skip


def bf16_is_truncation():
    x = torch.from_numpy(np.random.default_rng(0).uniform(1, 2, 200_000).astype(np.float32))
    chopped, torchs = (x.view(torch.int32) & -65536).view(torch.float32), x.to(torch.bfloat16).float()
    bias = [((y - x) / x).double().mean().item() for y in (chopped, torchs)]
    nan = torch.tensor([0x7F800001], dtype=torch.int32)
    broken = torch.isinf((nan & -65536).view(torch.float32)).item() and torch.isnan(nan.view(torch.float32)).item()
    same = (chopped == torchs).double().mean().item()
    return cases({"a valid BF16 number": (chopped == chopped.to(torch.bfloat16).float()).all(), "what a conversion does": same > 0.99},
                 0.45 < same < 0.55 and bias[0] < -2e-3 and abs(bias[1]) < 2e-5 and broken,
                 same_as_conversion=about(same), bias_of_truncation=about(bias[0]), bias_of_rounding=about(bias[1]))  # fmt: skip


def bf16_conversion_free():
    codes = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    back = codes.float().to(torch.bfloat16)
    exact = ((codes == back) | (codes.isnan() & back.isnan())).all().item()
    x = torch.tensor([1.0 + 2.0**-8 + 2.0**-20])
    return cases({"BF16 to FP32 (a shift)": exact, "FP32 to BF16 (rounds)": (x.to(torch.bfloat16).float() == x).item()},
                 ((codes.float().view(torch.int32) & 0xFFFF) == 0).all().item(), codes_that_survive_the_round_trip=int(((codes == back) | codes.isnan()).sum()))  # fmt: skip


def fp16_conversion_special():
    codes = np.arange(65536, dtype=np.uint16).view(np.float16)
    exact = np.array_equal(codes.astype(np.float32).astype(np.float16).view(np.uint16)[~np.isnan(codes)], codes.view(np.uint16)[~np.isnan(codes)])
    lossy = (stored(65520, FP16) == math.inf, stored(2.0**-25, FP16) == 0)
    return cases({"FP16 to FP32": not exact, "FP32 to FP16, in the middle": stored(1.5, FP16) != 1.5, "FP32 to FP16, at the ends": all(lossy)},
                 stored(65519, FP16) == 65504, FP16_of_65519=stored(65519, FP16), FP16_of_65520=stored(65520, FP16), **{"FP16 of 2^-25": stored(2.0**-25, FP16)})  # fmt: skip


def fp16_flushes_subnormals():
    numbers = [FP16.decode(code) for code in range(1, 1 + 2**10)]
    below = sum(0 < value < FP16.min_normal for value in numbers)
    kept = {x: stored(x, FP16) for x in (1e-5, 1e-6, 1e-7)}
    return fact(all(value == 0 for value in kept.values()), below == 1023 and all(kept.values()) and stored(2.0**-25, FP16) == 0 < stored(3e-8, FP16),
                positive_numbers_below_the_smallest_normal=below, **{f"FP16 of {x:g}": value for x, value in kept.items()})  # fmt: skip


def integers_have_fields():
    rows = {bits: integers(torch.linspace(-1, 1, 4001), bits=bits).dequantise().unique() for bits in (8, 4)}
    steps = {bits: values.diff() for bits, values in rows.items()}
    even = all((step.max() / step.min() - 1).abs() < 1e-3 for step in steps.values())
    spacing = {FORMATS["E4M3"].ulp(1.0), FORMATS["E4M3"].ulp(4.0)}
    return fact(not even, even and len(spacing) == 2, INT8_levels=len(rows[8]), INT4_levels=len(rows[4]), largest_over_smallest_INT8="127", INT4="7",
                E4M3_gap_at_1_and_at_4="0.125 and 0.5")  # fmt: skip


def bf16_decimals():
    return cases({"257, which has no decimals, is kept": stored(257, BF16) == 257, "1e-8 is lost": stored(1e-8, BF16) == 0 or abs(stored(1e-8, BF16) / 1e-8 - 1) > 2**-8,
                  "1.2345 is not kept to four decimals": abs(stored(1.2345, BF16) - 1.2345) > 5e-5},
                 stored(257, BF16) == 256 and abs(stored(1e-30, BF16) / 1e-30 - 1) < 2**-8, BF16_of_257=stored(257, BF16), **{"BF16 of 1e-8": stored(1e-8, BF16), "BF16 of 1.2345": stored(1.2345, BF16)})  # fmt: skip


def small_becomes_zero():
    return cases({"up to half of the smallest": stored(2.0**-25, FP16) == 0, "between half of it and it": stored(3e-8, FP16) == 0},
                 stored(3e-8, FP16) == 2.0**-24, **{f"FP16 of {x:g}": stored(x, FP16) for x in (3e-8, 2.9e-8)})  # fmt: skip


def beyond_is_infinite():
    return cases({"FP16 at 65519": stored(65519, FP16) == math.inf, "FP16 at 65520": stored(65520, FP16) == math.inf, "E4M3 at 1000": stored(1000, E4M3) == math.inf},
                 stored(65519, FP16) == 65504 and math.isnan(stored(1000, E4M3)), FP16_of_65519=stored(65519, FP16), E4M3_of_1000=str(stored(1000, E4M3)))  # fmt: skip


def _worst(low, high, approximation):
    x = torch.linspace(low, high, 20_001, dtype=torch.float64)
    return ((approximation(x) - x) / x).abs().max().item()


def bf16_against_integers():
    grid = {bits: lambda x, top=2 ** (bits - 1) - 1: torch.round(x * top) / top for bits in (8, 4)}
    bf16 = lambda x: round_to(x.float(), BF16).double()  # noqa: E731
    near = {name: _worst(0.9, 1, f) for name, f in (("INT8", grid[8]), ("INT4", grid[4]), ("BF16", bf16))}
    far = {name: _worst(0.009, 0.011, f) for name, f in (("INT8", grid[8]), ("BF16", bf16))}
    return cases({"INT8 near the largest": near["BF16"] < 0.25 * near["INT8"], "INT8 at a hundredth of it": far["BF16"] < 0.1 * far["INT8"],
                  "INT4": near["BF16"] < 0.1 * near["INT4"]}, near["INT8"] < 1.2 * 2**-8 and far["BF16"] <= 2**-8,
                 worst_error_near_the_largest={k: about(v) for k, v in near.items()}, at_a_hundredth={k: about(v) for k, v in far.items()})  # fmt: skip


def integers_need_scales():
    tiny = torch.tensor([1e-3, 2e-3])
    without, with_scale = torch.round(tiny), integers(tiny, bits=8).dequantise()
    return fact((without == 0).all() and ((with_scale - tiny).abs() < 1e-5).all() and (round_to(tiny, BF16) / tiny - 1).abs().max() < 2**-8,
                rounded_to_whole_numbers=without.tolist(), with_a_scale="kept to 1e-5", BF16="kept to 2^-8, no scale")  # fmt: skip


def bf16_reaches_1e38():
    normal, subnormal = stored(1.1755e-38, BF16), stored(1e-40, BF16)
    cpu = torch.tensor(1e-40).to(torch.bfloat16).item()
    return fact(normal == BF16.min_normal == 2.0**-126 and abs(BF16.min_normal / 1.2e-38 - 1) < 0.03, subnormal > 0 and cpu == subnormal, smallest_normal=BF16.min_normal,
                **{"BF16 of 1e-40": subnormal}, torch_on_this_CPU=cpu)  # fmt: skip


def bf16_wider():
    spans = {f.name: round(binades(f), 1) for f in (BF16, FP16, E5M2, E4M3)}
    return fact(spans["BF16"] > 6 * spans["FP16"], **{f"doublings in {name}": value for name, value in spans.items()})


def fp32_finer():
    return fact(BF16.eps / FP32.eps == 65536, spacing_BF16=BF16.eps, spacing_FP32=FP32.eps, ratio=BF16.eps / FP32.eps)


def fp32_guarantees():
    one = np.float32(1)
    return cases({"1 + 6e-8": one + np.float32(6e-8) > one, "1 + 5e-8": one + np.float32(5e-8) > one},
                 float(one + np.float32(6e-8)) == 1 + 2.0**-23, half_a_gap_of_FP32_at_1=2.0**-24)  # fmt: skip


def smaller_multipliers():
    area = {f.name: round((24 / (f.mantissa_bits + 1)) ** 2, 2) for f in (BF16, FP16)}
    finer = FloatFormat("like FP16 with BF16's range", exponent_bits=8, mantissa_bits=10)
    return fact(area["BF16"] == 9 and area["FP16"] == 4.76 and finer.bits == 19, **{f"FP32's multiplier over {name}'s": value for name, value in area.items()})
