"""Calls to the `git` program: quiet, never asking, never touching the user's index or working tree."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from compression_gate.errors import HistoryError

PATIENCE_S = 20.0  # what a remote may take to answer; a local question is answered in milliseconds
# A hook's environment points git at the index and the folder of the command that called it.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
# Settings of the user's that would start other programs, or take time.
QUIETLY = ("-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.fsmonitor=false")
PATIENTLY = ("-c", "core.filesRefLockTimeout=3000")  # [ms]; who still holds a ref's lock then has left it behind
LINES = 5  # of what git complains of; more are a remote's own prose
IDENTITY = {"NAME": "compression-gate", "EMAIL": "compression-gate@localhost"}


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, made fit for git without a person: English, no questions, an identity."""
    own = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in IDENTITY.items()}
    return own | who | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1"} | dict(extra)


def call(
    arguments: Sequence[str],
    folder: Path,
    *,
    text: str = "",
    patience_s: float | None = None,
    extra: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run one git command in ``folder``, whatever it answers.

    Args:
        arguments: its words.
        folder: where.
        text: what it reads on its input.
        patience_s: after how many seconds it is given up.
        extra: additions to the environment.

    Raises:
        HistoryError: there is no git program, it cannot be called, or it took too long.
    """
    command = ["git", *QUIETLY, *PATIENTLY, *arguments]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(extra or {}),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            # Without a terminal ssh cannot ask for a passphrase either, and a whole session can be ended at once.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise HistoryError(f"{folder}: expected the program git, got none on PATH: install it") from error
    except OSError as error:
        raise HistoryError(f"git {arguments[0]}: cannot be called in {folder}: {error}") from error
    with process:
        try:
            said, complained = process.communicate(text.encode(), timeout=patience_s)
        except subprocess.TimeoutExpired as error:
            end(process)
            raise HistoryError(f"git {arguments[0]}: no answer within {patience_s:g} s") from error
        except BaseException:
            end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


def end(process: subprocess.Popen[bytes]) -> None:
    """End git and the programs it called, which hold its pipes and would be waited for."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def output(
    arguments: Sequence[str],
    folder: Path,
    *,
    text: str = "",
    patience_s: float | None = None,
    extra: Mapping[str, str] | None = None,
) -> str:
    """What one git command prints; see :func:`call`.

    Raises:
        HistoryError: it failed; the message is git's own.
    """
    done = call(arguments, folder, text=text, patience_s=patience_s, extra=extra)
    if done.returncode != 0:
        raise HistoryError(f"git {arguments[0]}: {complaint(done)}")
    return done.stdout.decode(errors="replace")


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """What git says went wrong, and what to do about it, in a line."""
    lines = (line.strip() for line in done.stderr.decode(errors="replace").splitlines())
    said = [line for line in lines if line and not line.startswith("hint:")]
    return "; ".join(said[:LINES]) or f"ended with code {done.returncode}"


def blobs(objects: Sequence[str], folder: Path) -> dict[str, bytes]:
    """The contents of blobs, in one call; a partial clone may have to ask its remote for them.

    Raises:
        HistoryError: git cannot read its objects.
    """
    names = "".join(f"{name}\n" for name in objects)
    done = call(["cat-file", "--batch"], folder, text=names, patience_s=3 * PATIENCE_S)
    if done.returncode != 0:
        raise HistoryError(f"git cat-file: {complaint(done)}")
    found: dict[str, bytes] = {}
    said, at = done.stdout, 0
    while (end := said.find(b"\n", at)) >= 0:
        name, kind, *size = said[at:end].decode().split()
        at = end + 1
        if kind != "missing":  # whoever asked for one that is finds it lacking
            found[name] = said[at : at + int(size[0])]
            at += int(size[0]) + 1
    return found


def resolved(name: str, folder: Path) -> str | None:
    """The object that a ref or revision names, None where there is no such thing.

    Raises:
        HistoryError: git cannot read this repository, or the ref is there and damaged.
    """
    done = call(["rev-parse", "--verify", "--quiet", "--end-of-options", name], folder)
    if done.returncode not in (0, 1):
        raise HistoryError(f"git rev-parse {name}: {complaint(done)}")
    words = done.stdout.decode().split()
    if not words and f"broken ref {name}" in complaint(call(["for-each-ref", "--", name], folder)):
        path = output(["rev-parse", "--git-path", name], folder).strip()
        raise HistoryError(f"{name}: expected a commit, got a broken ref: rm {path}; git fetch REMOTE {name}:{name}")
    return words[-1] if words else None


def commit_of(name: str, folder: Path) -> str | None:
    """The commit that a revision names, None where it names none."""
    return resolved(f"{name}^{{commit}}", folder)


def is_ancestor(old: str, new: str, folder: Path) -> bool:
    """Whether commit ``old`` is ``new`` or lies before it.

    Raises:
        HistoryError: git cannot tell.
    """
    done = call(["merge-base", "--is-ancestor", old, new], folder)
    if done.returncode not in (0, 1):
        raise HistoryError(f"git merge-base: {complaint(done)}")
    return done.returncode == 0


def default_remote(folder: Path) -> str | None:
    """The remote whose history counts: `origin`, or the only one there is."""
    names = output(["remote"], folder).split()
    if "origin" in names:
        return "origin"
    return names[0] if len(names) == 1 else None
