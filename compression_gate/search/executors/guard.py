"""What outlives an executor for a moment: ends all that its workers are at, when it was killed and cannot.

Run as ``python -m compression_gate.search.executors.guard TOKEN FOLDER``. It stands aside, in a session of its own and
nobody's child, so that whatever kills the executor and its children leaves it there; its stdin ends with the executor.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil

TOKEN = "COMPRESSION_GATE_TRIALS"  # noqa: S105  # the name of a variable
ROUNDS = 10  # what is killed may have started something a moment before


def has_token(process: psutil.Process, token: str) -> bool:
    """Whether a process is of a token, or of one that begins with it and a dot."""
    try:
        value = process.environ().get(TOKEN, "")
    except (psutil.Error, OSError):  # another user's, or gone
        return False
    return bool(value == token or value.startswith(f"{token}."))


def end_all(token: str) -> None:
    """Kill every process of a token, in whatever session it is."""
    for _ in range(ROUNDS):
        if not (left := [one for one in psutil.process_iter() if has_token(one, token)]):
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)


def held(folder: Path) -> bool:
    """Hold a folder for as long as this process lives, as others may too; False where it is gone."""
    import fcntl  # where there is no such thing, nobody asks

    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH)
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def remove_unheld(folder: Path) -> None:
    """Remove a folder, unless somebody holds it, who removes it then."""
    import fcntl

    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def posted(token: str, folder: Path) -> IO[bytes]:
    """Post a guard, and return what it watches: the pipe must stay open as long as there is somebody to end workers."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, token, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != TOKEN}
        | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])},
        start_new_session=True,
    )
    process.wait()
    assert process.stdin is not None
    return process.stdin


def main(arguments: Sequence[str]) -> None:
    """Stand aside, wait for the end of stdin, end what is left."""
    token, folder = arguments
    if os.fork():
        return
    while sys.stdin.buffer.read(1):
        pass
    end_all(token)
    remove_unheld(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
