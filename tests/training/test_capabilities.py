"""The decisions about native formats, against a table of devices that this machine does not have."""

from pathlib import Path

import pytest
import yaml

from course.training import capabilities
from course.training.capabilities import emulated_dtypes, native_dtypes, tier, usable_features

DEVICES = yaml.safe_load((Path(__file__).parents[2] / "data" / "hardware.yaml").read_text())


@pytest.mark.parametrize("row", DEVICES, ids=lambda row: row["name"])
def test_every_known_device(row):
    capability = row.get("capability")
    capability = tuple(capability) if isinstance(capability, list) else capability
    native = native_dtypes(row["kind"], capability, row.get("features", ()))
    assert list(native) == row["native"]
    assert tier(row["kind"], native) == row["tier"]
    assert row["source"]
    assert set(native) | set(emulated_dtypes(native)) == set(capabilities.FORMAT_NAMES)
    assert not set(native) & set(emulated_dtypes(native))


def test_the_table_has_the_devices_that_people_get_wrong():
    names = {row["name"] for row in DEVICES}
    assert {"T4", "V100", "A100", "L40S", "H100", "B200", "MI300X", "Apple M1"} <= names
    assert {row["kind"] for row in DEVICES} == {"cpu", "cuda", "rocm", "mps", "xpu"}
    assert {row["tier"] for row in DEVICES} == set(capabilities.TIERS)


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'tpu'.*cpu, cuda, rocm, mps, xpu"):
        native_dtypes("tpu")


@pytest.mark.parametrize("unknown", [None, "", "Apple", "Apple Paravirtual device", "AMD Radeon Pro 5300M"])
def test_an_unknown_mac_is_not_promised_bf16(unknown):
    assert native_dtypes("mps", unknown) == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        ("", ("avx2", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")),
        ("DEFAULT", ("avx2", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")),
        ("avx512_core_amx", ("avx2", "avx512_bf16", "avx512_fp16", "amx_bf16")),
        ("AVX512_CORE_FP16", ("avx2", "avx512_bf16", "avx512_fp16")),
        ("AVX512_CORE_BF16", ("avx2", "avx512_bf16")),
        ("AVX512_CORE", ("avx2",)),
        ("AVX2", ("avx2",)),
    ],
)
def test_the_environment_can_forbid_instructions(limit, left):
    flags = ("avx2", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")
    assert usable_features(flags, {"ONEDNN_MAX_CPU_ISA": limit}) == left


def test_every_tier_has_a_name_and_a_meaning():
    for name in capabilities.TIERS:
        assert capabilities.meaning(name).endswith(".")
