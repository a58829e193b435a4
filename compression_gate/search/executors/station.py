"""What stands on a machine of a cluster: one worker, watched there as on one machine."""

from __future__ import annotations

import dataclasses
import platform
import secrets
import time
from pathlib import Path
from typing import IO

from compression_gate import __version__
from compression_gate.errors import SearchError
from compression_gate.records.trial import Answer, Request
from compression_gate.search.executors.base import Place
from compression_gate.search.executors.guard import posted
from compression_gate.search.executors.local import LocalExecutor, fair_bytes
from compression_gate.search.executors.package import folder_of, unpacked
from compression_gate.search.executors.room import CACHE_BYTES, ROOM_S, STEPS, make_room

MARK = "shared"  # a file in the search's folder; who reads the same in it sees the same folder


class Station:
    """One worker's place on a machine of a cluster.

    Args:
        key: what the mark says; also of the package.
        worker: the module that carries trials out.
    """

    def __init__(self, place: Place, key: str, worker: str) -> None:
        most = place.memory_bytes or fair_bytes(None)  # another worker may stand at every core of this machine
        self.place, self.key, self.worker = dataclasses.replace(place, workers=1, memory_bytes=most), key, worker
        self.executor: LocalExecutor | None = None
        self.guard: IO[bytes] | None = None
        self.looked = time.monotonic()

    def opened(self, version: str, archive: bytes | None) -> bool:
        """Make ready for trials; False where this machine does not see the search's folder and needs an archive.

        Raises:
            SearchError: another version is installed here.
        """
        if version != __version__:
            raise SearchError(
                f"{platform.node()}: expected compression-gate {version}, as the search's, got {__version__}: "
                "install the same on all machines"
            )
        place = self.place
        if read_mark(place.folder) != self.key:
            if archive is None:
                return False
            place = unpacked(archive, self.key, place)
            self.guard = posted(secrets.token_hex(8), folder_of(self.key))  # the last one's takes it away
        self.executor = LocalExecutor(place, self.worker)
        return True

    def carry_out(self, request: Request) -> Answer:
        """Carry a trial out; whatever it does is its answer."""
        assert self.executor is not None
        self.executor.submit(request)
        while not (found := self.executor.finished(1.0)):
            pass
        if self.guard is not None and time.monotonic() - self.looked > ROOM_S:  # elsewhere the driver looks after it
            make_room(self.executor.place.folder / STEPS, CACHE_BYTES)
            self.looked = time.monotonic()
        return found[0][1]


def read_mark(folder: Path) -> str | None:
    """What the mark in a folder says; None where there is none."""
    try:
        return (folder / MARK).read_text(encoding="utf-8")
    except OSError:
        return None
