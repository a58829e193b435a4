"""The files under `.compression_gate`: what `run` writes before DVC starts, the lock, and what a failure leaves."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

from compression_gate import __version__
from compression_gate.errors import ParamsError
from compression_gate.pipeline.definition import DEFINITION, all_sources, outputs_of
from compression_gate.records.base import Record, digest_of_file, write_if_changed
from compression_gate.records.lock import locked
from compression_gate.records.params import Params, write_resolved
from compression_gate.records.state_files import (
    HISTORY,
    MACHINE,
    PACKAGE,
    PARAMS,
    REFERENCES,
    SOURCES,
    STATE,
    WAIVERS,
)
from compression_gate.records.waivers import FILE_NAME as WAIVERS_FILE

SEEN = f"{STATE}/seen.json"  # what `run` remembers of the history from one time to the next; no stage reads it
DVC_IGNORE = f"{STATE}/.dvcignore"


class Failure(Record):
    """`.compression_gate/failure.json`: which stage failed, with which code, what it said, and why."""

    stage: str
    exit_code: Literal[1, 2, 3, 4]
    message: str
    reason: Literal["crashed", "data_unreachable"] = "crashed"


def failure_path(suite: Path) -> Path:
    """Where a failing stage leaves word."""
    return suite / STATE / "failure.json"


def remove_outputs(suite: Path, word: str) -> None:
    """Remove what the stage ``word`` writes, as DVC does before it calls one."""
    for output in outputs_of(DEFINITION[word]):
        path = suite / output
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON if it differs from what is there."""
    write_if_changed(path, f"{json.dumps(value, indent=2, sort_keys=True)}\n".encode())


def prepare_state(suite: Path, params: Params) -> None:
    """Write everything the stages depend on beside the user's own files."""
    from compression_gate.measurers.machine import timing_environment

    write_resolved(params, suite / PARAMS)
    write_json(suite / PACKAGE, {"version": __version__})
    write_json(suite / MACHINE, timing_environment(params.benchmark.threads))
    write_json(suite / SOURCES, source_digests(suite, params))
    waivers = suite / WAIVERS_FILE
    write_json(suite / WAIVERS, {"sha256": digest_of_file(waivers) if waivers.is_file() else None})


@contextmanager
def state_kept(suite: Path) -> Iterator[None]:
    """Put what :func:`prepare_state` and the search for references write back as it was when the block ends."""
    paths = [suite / name for name in (PARAMS, PACKAGE, MACHINE, SOURCES, WAIVERS, HISTORY, SEEN, DVC_IGNORE)]
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    references = suite / REFERENCES
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
        kept = Path(folder) / "references"
        if references.exists():
            shutil.copytree(references, kept)
        try:
            yield
        finally:
            for path, content in before.items():
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    write_if_changed(path, content)
            restore(references, kept)


def restore(folder: Path, kept: Path) -> None:
    """Make ``folder`` what its copy is, unless it still is."""
    if stamps(folder) != stamps(kept):
        shutil.rmtree(folder, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, folder)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Bytes and time stamp of every file of a folder."""
    files = ((path.relative_to(folder).as_posix(), path.stat()) for path in folder.rglob("*") if path.is_file())
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in files}


def source_digests(suite: Path, params: Params) -> dict[str, str]:
    """SHA-256 of every source file of the suite.

    Raises:
        ParamsError: one that the params name is not there, or one in a folder has a name that is no text.
    """
    sources = all_sources(params, suite)
    if absent := [path for path in sources if not (suite / path).exists()]:
        raise ParamsError(
            f"params.yaml: task: {path}: no such file: mend task.files, task.weights or the weights that a step names"
            for path in absent
        )
    files = {Path(os.path.relpath(file, suite)).as_posix(): file for path in sources for file in expanded(suite / path)}
    if odd := [name for name in files if name.encode(errors="ignore").decode() != name]:
        raise ParamsError(
            f"params.yaml: task.files: {os.fsencode(name)!r}: expected a name in UTF-8, as DVC needs it too: rename it"
            for name in odd
        )
    return {name: digest_of_file(file) for name, file in files.items()}


def expanded(path: Path) -> list[Path]:
    """A file itself, or every file of a folder."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def suite_lock(suite: Path) -> AbstractContextManager[None]:
    """Hold the suite's lock.

    Raises:
        ParamsError: another process holds it; the message says which, and since when.
    """
    held = f"{suite.resolve().name}: another run holds this suite"
    return locked(suite / STATE / "lock", held=held, do="wait for it, or stop it")
