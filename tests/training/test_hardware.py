"""The probe and `python -m course doctor`: on this machine, and on machines put together from parts."""

import dataclasses
import json
import os
import platform
import subprocess
import sys

import jsonschema
import pytest
import torch

from course.training import hardware
from course.training.capabilities import FORMAT_NAMES, TIERS, emulated_dtypes, native_dtypes

GEMM = {
    "type": "object",
    "required": ["dtype", "size", "gflops", "ratio"],
    "additionalProperties": False,
    "properties": {
        "dtype": {"enum": ["fp32", "tf32", "bf16", "fp16"]},
        "size": {"type": "integer", "minimum": 128},
        "gflops": {"type": "number", "exclusiveMinimum": 0},
        "ratio": {"type": "number", "exclusiveMinimum": 0},
    },
}
DEVICE = {
    "type": "object",
    "required": ["kind", "name", "capability", "features", "memory_total", "memory_free", "native", "emulated", "gemm"],
    "additionalProperties": False,
    "properties": {
        "kind": {"enum": ["cpu", "cuda", "rocm", "mps", "xpu"]},
        "name": {"type": "string", "minLength": 1},
        "capability": {"type": ["array", "string", "null"]},
        "features": {"type": "array", "items": {"type": "string"}},
        "memory_total": {"type": ["integer", "null"], "minimum": 1},
        "memory_free": {"type": ["integer", "null"], "minimum": 0},
        "native": {"type": "array", "items": {"enum": list(FORMAT_NAMES)}, "contains": {"const": "fp32"}},
        "emulated": {"type": "array", "items": {"enum": list(FORMAT_NAMES)}},
        "gemm": {"type": "array", "items": GEMM},
    },
}
VERSIONS = ["python", "torch", "numpy", "numba", "course"]
REPORT = {
    "type": "object",
    "required": ["schema", "versions", "system", "cores_physical", "cores_usable", "load_average", "devices", "tier",
                 "tier_line", "meaning"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": 1},
        "versions": {"type": "object", "required": VERSIONS},
        "system": {"type": "string"},
        "cores_physical": {"type": ["integer", "null"]},
        "cores_usable": {"type": "integer", "minimum": 1},
        "load_average": {"type": ["number", "null"]},
        "devices": {"type": "array", "minItems": 1, "items": DEVICE},
        "tier": {"enum": list(TIERS)},
        "tier_line": {"type": "string", "pattern": r"^Tier: .*\.$"},
        "meaning": {"type": "string"},
    },
}  # fmt: skip


def machine(kind, capability=None, features=(), name="a device"):
    """A faked machine: this CPU's kind of CPU without any short format, and one accelerator (or that CPU alone)."""

    def device(kind, capability, features):
        native = native_dtypes(kind, capability, features)
        return hardware.Device(kind, name, capability, tuple(features), 2**34, 2**33, native, emulated_dtypes(native))

    cpu = device("cpu", None, features if kind == "cpu" else ("avx2",))
    accelerator = None if kind == "cpu" else device(kind, capability, features)
    return hardware.Hardware(dict.fromkeys(VERSIONS, "1"), "Linux", 2, 2, 0.1, cpu, accelerator)


def doctor(*flags, **environment):
    return subprocess.run(
        [sys.executable, "-m", "course", "doctor", *flags],
        capture_output=True, text=True, timeout=60, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (machine("cuda", (7, 5)), "Tier: GPU with native FP16; emulated: TF32, BF16, FP8."),
        (machine("cuda", (8, 0)), "Tier: GPU with native BF16; emulated: FP8."),
        (machine("cuda", (9, 0)), "Tier: GPU with native BF16 and FP8."),
        (machine("cuda", (10, 0)), "Tier: GPU with native BF16, FP8 and FP4."),
        (machine("rocm", "gfx942"), "Tier: GPU with native BF16 and FP8; emulated: TF32."),
        (machine("mps", "Apple M1"), "Tier: GPU with native FP16; emulated: TF32, BF16, FP8."),
        (machine("cpu", features=("amx_bf16",)), "Tier: CPU with native BF16; emulated: TF32, FP16, FP8."),
        (machine("cpu", features=("avx2",)), "Tier: CPU, every short format emulated."),
    ],
)
def test_tier_line_says_what_is_native(made, line):
    assert hardware.tier_line(made) == line
    other = dataclasses.replace(made, cores_usable=64, versions={}, load_average=None)
    assert hardware.tier_line(other) == line  # nothing of the single machine is in it


def test_a_t4_is_not_believed_about_bf16():
    t4 = machine("cuda", (7, 5), name="Tesla T4")
    assert "bf16" in t4.device.emulated
    assert t4.as_dict()["devices"][1]["emulated"] == t4.device.emulated
    assert "FP16 with loss scaling" in t4.as_dict()["meaning"]


def test_the_device_that_was_asked_for():
    made = machine("rocm", "gfx942")
    assert made.on("cuda").kind == "rocm" and made.on("cpu").kind == "cpu"
    with pytest.raises(ValueError, match="no mps device here .*cpu and cuda.*--device cuda"):
        made.on("mps")


def test_json_is_stable_and_measured():
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, REPORT)
    measured = {row["dtype"]: row for row in report["devices"][0]["gemm"]}
    assert {"fp32", "bf16", "fp16"} <= set(measured)
    assert measured["fp32"]["ratio"] == 1
    assert report["devices"][0]["memory_free"] <= report["devices"][0]["memory_total"]


def test_quick_measures_nothing_and_text_is_for_people():
    done = doctor("--quick")
    assert done.returncode == 0, done.stderr
    assert "Tier: " in done.stdout and "matmul" not in done.stdout
    assert f"torch {torch.__version__}" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 120


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the limit is about x86 instructions")
def test_switched_off_vector_features_change_the_verdict():
    report = json.loads(doctor("--quick", "--json", ONEDNN_MAX_CPU_ISA="AVX2").stdout)
    assert report["devices"][0]["native"] == ["fp64", "fp32"]


def test_text_shows_every_measured_row_and_the_accelerator():
    made = machine("cuda", (8, 6), name="NVIDIA GeForce RTX 3090").as_dict()
    for device in made["devices"]:
        device["gemm"] = [{"dtype": "bf16", "size": 256, "gflops": 1234.5, "ratio": 0.5}]
    report = json.loads(json.dumps({"schema": 1} | made))
    jsonschema.validate(report, REPORT)
    text = hardware.doctor_text(report)
    assert "NVIDIA GeForce RTX 3090, compute capability 8.6" in text
    assert text.count("1234.5 GFLOP/s    0.50 x FP32") == 2
    assert "emulated, 256 x 256" in text and "native, 256 x 256" in text  # on the CPU, on the GPU


def test_the_rate_of_a_slow_format_costs_no_more_than_the_others(monkeypatch):
    clock = {"now": 0.0}

    def fake_product(torch_type, name, rows, inner, columns):
        def product():
            seconds = 2 * rows**3 / (2e9 if name == "fp16" else 200e9)  # FP16 a hundred times slower
            clock["now"] += seconds
            return seconds

        return product

    monkeypatch.setattr(hardware, "timed_product", fake_product)
    rows = hardware.measure_gemm(machine("cpu").cpu, seconds=5.0)
    assert clock["now"] < 8
    rates = {row["dtype"]: row for row in rows}
    assert rates["fp32"]["gflops"] == pytest.approx(200) and rates["fp16"]["ratio"] == pytest.approx(0.01)
    assert rates["fp16"]["size"] < rates["fp32"]["size"] == 1024


def test_measuring_leaves_the_matmul_switch_as_it_was():
    before = torch.backends.cuda.matmul.fp32_precision
    assert hardware.timed_product("cpu", "tf32", 8, 8, 8)() > 0
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.gpu
def test_probe_finds_the_gpu():
    found = hardware.probe().accelerator
    assert found and found.memory_total > 0 and "fp32" in found.native
    assert {row["dtype"] for row in hardware.measure_gemm(found)} >= {"fp32", "bf16", "fp16"}
