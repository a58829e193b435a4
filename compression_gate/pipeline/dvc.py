"""Calls to DVC: set-up where a folder has none, and one reproduction of the suite."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gate.errors import CompressionGateError, ParamsError
from compression_gate.pipeline.definition import STAGES, declared_outputs, read_definition

if TYPE_CHECKING:
    import psutil

PATIENCE_S = 2.0
# What DVC tells a person to do next; `run` has its own words for that, and nobody commits dvc.lock.
ADVICE = ("To track the changes", "git add ", "To enable auto staging", "dvc config core.autostage", "Use `dvc push`")


def dvc_root(suite: Path) -> Path | None:
    """The folder of the DVC repository around a suite."""
    for folder in (suite.resolve(), *suite.resolve().parents):
        if (folder / ".dvc").is_dir():
            return folder
    return None


def git_root(suite: Path) -> Path | None:
    """The folder of the git checkout around a suite."""
    for folder in (suite.resolve(), *suite.resolve().parents):
        if (folder / ".git").exists():
            return folder
    return None


def environment() -> dict[str, str]:
    """This process's environment with this interpreter's programs first and DVC's analytics off."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONWARNINGS": "ignore"}


def dvc(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one DVC command in ``folder`` and return what it said."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def repro(arguments: Sequence[str], folder: Path) -> int:
    """Run `dvc repro`, pass its lines on to stderr as they come, less its advice, and return its exit code."""
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None  # asked for above
        try:
            for line in process.stdout:
                if line.strip() and not line.strip().startswith(ADVICE):
                    sys.stderr.write(line)
                    sys.stderr.flush()
        except BaseException:
            stop(process.pid)
            raise
    return process.returncode


def stop(pid: int) -> None:
    """See an interrupted DVC and its stages out: wait, ask, then end what is left, so that nothing writes any more."""
    import psutil

    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    ways = ((psutil.Process.is_running, PATIENCE_S), (asked, 5 * PATIENCE_S), (psutil.Process.kill, PATIENCE_S))
    for end, seconds in ways:
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(one)
        _, family = psutil.wait_procs(family, timeout=seconds)
        if not family:
            return


def asked(process: psutil.Process) -> None:
    """Ask a process to end, as Ctrl-C does where there is such a thing."""
    if os.name == "posix":
        process.send_signal(signal.SIGINT)
    else:
        process.terminate()


def set_up(suite: Path) -> str | None:
    """Make sure that there is a DVC repository, and return what was done, if anything."""
    if dvc_root(suite):
        return None
    root = git_root(suite)
    folder = root or suite
    answer = dvc(["init", "--quiet", *([] if root else ["--no-scm"])], folder)
    if answer.returncode != 0:
        raise CompressionGateError(f"{folder}: `dvc init` failed: {answer.stderr.strip() or answer.stdout.strip()}")
    return f"set DVC up in {folder}" + ("" if root else " (without git)")


def has_remote(suite: Path) -> bool:
    """Whether the repository names a default remote that outputs could be pulled from."""
    return configuration(suite).has_option("core", "remote")


def configuration(suite: Path) -> configparser.RawConfigParser:
    """The repository's DVC configuration, the local file over the shared one; empty where there is no DVC.

    Raises:
        ParamsError: a file of it cannot be read.
    """
    config = configparser.RawConfigParser()
    root = dvc_root(suite)
    paths = [root / ".dvc" / name for name in ("config", "config.local")] if root else []
    for path in paths:
        try:
            if path.exists():
                config.read_string(path.read_text(encoding="utf-8"), str(path))
        except (OSError, configparser.Error, UnicodeDecodeError) as error:
            raise ParamsError(f"{path}: cannot be read: {error}") from error
    return config


def reproduce(suite: Path, *, begin: str | None = None, force: bool = False, dry: bool = False) -> int:
    """Reproduce the suite's stages and return DVC's exit code.

    Args:
        suite: its folder.
        begin: a stage from which on everything runs again, changed or not.
        force: everything runs again.
        dry: only show what would run.
    """
    path = environment()["PATH"]
    if shutil.which("compression-gate", path=path) is None:
        raise CompressionGateError(
            f"compression-gate: expected the command, which the stages of dvc.yaml call, on PATH or beside "
            f"{sys.executable}, got none: install the package into this environment"
        )
    drop_dead_locks(suite)
    flags = [*(["--force"] if force else []), *(["--dry"] if dry else [])]
    if has_remote(suite) and not dry:
        flags += ["--pull", "--allow-missing"]
    if begin is None:
        # The last stage alone: all others lie before it, and DVC takes each further name as a road of its own to plan.
        return repro([*flags, STAGES[-1]], suite)
    before = STAGES[: STAGES.index(begin)]
    if before and (code := repro([*flags, *before], suite)):
        return code
    return repro([*flags, "--force", "--single-item", *STAGES[len(before) :]], suite)


def drop_dead_locks(suite: Path) -> None:
    """Remove DVC's locks if only dead processes hold them, those whose parent has not seen them out included.

    DVC takes such a one for alive: behind a first process that sees nobody out, as in many a container, a run that was
    killed would block all others.
    """
    path = (dvc_root(suite) or suite) / ".dvc/tmp/rwlock"
    try:
        locks = json.loads(path.read_bytes())
        readers = [holder for holders in locks["read"].values() for holder in holders]
        holders = {int(holder["pid"]) for holder in (*readers, *locks["write"].values())}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or not as expected: DVC says so
        return
    if holders and not any(is_alive(pid) for pid in holders):
        path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process is there and not merely unburied."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def missing_outputs(suite: Path) -> list[str]:
    """Outputs that `dvc.yaml` declares and that are not there."""
    stages = read_definition(suite)
    return [path for name in STAGES for path in declared_outputs(stages[name]) if not (suite / path).exists()]
