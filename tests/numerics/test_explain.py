"""Taking numbers apart: every code of FP16 and E4M3, and the ways to write a value."""

from fractions import Fraction

import pytest

from course.numerics import BF16, E4M3, E8M0, FP16, FP64, exact_decimal, explain


@pytest.mark.parametrize("fmt", [FP16, E4M3, E8M0], ids=lambda fmt: fmt.name)
def test_every_code_is_put_together_again(fmt):
    for code in range(1 << fmt.bits):
        number = explain(code=code, fmt=fmt)
        assert int("".join(number.fields), 2) == code and int(number.hex_code, 16) == code
        if number.kind in ("inf", "nan"):
            assert number.exponent is None and number.decimal == number.formula.lstrip("+")
            continue
        sign = -1 if number.sign else 1
        assert sign * number.significand * Fraction(2) ** number.exponent == Fraction(number.value)
        assert Fraction(number.decimal) == Fraction(number.value) == Fraction(float.fromhex(number.hex_value))
        assert (number.significand >= 1) == (number.kind == "normal")


def test_the_ways_to_write_a_value():
    third = explain("1/3", BF16)
    assert third.error == Fraction(third.value) - Fraction(1, 3) and "error" in str(third)
    assert explain(-2.75, FP16).decimal == "-2.75" and explain(-2.75, FP16).hex_value == "-0x1.6p1"
    assert explain("-inf", FP16).decimal == "-Inf" and explain("nan", FP16).formula == "NaN"
    assert explain(1.0, FP16).hex_value == "0x1p0" and explain("0x3C00", FP16).value == 1.0
    assert explain("0x1p-24", FP16).kind == "subnormal" and explain("0b0111110000000000", FP16).kind == "inf"
    assert float(exact_decimal(Fraction(FP64.min_subnormal))) == 5e-324 and exact_decimal(Fraction(-3, 8)) == "-0.375"
    assert exact_decimal(Fraction(2) ** -70).startswith("8.470329472543003") and exact_decimal(Fraction(2) ** -70).endswith("e-22")


def test_rounding_options_are_passed_on():
    x = 1 + 2.0**-9
    assert explain(x, BF16, rounding="stochastic", draw=0.2).value > 1 == explain(x, BF16, rounding="stochastic", draw=0.3).value
    assert explain(1e6, E4M3, overflow="saturate").value == 448 and explain(1e6, E4M3).kind == "nan"


def test_bad_requests_say_what_to_give():
    with pytest.raises(ValueError, match="either a number or code="):
        explain(fmt=FP16)
    with pytest.raises(ValueError, match="0x and hexadecimal digits"):
        explain("0xZZ", FP16)
    with pytest.raises(ValueError, match="outside E4M3"):
        explain("0x100", E4M3)
    with pytest.raises(ValueError, match="no finite decimal form"):
        exact_decimal(Fraction(1, 3))
