"""The machine as far as it changes timings: never its load, so that the same machine gives the same answer."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("torch", "onnxruntime", "openvino", "executorch", "numpy", "compression-gate")
CPU_INFO = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
# Each file, what it holds where the clock may rise above its stated rate, and what where it may not.
TURBO = (
    (Path("/sys/devices/system/cpu/intel_pstate/no_turbo"), {"0": "on", "1": "off"}),
    (Path("/sys/devices/system/cpu/cpufreq/boost"), {"1": "on", "0": "off"}),
)


def machine_fingerprint() -> dict[str, str]:
    """Processor, cores, system and versions, all as text; nothing heavy is imported for it."""
    model, flags = processor()
    return {
        "processor": model,
        "cores": str(os.cpu_count() or 0),
        "flags": hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()[:16],
        "usable_cores": str(usable_cores()),
        "virtual": virtual(flags),
        "governor": text_of(GOVERNOR) or "unknown",
        "turbo": turbo(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version_of(package) for package in PACKAGES},
    }


def timing_environment(threads: int) -> dict[str, str]:
    """The machine, and with how many threads it times: what makes two timings comparable."""
    return machine_fingerprint() | {"benchmark_threads": str(threads)}


def processor() -> tuple[str, list[str]]:
    """Name of the first core's processor and its flags; the name alone where the system lists no flags."""
    fields: dict[str, str] = {}
    for line in text_of(CPU_INFO).split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, (fields.get("flags") or fields.get("Features") or "").split()


def usable_cores() -> int:
    """How many cores this process may run on: what ``taskset`` or a container has left it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0


def virtual(flags: list[str]) -> str:
    """Whether this is a virtual machine, as far as the processor's flags tell: those of x86 do."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not flags:
        return "unknown"
    return "yes" if "hypervisor" in flags else "no"


def turbo() -> str:
    """Whether the clock may rise above its stated rate; unknown where the system does not tell."""
    told = (meaning.get(text_of(path)) for path, meaning in TURBO)
    return next((answer for answer in told if answer), "unknown")


def text_of(path: Path) -> str:
    """A system file's text, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def version_of(package: str) -> str:
    """Version of an installed package, or that it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
