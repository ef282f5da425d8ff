"""The first lines of every notebook, and the one way to print a number that was measured."""

from pathlib import Path

NOTEBOOKS = {
    "00": "start_here", "01": "bit_layouts", "02": "ulps_and_rounding", "03": "fp16_underflow", "04": "loss_scaling",
    "05": "bf16_swamping", "06": "master_weights", "07": "autocast", "08": "mixed_precision_training", "09": "fp8_scaling",
    "10": "range_and_precision", "11": "quantised_inference", "12": "sharded_precision", "13": "debugging_clinic",
    "14": "interview_drill", "15": "fact_check",
}  # fmt: skip
DATA = Path(__file__).parents[2] / "data"


def start(number: str) -> None:
    """Print which notebook this is and what the machine offers it: the tier that `python -m course doctor` explains.

    Raises `ValueError` for a number that no notebook has.

    >>> start("01")  # doctest: +ELLIPSIS
    Notebook 01: bit_layouts
    Tier: ...
    """
    from course.training import hardware

    if number not in NOTEBOOKS:
        raise ValueError(f"there is no notebook {number!r}: the numbers run from '00' to '15'")
    print(f"Notebook {number}: {NOTEBOOKS[number]}")
    print(hardware.tier_line(hardware.probe()))


def measured(value, digits: int = 3, unit: str = "") -> str:
    """Text for a number that was measured: the sign ≈, `digits` significant digits, and a unit if there is one.

    Stored outputs are compared cell by cell; a number after ≈ is not, so whatever a processor, a clock or a random
    draw may change is printed through this, and asserted with a margin in the same cell.

    >>> measured(0.123456), measured(1234.5, unit="tokens/s"), measured(float("nan"))
    ('≈ 0.123', '≈ 1230 tokens/s', '≈ nan')
    """
    value = float(value)
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-4 <= abs(value) < 1e15:
        text = f"{float(text):.0f}"
    return f"≈ {text} {unit}".rstrip()


def machine() -> None:
    """Print what `python -m course doctor` finds here, in words: the tier, what it means, what is native, what is free.

    Each line begins with "This machine:"; such lines are not compared with the stored output.

    >>> machine()  # doctest: +ELLIPSIS
    This machine: ...
    """
    from course.training import capabilities, hardware

    found = hardware.probe()
    device = found.device
    lines = [
        f"{device.name}, {found.cores_usable} cores, {found.cpu.memory_free / 2**30:.0f} GiB of memory free",
        hardware.tier_line(found).removeprefix("Tier: "),
        f"multiplies natively in {', '.join(name.upper() for name in device.native)}",
        capabilities.meaning(found.tier),
    ]
    print("\n".join(f"This machine: {line}" for line in lines))
