"""`local`: single-thread processes on this machine, each of which carries one trial out after the other.

A process is watched from outside: it is killed, with all that it started, when a trial takes too long or too much
memory, and another takes its place. So nothing that a trial does can end the search.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from pydantic import ValidationError

from compression_gate.measurers.machine import usable_cores
from compression_gate.measurers.workers import end, environment, how_it_ended
from compression_gate.records.trial import Answer
from compression_gate.search.base import Request

log = logging.getLogger("compression_gate")
WORKER = "compression_gate.stages.trial"
POLL_S = 0.2
FIRST_GUESS_BYTES = 1_500_000_000  # of one process, before any was seen: torch, a small model, its data
SPARE_SHARE = 0.8  # of the memory that is there: the rest is for what else runs
LAST_LINES = 5


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where trials are carried out.

    Args:
        folder: of the search: what trials share.
        workers: how many at once; None for as many as cores and memory allow.
    """

    suite: Path
    folder: Path
    workers: int | None = None
    timeout_s: float = 900.0
    memory_bytes: int | None = None
    address: str | None = None


@dataclass(kw_only=True)
class Worker:
    """A process, and the trial it is at."""

    process: subprocess.Popen[str]
    errors: Path
    request: Request | None = None
    since: float = 0.0
    peak_bytes: int = 0
    buffer: str = field(default="")


class LocalExecutor:
    """Processes that are started when they are needed, and kept."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.waiting: deque[Request] = deque()
        self.workers: list[Worker] = []
        self.peak_bytes = 0
        self.started = 0

    @property
    def allowed(self) -> int:
        """How many processes may be there: one a core, as long as memory lasts for one more."""
        most = self.place.workers or usable_cores()
        room = psutil.virtual_memory().available * SPARE_SHARE
        each = self.peak_bytes or FIRST_GUESS_BYTES
        return min(most, max(1, len(self.workers) + int(room // each)))

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
        while self.waiting:
            worker = next((one for one in self.workers if one.request is None), None)
            if worker is None:
                if len(self.workers) >= self.allowed:
                    return
                worker = self.start()
            worker.request, worker.since, worker.peak_bytes = self.waiting.popleft(), time.monotonic(), 0
            self.send(worker)

    def start(self) -> Worker:
        """Start one more process."""
        errors = self.place.folder / "workers" / f"{self.started}.log"
        errors.parent.mkdir(parents=True, exist_ok=True)
        self.started += 1
        with errors.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(self.place.suite.resolve()), str(self.place.folder.resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment(1),
                start_new_session=os.name == "posix",
            )
        worker = Worker(process=process, errors=errors)
        self.workers.append(worker)
        return worker

    def send(self, worker: Worker) -> None:
        """Hand a process its trial; one that is gone is noticed when its answer is waited for."""
        assert worker.process.stdin is not None
        assert worker.request is not None
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.write(json.dumps(asdict(worker.request)) + "\n")
            worker.process.stdin.flush()

    def finished(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """Wait for answers; see the contract."""
        until = time.monotonic() + timeout_s
        while True:
            busy = [worker for worker in self.workers if worker.request is not None]
            outputs = [worker.process.stdout for worker in busy if worker.process.stdout is not None]
            patience = max(0.0, min(POLL_S, until - time.monotonic()))
            ready = select.select(outputs, [], [], patience)[0] if outputs else []
            found = [
                answered
                for worker in busy
                if (answered := self.looked_at(worker, readable=worker.process.stdout in ready)) is not None
            ]
            if found or not busy or time.monotonic() >= until:
                self.begin_waiting()
                return found

    def looked_at(self, worker: Worker, *, readable: bool) -> tuple[int, Answer] | None:
        """The answer of a process, or what became of its trial; None while it works."""
        assert worker.request is not None
        assert worker.process.stdout is not None
        request, took = worker.request, time.monotonic() - worker.since
        if readable:
            line = worker.process.stdout.readline()
            if line.endswith("\n"):
                worker.request = None
                self.peak_bytes = max(self.peak_bytes, worker.peak_bytes)
                return request.number, read_answer(line)
            return request.number, self.lost(worker, took)
        memory = memory_of(worker.process.pid)
        worker.peak_bytes = max(worker.peak_bytes, memory)
        if took > self.place.timeout_s:
            return request.number, self.stopped(worker, took, f"hangs: no answer within {self.place.timeout_s:.0f} s")
        most = self.place.memory_bytes
        if most is not None and memory > most:
            return request.number, self.stopped(
                worker, took, f"memory: {memory:,} bytes, more than the {most:,} allowed"
            )
        return None

    def lost(self, worker: Worker, took: float) -> Answer:
        """The answer of a process that ended in the middle of its trial."""
        self.remove(worker)
        last = worker.errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
        how = how_it_ended(worker.process.returncode)
        return Answer(reason=f"crashed: {how}: {' | '.join(last) or 'no message'}"[:2000], seconds=took)

    def stopped(self, worker: Worker, took: float, reason: str) -> Answer:
        """Kill a process, and say why."""
        self.remove(worker)
        return Answer(reason=reason, seconds=took)

    def remove(self, worker: Worker) -> None:
        """End a process and everything that it started."""
        end(worker.process)
        self.workers.remove(worker)

    def close(self) -> None:
        """End all processes, whatever they are at."""
        self.waiting.clear()
        for worker in list(self.workers):
            self.remove(worker)


def read_answer(line: str) -> Answer:
    """What a process wrote; a line that is no answer is the answer of a trial that failed."""
    try:
        return Answer.model_validate_json(line)
    except ValidationError:
        return Answer(reason=f"crashed: expected an answer, got {line[:200]!r}")


def memory_of(pid: int) -> int:
    """Memory of a process and its children that is theirs alone or shared among them [bytes], about."""
    try:
        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0
