"""The promises of chips agree with what their capabilities decide, and with each other."""

import pytest

from course.training import RunError
from course.training.capabilities import native_dtypes
from course.training.chips import load, step_speedup

EIGHT = ("fp8", "fp8-fnuz", "mxfp8")
FOUR = ("mxfp4", "nvfp4")


@pytest.mark.parametrize("chip", load().values(), ids=lambda chip: chip.name)
def test_a_chip_has_a_rate_for_each_native_format_and_no_other(chip):
    assert set(chip.peak) == set(native_dtypes(chip.kind, chip.capability)) - {"fp64"}
    assert chip.source and 0 < chip.bandwidth < 20 and 8 <= chip.memory < 1000


@pytest.mark.parametrize("chip", load().values(), ids=lambda chip: chip.name)
def test_halving_the_bits_doubles_the_dense_rate(chip):
    """A sparse number that slipped in among dense ones would break the pattern."""
    sixteen = chip.peak["fp16"]
    assert chip.peak.get("bf16", sixteen) == sixteen
    for names, factor in ((("tf32",), 0.5), (EIGHT, 2), (FOUR, 4)):
        for name in names:
            assert chip.peak.get(name, factor * sixteen) == pytest.approx(factor * sixteen, rel=0.02), name


def test_recipes_by_chip():
    chosen = {name: chip.recipe for name, chip in load().items()}
    assert chosen["V100 SXM2"] == chosen["T4"] == "fp16"
    assert {recipe for name, recipe in chosen.items() if name not in ("V100 SXM2", "T4")} == {"bf16"}


def test_amdahl():
    assert step_speedup(0, 100) == 1 and step_speedup(1, 8) == 8 and step_speedup(0.5, 2) == pytest.approx(4 / 3)
    for share, gain in ((-0.1, 2), (1.1, 2), (0.5, 0)):
        with pytest.raises(ValueError, match="a share from 0 to 1"):
            step_speedup(share, gain)


def test_a_format_that_is_not_there():
    with pytest.raises(RunError, match="T4 has no matrix units for bf16: choose one of fp32, fp16"):
        load()["T4"].gain("bf16")
