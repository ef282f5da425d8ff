"""Which number formats a device computes *natively*, decided from its capability alone (no torch, no measuring).

Native means that the matrix units multiply this format. A library will happily accept a format that the
device has no circuit for and emulate it: `torch.cuda.is_bf16_supported()` is True on a T4, which
then multiplies BF16 more slowly than FP32. So the questions below are answered from the compute capability,
the architecture's name or the CPU's feature flags, and every answer is tested with faked devices.
"""

# In order of falling width; `emulated` is whatever of these a device lacks.
FORMAT_NAMES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp8-fnuz", "mxfp8", "mxfp4", "nvfp4")

# The CPU flags that decide something, as torch.cpu.get_capabilities() names them.
CPU_FEATURES = (
    "avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "amx_int8",  # x86
    "neon", "fp16_arith", "bf16", "sve", "sve_bf16", "sme",  # Arm
)  # fmt: skip

# What each tier means for a learner, from the smallest machine up.
TIERS = {
    "cpu": "CPU, every short format emulated",
    "cpu-bf16": "CPU with native BF16",
    "gpu": "GPU, every short format emulated",
    "gpu-fp16": "GPU with native FP16",
    "gpu-bf16": "GPU with native BF16",
    "gpu-fp8": "GPU with native BF16 and FP8",
    "gpu-fp4": "GPU with native BF16, FP8 and FP4",
}

_MEANINGS = {
    "cpu": "Every effect of the course shows here, with short formats emulated in FP32. Emulation is slower than "
    "FP32, so no notebook claims a speed on this machine.",
    "cpu-bf16": "BF16 runs natively, so a BF16 run can really be faster here; FP16 and FP8 are emulated: their "
    "losses are true, their speed says nothing.",
    "gpu": "This GPU has no 16-bit matrix arithmetic. The notebooks emulate and claim no speed.",
    "gpu-fp16": "Use FP16 with loss scaling here. BF16 is only emulated on this GPU: it gives right numbers, slowly.",
    "gpu-bf16": "BF16 and FP16 run natively; FP8 and FP4 are emulated.",
    "gpu-fp8": "BF16, FP16 and FP8 run natively; block-scaled FP4 is emulated.",
    "gpu-fp4": "Every format of the course down to block-scaled FP4 runs natively.",
}


def native_dtypes(kind, capability=None, features=()) -> tuple:
    """Name the formats that this device multiplies natively, in the order of `FORMAT_NAMES`.

    `kind` is "cpu", "cuda", "rocm", "mps" or "xpu". `capability` is (major, minor) for CUDA, the architecture
    ("gfx942:…") for ROCm, the chip's name ("Apple M2") for MPS; `features` are the flags of a CPU or XPU.
    Raises `ValueError` for another kind.

    >>> native_dtypes("cuda", (7, 5))  # a T4, whatever is_bf16_supported() says
    ('fp64', 'fp32', 'fp16')
    """
    deciders = {"cpu": _cpu, "cuda": _cuda, "rocm": _rocm, "mps": _mps, "xpu": _xpu}
    if kind not in deciders:
        raise ValueError(f"unknown device kind {kind!r}: use one of {', '.join(deciders)}")
    native = deciders[kind](capability, frozenset(features))
    return tuple(name for name in FORMAT_NAMES if name in native)


def _cpu(capability, features):
    native = {"fp64", "fp32"}
    if features & {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}:
        native.add("bf16")
    if features & {"avx512_fp16", "amx_fp16", "fp16_arith"}:
        native.add("fp16")
    return native


def _cuda(capability, features):
    # Input types of the tensor cores by compute capability: 7.0 FP16; 8.0 BF16, TF32; 8.9 FP8; 10.0 MX, NVFP4.
    native = {"fp64", "fp32"}
    if capability >= (7, 0) or capability in {(5, 3), (6, 0), (6, 2)}:  # these three: FP16 at twice the FP32 rate
        native.add("fp16")
    if capability >= (8, 0):
        native |= {"bf16", "tf32"}
    if capability >= (8, 9):
        native.add("fp8")
    if capability >= (10, 0):
        native |= {"mxfp8", "mxfp4", "nvfp4"}
    return native


def _rocm(capability, features):
    # TF32 is left out: MI300 has it, but the library keeps it behind a switch of its own.
    arch = (capability or "").split(":")[0]
    native = {"fp64", "fp32", "fp16"}
    if arch in {"gfx908", "gfx90a", "gfx942", "gfx950"} or arch.startswith(("gfx11", "gfx12")):
        native.add("bf16")
    if arch == "gfx942":
        native.add("fp8-fnuz")  # another bias, and one NaN instead of -0
    if arch == "gfx950" or arch.startswith("gfx12"):
        native.add("fp8")
    if arch == "gfx950":
        native |= {"mxfp8", "mxfp4"}
    return native


def _mps(capability, features):
    # No FP64 on this device; BF16 came with the M3, before it Metal computes BF16 in FP32.
    words = (capability or "").replace("Apple", "").split()
    generation = words[0][1:] if words and words[0].startswith("M") else ""
    newer = generation.isdigit() and int(generation) >= 3
    return {"fp32", "fp16"} | ({"bf16"} if newer else set())


def _xpu(capability, features):
    native = {"fp32"}
    native |= {"fp64"} if "has_fp64" in features else set()
    native |= {"fp16"} if "has_fp16" in features else set()
    if "has_subgroup_matrix_multiply_accumulate" in features:  # the XMX matrix units
        native |= {"fp16", "bf16"}
    if "has_subgroup_matrix_multiply_accumulate_tensor_float32" in features:
        native.add("tf32")
    return native


def emulated_dtypes(native) -> tuple:
    """Name the formats of the course that are missing in `native`.

    >>> emulated_dtypes(("fp32", "bf16"))
    ('fp64', 'tf32', 'fp16', 'fp8', 'fp8-fnuz', 'mxfp8', 'mxfp4', 'nvfp4')
    """
    return tuple(name for name in FORMAT_NAMES if name not in native)


def tier(kind, native) -> str:
    """Choose the tier (a key of `TIERS`) of a device of this kind with these native formats.

    >>> tier("cuda", native_dtypes("cuda", (8, 0)))
    'gpu-bf16'
    """
    if kind == "cpu":
        return "cpu-bf16" if "bf16" in native else "cpu"
    if {"nvfp4", "mxfp4"} & set(native):
        return "gpu-fp4"
    if {"fp8", "fp8-fnuz"} & set(native):
        return "gpu-fp8"
    return "gpu-bf16" if "bf16" in native else "gpu-fp16" if "fp16" in native else "gpu"


def meaning(tier_name) -> str:
    """Say in plain words what a tier means for the notebooks.

    >>> meaning("gpu-fp16").split(".")[0]
    'Use FP16 with loss scaling here'
    """
    return _MEANINGS[tier_name]


# ONEDNN_MAX_CPU_ISA forbids the matrix library some instructions: the flags that each setting leaves usable.
_NO_SHORT_FORMATS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
_FORBIDDEN = {
    **{isa: {"avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"} for isa in _NO_SHORT_FORMATS},
    "AVX512_CORE_BF16": {"avx512_fp16", "amx_bf16", "amx_fp16"},
    **{isa: {"amx_bf16", "amx_fp16"} for isa in ("AVX512_CORE_FP16", "AVX10_1_512")},
    **{isa: {"amx_fp16"} for isa in ("AVX512_CORE_AMX", "AVX10_1_512_AMX")},
}


def usable_features(features, environment) -> tuple:
    """Keep the CPU flags that the environment lets the matrix library use (`ONEDNN_MAX_CPU_ISA`).

    >>> usable_features(("avx2", "avx512_bf16"), {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    ('avx2',)
    """
    limit = environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or ""
    forbidden = _FORBIDDEN.get(limit.upper(), set())
    return tuple(flag for flag in features if flag not in forbidden)
