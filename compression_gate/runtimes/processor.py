"""What a runtime must know of the processor it runs on."""

from __future__ import annotations

import platform
from pathlib import Path


def sums_are_exact() -> bool:
    """Whether this processor multiplies U8 × S8 into 32-bit sums; False where that cannot be found out."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags
