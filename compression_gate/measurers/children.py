"""Short-lived children of a worker: forks where they are safe, else fresh processes; watched, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from compression_gate.errors import MeasurementError

FORKS = hasattr(os, "fork") and sys.platform == "linux"  # elsewhere the system's own libraries may not survive one
LOOK_S = 0.004


class Child(Protocol):
    """A started child."""

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""

    def kill(self) -> None:
        """End it now, if it runs."""

    def said(self) -> str:
        """Its last words, where it failed."""


class Fork:
    """A fork of this process that does one thing and ends; it must have one thread and hold no model."""

    def __init__(self, work: Callable[[], None], last_words: Path) -> None:
        self.last_words = last_words
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            live(work, last_words)

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code

    def kill(self) -> None:
        """End it now, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)

    def said(self) -> str:
        """Its last words, where it failed."""
        return self.last_words.read_text(encoding="utf-8") if self.last_words.exists() else ""


class Fresh:
    """A process of its own."""

    def __init__(self, words: Sequence[str], last_words: Path) -> None:
        self.last_words = last_words
        with last_words.open("wb") as file:
            self.process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=file)

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""
        return self.process.poll()

    def kill(self) -> None:
        """End it now, if it runs."""
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """Its last words, where it failed."""
        return self.last_words.read_text(encoding="utf-8", errors="replace").strip()


def live(work: Callable[[], None], last_words: Path) -> None:
    """The life of a fork; it never returns."""
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001  # a fork must not run on into its parent's code
        with contextlib.suppress(OSError):
            last_words.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        os._exit(code)


def wait(child: Child, limit_s: float) -> None:
    """Wait until a child has ended well; whatever happens, it does not run on.

    Raises:
        MeasurementError: it failed, with its last words, or was silent for ``limit_s``.
    """
    end = time.monotonic() + limit_s
    try:
        while (code := child.poll()) is None:
            if time.monotonic() > end:
                raise MeasurementError(f"a turn was silent for {limit_s:.0f} s: the model hangs")
            time.sleep(LOOK_S)
        if code != 0:
            how = f"killed by signal {-code}" if code < 0 else f"exit {code}"
            raise MeasurementError(child.said() or f"a turn ended ({how})")
    finally:
        child.kill()
