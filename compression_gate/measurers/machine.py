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


def machine_fingerprint() -> dict[str, str]:
    """Processor, cores, system and versions, all as text; nothing heavy is imported for it."""
    model, flags = processor()
    return {
        "processor": model,
        "cores": str(os.cpu_count() or 0),
        "flags": hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()[:16],
        "governor": text_of(GOVERNOR) or "unknown",
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
