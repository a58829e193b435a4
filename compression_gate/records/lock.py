"""One holder at a time: a file that a process locks, and that says who holds it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compression_gate.errors import ParamsError


@contextmanager
def locked(path: Path, *, held: str, do: str) -> Iterator[None]:
    """Hold a lock file; the system lets go of it when the process ends, however it does.

    Args:
        held: what another holder has, in words, for the error; do: what to do about it.

    Raises:
        ParamsError: another process holds it; the message says which, and since when.
    """
    from zc.lockfile import LockError, LockFile  # type: ignore[import-untyped]  # it publishes no types

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = LockFile(str(path), content_template="{pid} on {hostname}")
    except LockError as error:
        holder = path.read_text(encoding="utf-8").strip() or "unknown"
        since = time.strftime("%H:%M:%S", time.localtime(path.stat().st_mtime))
        raise ParamsError(f"{held} since {since}: process {holder}: {do}") from error
    try:
        yield
    finally:
        lock.close()
