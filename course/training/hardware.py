"""What this machine can do: `python -m course doctor`, and the probe that runs and notebooks ask."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata

from course import __version__
from course.training import capabilities
from course.training.capabilities import emulated_dtypes, native_dtypes

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One device: what it is and which formats it multiplies natively. Memory in bytes; None where unknown."""

    kind: str  # "cpu", "cuda", "rocm", "mps" or "xpu"
    name: str
    capability: tuple | str | None  # (major, minor) for CUDA, the architecture for ROCm, the chip for MPS
    features: tuple  # CPU or XPU flags that decide something
    memory_total: int | None
    memory_free: int | None
    native: tuple
    emulated: tuple

    @property
    def torch_type(self) -> str:
        """The name that `torch.device` takes: ROCm answers to "cuda"."""
        return "cuda" if self.kind == "rocm" else self.kind


@dataclass(frozen=True)
class Hardware:
    """This machine: versions, cores, the CPU, and the accelerator if there is one."""

    versions: dict
    system: str
    cores_physical: int | None
    cores_usable: int
    load_average: float | None  # over the last minute; a busy machine measures slowly
    cpu: Device
    accelerator: Device | None

    @property
    def device(self) -> Device:
        """The device that the notebooks use: the accelerator, else the CPU."""
        return self.accelerator or self.cpu

    @property
    def tier(self) -> str:
        """The tier of `device`, a key of `capabilities.TIERS`."""
        return capabilities.tier(self.device.kind, self.device.native)

    def on(self, torch_type) -> Device:
        """The device that torch calls `torch_type`; raises `ValueError` when this machine has none."""
        for device in (self.cpu, self.accelerator):
            if device and device.torch_type == torch_type:
                return device
        have = " and ".join(d.torch_type for d in (self.cpu, self.accelerator) if d)
        way_out = f"use --device {have.split()[-1]}"
        raise ValueError(f"there is no {torch_type} device here (this machine has {have}): {way_out}")

    def as_dict(self) -> dict:
        """Everything as JSON values, tier included."""
        words = asdict(self)
        devices = [words.pop("cpu"), words.pop("accelerator")]
        return words | {
            "devices": [device for device in devices if device],
            "tier": self.tier,
            "tier_line": tier_line(self),
            "meaning": capabilities.meaning(self.tier),
        }


def tier_line(hardware) -> str:
    """One line that a notebook prints: the tier and what is emulated. No name, no number: the same on like machines.

    >>> tier_line(probe()).startswith("Tier: ")
    True
    """
    device = hardware.device
    if hardware.tier in ("cpu", "gpu"):  # their names say already that everything short is emulated
        return f"Tier: {capabilities.TIERS[hardware.tier]}."
    missing = [name.upper() for name in ("tf32", "bf16", "fp16") if name in device.emulated]
    if not any(name in device.native for name in ("fp8", "fp8-fnuz")):
        missing.append("FP8")
    emulated = f"; emulated: {', '.join(missing)}" if missing else ""
    return f"Tier: {capabilities.TIERS[hardware.tier]}{emulated}."


def probe() -> Hardware:
    """Look at this machine: versions, cores, memory, CPU flags, accelerator. Takes the time to import torch.

    >>> "fp32" in probe().cpu.native
    True
    """
    import psutil

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware(
        versions=_versions(),
        system=f"{platform.system()} {platform.machine()}",
        cores_physical=psutil.cpu_count(logical=False),
        cores_usable=usable,
        load_average=load,
        cpu=_cpu(),
        accelerator=_accelerator(),
    )


def _versions():
    versions = {"python": platform.python_version(), "course": __version__}
    for package in ("torch", "numpy", "numba"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _device(kind, name, capability, features, memory):
    native = native_dtypes(kind, capability, features)
    free, total = memory
    return Device(kind, name, capability, tuple(features), total, free, native, emulated_dtypes(native))


def _cpu():
    import torch

    flags = torch.cpu.get_capabilities()
    present = [flag for flag in capabilities.CPU_FEATURES if flags.get(flag)]
    name = flags.get("cpu_name") or platform.processor() or platform.machine()
    return _device("cpu", name, None, capabilities.usable_features(present, os.environ), _cpu_memory())


def _cpu_memory():
    """(free, total) bytes; a container's limit counts where it is smaller than the machine."""
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    try:  # Linux, cgroup v2
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as current:
            total = min(total, int(limit.read()))
            free = min(free, max(0, total - int(current.read())))
    except (OSError, ValueError):  # no container, or "max": no limit
        pass
    return free, total


def _accelerator():
    import torch

    if not torch.accelerator.is_available():
        return None
    kind = torch.accelerator.current_accelerator().type
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        if torch.version.hip:
            return _device("rocm", properties.name, properties.gcnArchName, (), torch.cuda.mem_get_info())
        return _device("cuda", properties.name, (properties.major, properties.minor), (), torch.cuda.mem_get_info())
    if kind == "mps":
        chip = torch.backends.mps.get_name()
        total = torch.mps.recommended_max_memory()
        return _device("mps", chip, chip, (), (total - torch.mps.driver_allocated_memory(), total))
    if kind == "xpu":
        found = torch.xpu.get_device_capability(0)
        flags = [name for name in sorted(found) if name.startswith("has_") and found[name]]
        return _device("xpu", torch.xpu.get_device_name(0), None, flags, torch.xpu.mem_get_info())
    return None


def measure_gemm(device, seconds=5.0) -> list:
    """Measure the rate of a square matrix product in FP32, TF32 (where native), BF16 and FP16 on `device`.

    Each format gets the largest size (a power of two) whose product stays below 1/40 of `seconds`: a format without
    a circuit, up to a hundred times slower than FP32, then costs no more than the others. Rounds over all formats
    are interleaved, and the fastest of each counts. Takes about `seconds`. Returns a list of
    {"dtype", "size", "gflops", "ratio"}; `ratio` is to FP32, each at its own size.
    """
    import torch

    names = [name for name in ("fp32", "tf32", "bf16", "fp16") if name != "tf32" or "tf32" in device.native]
    limit = seconds / 40
    products = {name: _affordable_product(torch, device, name, limit) for name in names}
    best = {name: float("inf") for name in products}
    slices = {name: max(1, int(limit / 5 / once)) for name, (_, _, once) in products.items()}  # equal time for each
    round_seconds = sum(slices[name] * once for name, (_, _, once) in products.items())
    for _ in range(max(3, int(seconds / 2 / round_seconds))):
        for name, (_, product, _) in products.items():
            best[name] = min([best[name], *(product() for _ in range(slices[name]))])
    rates = {name: 2 * size**3 / best[name] / 1e9 for name, (size, _, _) in products.items()}
    return [
        {"dtype": name, "size": products[name][0], "gflops": rates[name], "ratio": rates[name] / rates["fp32"]}
        for name in names
    ]


def _affordable_product(torch, device, name, limit):
    """(size, function that runs one product and returns its seconds, seconds that it took)."""
    largest = 8192 if device.kind != "cpu" else 1024
    size = 128
    while True:
        product = timed_product(device.torch_type, name, size, size, size)
        product()  # warm-up: kernels are chosen and compiled at the first call of a shape
        once = min(product() for _ in range(5))  # on a busy machine a single one can be twenty times too slow
        if size >= largest or once * 8 > limit:  # a doubled size costs eight times as much
            return size, product, once
        size *= 2


def timed_product(torch_type, name, rows, inner, columns):
    """Make a function that runs one (rows × inner) @ (inner × columns) product in format `name` and returns seconds."""
    import time

    import torch

    from course.training.recipes import float32_products

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    # Varied bits: a GPU multiplies ones with less power, hence at a higher clock, than real numbers.
    a = torch.linspace(-1, 1, rows * inner).view(rows, inner).to(torch_type, dtype)
    b = torch.linspace(-1, 1, inner * columns).view(inner, columns).to(torch_type, dtype)
    wait = (lambda: None) if torch_type == "cpu" else torch.accelerator.synchronize

    def product():
        with float32_products(torch_type, "tf32" if name == "tf32" else "ieee"):
            wait()
            start = time.perf_counter()
            a @ b
            wait()
            return time.perf_counter() - start

    return product


def doctor_report(quick=False) -> dict:
    """Everything that `python -m course doctor --json` prints; `quick` leaves out the measuring."""
    hardware = probe()
    report = {"schema": 1, **hardware.as_dict()}
    devices = [device for device in (hardware.cpu, hardware.accelerator) if device]
    for words, device in zip(report["devices"], devices, strict=True):
        words["gemm"] = [] if quick else measure_gemm(device)
    return json.loads(json.dumps(report))  # tuples become lists, as a reader of the JSON sees them


def doctor_text(report) -> str:
    """The report for people: aligned plain text, the verdict last."""
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in report["versions"].items())
    cores = f"{report['cores_usable']} usable, {report['cores_physical'] or 'unknown'} physical"
    load = report["load_average"]
    busy = "" if load is None else f"; load {load:.1f} over the last minute"
    lines = [_line("versions", versions), _line("system", report["system"]), _line("cores", cores + busy)]
    for device in report["devices"]:
        lines += ["", *_device_lines(device)]
    if load is not None and load > report["cores_usable"] / 2 and any(d["gemm"] for d in report["devices"]):
        lines += ["", "Other programs are using this machine: on a quiet one the rates are higher."]
    lines += ["", report["tier_line"], report["meaning"]]
    return "\n".join(lines)


def _line(label, text):
    return f"{label:<12}{text}"


def _device_lines(device):
    capability = device["capability"]
    if isinstance(capability, list):
        capability = "compute capability " + ".".join(map(str, capability))
    title = device["name"] + (f", {capability}" if capability and capability != device["name"] else "")
    lines = [_line(device["kind"].upper(), title)]
    if device["features"]:
        lines.append(_line("  features", ", ".join(device["features"])))
    if device["memory_total"]:
        free, total = device["memory_free"] / GIB, device["memory_total"] / GIB
        lines.append(_line("  memory", f"{free:.1f} GiB free of {total:.1f} GiB"))
    lines.append(_line("  native", ", ".join(device["native"])))
    lines.append(_line("  emulated", ", ".join(device["emulated"]) or "none"))
    for row in device["gemm"]:
        how = "native" if row["dtype"] in device["native"] else "emulated"
        rate = f"{row['gflops']:10.1f} GFLOP/s  {row['ratio']:6.2f} x FP32  {how}, {row['size']} x {row['size']}"
        lines.append(_line(f"  {row['dtype']} matmul", rate))
    return lines


def add_arguments(parser):
    """Declare the flags of `python -m course doctor`."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quick", action="store_true", help="skip the measuring of matrix products")


def run(args) -> int:
    """Print the report; 0 when it could be made."""
    try:
        report = doctor_report(args.quick)
    except ImportError as error:
        print(f"error: {error}; run `python3 start.py` to install what the course needs", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2) if args.json else doctor_text(report))
    return 0
