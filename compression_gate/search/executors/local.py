"""`local`: single-thread processes on this machine, each of which carries one trial out after the other.

A process is watched from outside: it is killed, with all that it started, when a trial takes too long or too much
memory, and another takes its place. So nothing that a trial does can end the search.
"""

from __future__ import annotations

import logging
import secrets
import select
import shutil
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import IO

import psutil

from compression_gate.errors import SearchError
from compression_gate.measurers.machine import text_of, usable_cores
from compression_gate.records.trial import Answer, Request
from compression_gate.search.executors.base import Place
from compression_gate.search.executors.guard import posted
from compression_gate.search.executors.watched import Watched, memory_of

log = logging.getLogger("compression_gate")
WORKER = "compression_gate.stages.trial"
POLL_S = 0.2
MEMORY_S = 0.5  # between looks at the memory: each takes a few milliseconds
FIRST_GUESS_BYTES = 1_500_000_000  # of one process, before any was seen: torch, a small model, its data
SPARE_SHARE = 0.8  # of the memory that is there: the rest is for what else runs
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def usable_bytes() -> int:
    """The memory that processes may take here [bytes]: the machine's, or what a container has been left of it."""
    told = [psutil.virtual_memory().total]
    for line in text_of(OWN_GROUPS).splitlines():
        _, kinds, own = line.split(":", 2)  # no kinds: the second version, which knows but one
        if kinds in ("", "memory"):
            place = Path(own.lstrip("/"))  # seen from inside, a container's own may lie at the top
            limit = "memory.limit_in_bytes" if kinds else "memory.max"
            told += [
                int(text) for at in (place, *place.parents) if (text := text_of(GROUPS / kinds / at / limit)).isdigit()
            ]
    return min(told)


def fair_bytes(workers: int | None) -> int:
    """What each process may take where nobody says so [bytes], so that as many as begin together fit.

    Args:
        workers: that are asked for; None for one a core.
    """
    room = usable_bytes() * SPARE_SHARE
    return int(room / min(workers or usable_cores(), max(1, room // FIRST_GUESS_BYTES)))


class LocalExecutor:
    """Processes that are started when they are needed, and kept.

    Args:
        worker: the module that they run.
    """

    def __init__(self, place: Place, worker: str = WORKER) -> None:
        self.place, self.worker = place, worker
        self.waiting: deque[Request] = deque()
        self.workers: list[Watched] = []
        self.peak_bytes = 0
        self.looked = 0.0
        self.token, self.started = secrets.token_hex(8), 0
        self.temporary: Path | None = None
        self.guard: IO[bytes] | None = None
        self.usable_bytes = usable_bytes()
        self.most_bytes = place.memory_bytes or fair_bytes(place.workers)

    @property
    def allowed(self) -> int:
        """How many processes may be there: one a core, as long as memory lasts for one more."""
        each = self.peak_bytes or FIRST_GUESS_BYTES
        more = psutil.virtual_memory().available * SPARE_SHARE // each
        fit = min(len(self.workers) + more, self.usable_bytes * SPARE_SHARE // each)
        return min(self.place.workers or usable_cores(), max(1, int(fit)))

    @property
    def free(self) -> int:
        """How many more requests would be begun at once."""
        busy = sum(worker.request is not None for worker in self.workers)
        return max(0, self.allowed - busy - len(self.waiting))

    def submit(self, request: Request) -> None:
        """Put a trial in line, and begin it if a process is free."""
        self.waiting.append(request)
        self.begin_waiting()

    def begin_waiting(self) -> None:
        """Hand waiting trials to processes."""
        while self.waiting and (worker := self.idle()) is not None:
            worker.begin(self.waiting.popleft())

    def idle(self) -> Watched | None:
        """A process without a trial, started if there is none; None where there may be no more.

        Raises:
            SearchError: the system starts no process, and none is there.
        """
        for worker in [one for one in self.workers if one.request is None]:
            if worker.ready:
                return worker
            log.warning("search: a worker ended, or spoke, between two trials: another takes its place")
            self.remove(worker)
        if len(self.workers) >= self.allowed:
            return None
        try:
            return self.start()
        except OSError as error:
            if self.workers:
                return None  # when one of them ends there may be room
            raise SearchError(f"search: expected to start a process for trials, got {error}") from error

    def start(self) -> Watched:
        """Start one more process, the first with a guard."""
        if self.temporary is None:  # its name is short: those of sockets in it have room for 100 letters
            self.temporary = Path(tempfile.mkdtemp(prefix="trials-"))
        if self.guard is None:
            self.guard = posted(self.token, self.temporary)
        token, folder = f"{self.token}.{self.started}", self.temporary / str(self.started)
        self.started += 1
        worker = Watched(self.worker, self.place.suite, self.place.folder, token, folder)
        self.workers.append(worker)
        return worker

    def finished(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """Wait for answers; see the contract."""
        until = time.monotonic() + timeout_s
        while True:
            busy = [worker for worker in self.workers if worker.request is not None]
            patience = max(0.0, min(POLL_S, until - time.monotonic()))
            outputs = [worker.answers for worker in busy]
            ready = select.select(outputs, [], [], patience)[0] if outputs else []
            found = self.heard_from([worker for worker in busy if worker.answers in ready])
            found += self.over_their_limits()
            if found or not busy or time.monotonic() >= until:
                self.begin_waiting()
                return found

    def heard_from(self, workers: list[Watched]) -> list[tuple[int, Answer]]:
        """The answers of processes that have said something, or ended."""
        found = []
        for worker in workers:
            assert worker.request is not None
            number = worker.request.number
            if (heard := worker.listen()) is None:
                continue
            answer, usable = heard
            found.append((number, answer))
            if usable:
                self.peak_bytes = max(self.peak_bytes, worker.peak_bytes)
            else:
                self.remove(worker)
        return found

    def over_their_limits(self) -> list[tuple[int, Answer]]:
        """Stop trials that take too long or too much memory, and say so."""
        busy = [worker for worker in self.workers if worker.request is not None]
        self.look_at_memory(busy)
        found = []
        for worker in busy:
            assert worker.request is not None
            if worker.took_s > self.place.timeout_s:
                reason = f"hangs: no answer within {self.place.timeout_s:g} s (search.trial_timeout_s)"
            elif worker.peak_bytes > self.most_bytes:
                reason = f"memory: {worker.peak_bytes:,} bytes, more than the {self.most_bytes:,} allowed"
            else:
                continue
            found.append((worker.request.number, Answer(reason=reason, seconds=worker.took_s)))
            self.remove(worker)
        return found

    def look_at_memory(self, busy: list[Watched]) -> None:
        """Note what each process takes, now and then."""
        now = time.monotonic()
        if not busy or now - self.looked < MEMORY_S:
            return
        self.looked = now
        taken = memory_of(worker.process.pid for worker in busy)
        for worker in busy:
            worker.peak_bytes = max(worker.peak_bytes, taken[worker.process.pid])

    def remove(self, worker: Watched) -> None:
        """End a process and everything that it started."""
        self.workers.remove(worker)
        worker.end()

    def close(self) -> None:
        """End all processes, whatever they are at."""
        self.waiting.clear()
        for worker in list(self.workers):
            self.remove(worker)
        if self.guard is not None:
            self.guard.close()
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
        self.guard = self.temporary = None
