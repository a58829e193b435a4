"""Where trials are carried out: what every executor is made with. Its contract is ``search.base.Executor``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where trials are carried out, and what each may take.

    Args:
        folder: of the search: what trials share.
        workers: how many at once; None for as many as there is room for.
        timeout_s, memory_bytes: a trial that takes more is stopped; None for its share of the memory that there is.
        address: of a cluster.
        files: what trials read, files and folders, as far as they are there; for machines that see no ``suite``.
    """

    suite: Path
    folder: Path
    workers: int | None = None
    timeout_s: float = 900.0
    memory_bytes: int | None = None
    address: str | None = None
    files: tuple[Path, ...] = ()
