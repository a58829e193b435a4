"""One holder at a time: a file that a process locks, and that says who holds it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compression_gate.errors import ParamsError

POLL_S = 0.1


@contextmanager
def locked(path: Path, *, held: str, do: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file; the system lets go of it when the process ends, however it does.

    Args:
        held: what another holder has, in words, for the error; do: what to do about it.
        patience_s: for how long to wait for another holder.

    Raises:
        ParamsError: another process holds it; the message says which, and since when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    while (lock := taken(path)) is None and time.monotonic() < until:
        time.sleep(POLL_S)
    if lock is None:
        holder = path.read_text(encoding="utf-8").strip() or "unknown"
        since = time.strftime("%H:%M:%S", time.localtime(path.stat().st_mtime))
        raise ParamsError(f"{held} since {since}: process {holder}: {do}")
    try:
        yield
    finally:
        lock.close()


def taken(path: Path) -> Any:
    """The lock of a file, to be closed; None where another process holds it."""
    from zc.lockfile import LockError, LockFile  # type: ignore[import-untyped]  # it publishes no types

    try:
        return LockFile(str(path), content_template="{pid} on {hostname}")
    except LockError:
        return None
