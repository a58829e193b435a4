"""Every attempt at a timing is kept, and all that were kept are judged together.

Timing again until the answer pleases is so of no use: a slow attempt stays in the figure, and what the sequential test
has once decided stays decided (`gate.timing_test`). What is kept and cannot be read, or has gone, is not left out in
silence: the timing has no figure then, and says which file it was. Deleting the whole folder of a key begins anew, at
attempt 1.
"""

from __future__ import annotations

import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from compression_gate.errors import MeasurementError, MetricsError
from compression_gate.measurers.latency import PairedSamples, Sampled, Turn, summary_of, together
from compression_gate.records.attempts import EVIDENCE, Attempt, Timed, numbers_of
from compression_gate.records.base import digest_of_file, replacing

PARTS = ("pairs", "control")
PATIENCE_S = 60.0  # another process keeps its samples within a second


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An attempt as it is kept: what is known of it, and its samples."""

    attempt: Attempt
    sampled: Sampled


def accumulated(suite: Path, timed: Timed, sample: Callable[[int], Sampled]) -> PairedSamples:
    """Take one more attempt, keep it, and judge it together with all that were kept before.

    Args:
        suite: its folder.
        timed: what is timed; only attempts at the very same are taken together.
        sample: number of the attempt -> its samples.

    Where evidence is damaged or missing there is no ratio, and the reason says so.
    """
    folder = suite / EVIDENCE / timed.key
    try:
        number = len(read(folder, timed)) + 1  # damage is told before a minute is spent
        kept = add(folder, timed, sample(number))
    except MeasurementError as error:
        refused = together([Sampled(reason=str(error))]).timing
        found = {"attempts": max(1, len(numbers_of(folder))), "attempt_ratios": ()}
        return PairedSamples(timing=refused.model_copy(update=found))
    return together([one.sampled for one in kept])


def read(folder: Path, timed: Timed) -> list[Kept]:
    """Every attempt of a key, oldest first.

    Raises:
        MeasurementError: a file is missing, damaged, or of another timing.
    """
    numbers = numbers_of(folder)
    if gone := sorted(set(range(1, len(numbers) + 1)) - set(numbers)):
        raise lost(folder, f"attempt {gone[0]}", "samples as they were taken", f"attempts {numbers} only")
    return [read_one(folder, number, timed) for number in numbers]


def read_one(folder: Path, number: int, timed: Timed) -> Kept:
    """One attempt; what is known of it follows from its samples where a process was killed between the two files.

    Raises:
        MeasurementError: as :func:`read`.
    """
    samples, note = folder / f"{number}.npz", folder / f"{number}.json"
    sampled = read_samples(folder, samples)
    if not note.exists():
        taken = datetime.fromtimestamp(samples.stat().st_mtime, UTC)
        return Kept(attempt=attempt_of(number, timed, sampled, samples, taken, load=None), sampled=sampled)
    try:
        attempt = Attempt.read(note)
    except MetricsError as error:
        raise lost(folder, note.name, "what is known of an attempt", str(error)) from error
    if (attempt.number, attempt.timed) != (number, timed):
        raise lost(folder, note.name, f"attempt {number} at this timing", f"attempt {attempt.number} at another")
    if attempt.samples_sha256 != digest_of_file(samples):
        raise lost(folder, samples.name, f"the samples that {note.name} speaks of", "others")
    return Kept(attempt=attempt, sampled=sampled)


def read_samples(folder: Path, path: Path) -> Sampled:
    """The samples of one attempt.

    Raises:
        MeasurementError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        turns, control = ([turn_of(arrays, part, turn) for turn in range(int(arrays[part]))] for part in PARTS)
        reason, procedure = str(arrays["reason"]) or None, str(arrays["procedure"])
        needed_s = float(arrays["needed_s"])
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise lost(folder, path.name, "samples as they were taken", f"{type(error).__name__}: {error}") from error
    if reason is None and not turns:
        raise lost(folder, path.name, "the turns of an attempt that came to its end", "none")
    return Sampled(
        turns=turns, control=control, reason=reason, procedure=procedure, needed_s=needed_s if needed_s > 0 else None
    )


def turn_of(arrays: dict[str, Any], part: str, number: int) -> Turn:
    """One turn out of the arrays of a file."""
    cpu, wall = arrays[f"{part}_{number}_cpu"], arrays[f"{part}_{number}_wall"]
    if cpu.ndim != 2 or len(cpu) != 2 or cpu.shape != wall.shape or not (np.isfinite(cpu).all() and (wall > 0).all()):
        raise ValueError(f"{part}_{number}: expected positive times (2, pairs), got {cpu.shape} and {wall.shape}")
    return Turn(
        cpu=cpu,
        wall=wall,
        repeats=int(arrays[f"{part}_{number}_repeats"]),
        process_share=float(arrays[f"{part}_{number}_process_share"]),
    )


def lost(folder: Path, what: str, expected: str, got: str) -> MeasurementError:
    """The error that says which evidence cannot be counted on."""
    return MeasurementError(
        f"{folder / what}: expected {expected}, got {got}: put the evidence back as it was, or delete the folder to "
        "begin anew at attempt 1"
    )


def add(folder: Path, timed: Timed, sampled: Sampled) -> list[Kept]:
    """Keep one more attempt under the next number, and return all that are kept, oldest first.

    Samples are written first: a process that is killed in between leaves nothing that does not follow from them.

    Raises:
        MeasurementError: as :func:`read`; or another process does not let go of the folder.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with locked(folder):
        for torn in (*folder.glob(".*.npz"), *folder.glob(".*.json")):  # of a process that was killed while it wrote
            torn.unlink(missing_ok=True)
        kept = read(folder, timed)
        number = len(kept) + 1
        samples = folder / f"{number}.npz"
        write_samples(samples, sampled)
        # Read back, so that what is judged now is what every later attempt will find.
        sampled = read_samples(folder, samples)
        attempt = attempt_of(number, timed, sampled, samples, datetime.now(UTC), load=load)
        for one in (*(old.attempt for old in kept), attempt):
            note = folder / f"{one.number}.json"
            if not note.exists():
                one.write(note)
        return [*kept, Kept(attempt=attempt, sampled=sampled)]


def write_samples(path: Path, sampled: Sampled) -> None:
    """Write what an estimate needs, as float32: a ten-millionth of a time is far under what a clock can tell."""
    arrays: dict[str, Any] = {
        "reason": np.array(sampled.reason or ""),
        "procedure": np.array(sampled.procedure),
        "needed_s": sampled.needed_s or 0.0,
    }
    for part, turns in zip(PARTS, (sampled.turns, sampled.control), strict=True):
        arrays[part] = len(turns)
        for number, turn in enumerate(turns):
            arrays[f"{part}_{number}_cpu"] = turn.cpu.astype(np.float32)
            arrays[f"{part}_{number}_wall"] = turn.wall.astype(np.float32)
            arrays[f"{part}_{number}_repeats"] = turn.repeats
            arrays[f"{part}_{number}_process_share"] = turn.process_share
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def attempt_of(
    number: int, timed: Timed, sampled: Sampled, samples: Path, taken: datetime, *, load: float | None
) -> Attempt:
    """What is known of an attempt for itself."""
    ratio, interval = summary_of(sampled.turns) if sampled.reason is None else (None, (None, None))
    return Attempt(
        number=number,
        timed=timed,
        measured_at=taken.isoformat(timespec="seconds"),
        ratio=ratio,
        interval=interval,
        pairs=sum(turn.cpu.shape[1] for turn in sampled.turns),
        turns=len(sampled.turns),
        control_ratio=summary_of(sampled.control)[0],
        load_average=load,
        reason=sampled.reason,
        samples_sha256=digest_of_file(samples),
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a key's folder; a lock ends with the process that holds it.

    Raises:
        MeasurementError: another process held it all the while.
    """
    from zc.lockfile import LockError, SimpleLockFile  # type: ignore[import-untyped]  # it publishes no types

    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            lock = SimpleLockFile(str(folder / "lock"))
            break
        except LockError as error:
            if time.monotonic() > end:
                raise MeasurementError(
                    f"{folder}: expected to write there within {PATIENCE_S:.0f} s, got a lock of another process: "
                    "wait for that benchmark, or stop it"
                ) from error
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.close()
