"""Progress of anything over two seconds: a bar on a terminal, a plain line now and then elsewhere. To stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger("compression_gate")
LINE_EVERY_S = 15.0
T = TypeVar("T")


def tracked(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield ``items``, showing how many of ``total`` are done."""
    if sys.stderr.isatty():
        yield from bar(items, total, label)
        return
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > LINE_EVERY_S:
            last = time.monotonic()
            log.info("%s: %d of %d", label, done, total)
        yield item


def bar(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield ``items`` under a rich bar that vanishes at the end."""
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=label, total=total, transient=True, console=Console(stderr=True))
