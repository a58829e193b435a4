"""A worker whose driver is gone ends itself: nobody is left to watch it, or to hear its answer."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import threading

import psutil

from compression_gate.search.executors.watched import TOKEN, kill_all


def end_with_asker() -> None:
    """End this process, whatever it is at, once the other end of its stdin is closed."""
    threading.Thread(target=wait_and_end, args=(sys.stdin.fileno(),), daemon=True).start()


def wait_and_end(requests: int) -> None:
    """Wait until nobody can write to a pipe any more; then end this process, what it started, and its files."""
    poll = select.poll()
    poll.register(requests, 0)  # that the other end is closed is told without being asked for
    poll.poll()
    with contextlib.suppress(psutil.Error):
        kill_all(psutil.Process().children(recursive=True))
    if TOKEN in os.environ and (temporary := os.environ.get("TMPDIR")):
        shutil.rmtree(temporary, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)
