"""Room for the steps that trials share: those finished longest ago go where there are too many."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

STEPS = "steps"  # in a search's folder
CACHE_BYTES = 2_000_000_000  # of finished steps; the oldest make room
ROOM_S = 60.0  # between looks at it: one takes a second where thousands of steps are kept


def make_room(folder: Path, most: int) -> None:
    """Remove the steps that were finished longest ago, until the rest is small enough; others may do the same."""
    ages: dict[Path, float] = {}
    sizes: dict[Path, int] = {}
    for one in folder.glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):  # somebody else made room
            ages[one] = one.stat().st_mtime
            sizes[one] = sum(file.stat().st_size for file in one.rglob("*"))
    total = sum(sizes.values())
    for one in sorted(sizes, key=ages.__getitem__):
        if total <= most:
            return
        shutil.rmtree(one, ignore_errors=True)
        total -= sizes[one]
