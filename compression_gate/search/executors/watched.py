"""A process that carries trials out, seen from outside: what it says, what memory it takes, its end.

What it started ends with it, also in sessions of their own: all of it has the process's token in its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import psutil
from pydantic import ValidationError

from compression_gate.measurers.workers import environment, how_it_ended
from compression_gate.records.trial import Answer, Request
from compression_gate.search.executors.guard import TOKEN, end_all

LONGEST_LINE = 10_000_000  # bytes; an answer has a few thousand
READ_BYTES = 65_536
LAST_LINES = 5
LONGEST_REASON = 2_000


class Watched:
    """A worker, and the trial it is at.

    Args:
        token: its own, by which all that it starts is found.
        temporary: a folder for what it and these write; made here, removed with it.
        module: run as ``python -m module SUITE FOLDER``; reads a request a line, and writes an answer a line, its
            number before it.
    """

    def __init__(self, module: str, suite: Path, folder: Path, token: str, temporary: Path) -> None:
        self.token, self.temporary = token, temporary
        temporary.mkdir()
        self.errors = folder / "workers" / f"{token}.log"
        self.errors.parent.mkdir(parents=True, exist_ok=True)
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(suite.resolve()), str(folder.resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**environment(1), TOKEN: token, "TMPDIR": str(temporary)},
                start_new_session=os.name == "posix",
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        os.set_blocking(self.answers.fileno(), False)
        self.heard = b""
        self.request: Request | None = None
        self.since = 0.0
        self.peak_bytes = 0

    @property
    def took_s(self) -> float:
        """For how long it has been at its trial."""
        return time.monotonic() - self.since

    @property
    def ready(self) -> bool:
        """Whether it may be handed a trial: it lives, and has said nothing that nobody asked for."""
        spoke = select.select([self.answers], [], [], 0)[0]
        return self.request is None and self.process.poll() is None and not spoke

    def begin(self, request: Request) -> None:
        """Hand it a trial; if it is gone, that is noticed when its answer is waited for."""
        self.request, self.since, self.peak_bytes, self.heard = request, time.monotonic(), 0, b""
        with contextlib.suppress(BrokenPipeError):
            self.requests.write(json.dumps(asdict(request)).encode() + b"\n")
            self.requests.flush()

    def listen(self) -> tuple[Answer, bool] | None:
        """Read what it has said: its answer where that is whole, or how it ended; None while there is neither.

        With it, whether the process can be handed another trial.
        """
        assert self.request is not None
        try:
            part = os.read(self.answers.fileno(), READ_BYTES)
        except BlockingIOError:
            return None
        self.heard += part
        line, end, rest = self.heard.partition(b"\n")
        if not end and part and len(line) <= LONGEST_LINE:
            return None
        if not end and not part:
            return Answer(reason=self.how_it_ended(), seconds=self.took_s), False
        answer = answer_in(line, self.request.number)
        if answer is None or rest:
            said = line[:200].decode(errors="replace")
            reason = f"crashed: expected the answer to trial {self.request.number}, got {said!r}"
            return Answer(reason=reason, seconds=self.took_s), False
        self.request = None
        return answer, True

    def how_it_ended(self) -> str:
        """Its exit code in words, and what it said last."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2)  # its output ends shortly before it does
        code = self.process.poll()
        how = "closed its output" if code is None else how_it_ended(code)
        last = self.errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
        return f"crashed: {how}: {' | '.join(last) or 'no message'}"[:LONGEST_REASON]

    def end(self) -> None:
        """Kill it, all that it started and all that it wrote; wait until it is gone."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the whole group is gone already
                os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        end_all(self.token)
        for pipe in (self.requests, self.answers):
            with contextlib.suppress(OSError):  # what nobody reads any more cannot be flushed
                pipe.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


def answer_in(line: bytes, number: int) -> Answer | None:
    """The answer to a trial; None where the line is no such thing."""
    which, _, text = line.partition(b" ")
    if which != str(number).encode():
        return None
    try:
        return Answer.model_validate_json(text)
    except ValidationError:
        return None


def memory_of(pids: Iterable[int]) -> dict[int, int]:
    """Memory of processes, each with all that descend from it [bytes], about: what is shared counts for each.

    All in one look at the list of processes, which is what costs time.
    """
    found = dict.fromkeys(pids, 0)
    children = psutil.Process().children(recursive=True)
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for child in children:
        with contextlib.suppress(psutil.Error):
            parents[child.pid], sizes[child.pid] = child.ppid(), child.memory_info().rss
    for pid, size in sizes.items():
        above: int | None = pid
        while above is not None and above not in found:
            above = parents.get(above)
        if above is not None:
            found[above] += size
    return found
