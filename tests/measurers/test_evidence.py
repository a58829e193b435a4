"""Kept timings: a second attempt is added to the first and never takes its place, whatever became of the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compression_gate.errors import MeasurementError
from compression_gate.gate.timing_test import decide
from compression_gate.gate.timing_zone import zone_of
from compression_gate.measurers import evidence
from compression_gate.measurers.evidence import accumulated, add, read
from compression_gate.measurers.latency import PROCEDURE, PROCESSES, Sampled, Turn
from compression_gate.records.attempts import EVIDENCE, Attempt, Timed, numbers_of

TIMED = Timed(
    candidate="c",
    other="o",
    role="reference",
    runtime="onnxruntime",
    threads=1,
    batch_size=1,
    inputs="i",
    machine="m",
    package="0",
    procedure="p",
)


def turn(ratio, random, pairs=200):
    first = 1e-3 * np.exp(random.normal(0, 0.03, pairs))
    times = np.array([first, first * ratio * np.exp(random.normal(0, 0.03, pairs))])
    return Turn(cpu=times, wall=times, repeats=2)


def attempt_at(ratio, seed=0, *, turns=6, reason=None, pairs=200):
    random = np.random.default_rng(seed)
    return Sampled(
        turns=[turn(ratio, random, pairs) for _ in range(turns)],
        control=[turn(1.0, random) for _ in range(3)],
        reason=reason,
    )


def timed_at(suite, *ratios):
    """Benchmarks in a row, at those ratios; what the last one made of all."""
    for seed, ratio in enumerate(ratios):
        found = accumulated(suite, TIMED, lambda _, seed=seed, ratio=ratio: attempt_at(ratio, seed))
    return found.timing


def folder_of(suite):
    return suite / EVIDENCE / TIMED.key


def answer(timing):
    """What the sequential test says of a record, at a limit of 5 %."""
    return decide([np.array(blocks) for blocks in timing.blocks], zone_of(1.05)).status


def test_a_lucky_attempt_does_not_replace_a_bad_one(tmp_path):
    lucky = timed_at(tmp_path / "lucky", 0.99)
    bad = timed_at(tmp_path / "both", 1.1)
    both = timed_at(tmp_path / "both", 0.99)
    assert (answer(lucky), answer(bad), answer(both)) == ("pass", "fail", "fail")
    assert 0.99 < both.ratio < 1.1
    assert both.attempts == 2
    assert both.attempt_ratios == pytest.approx((1.1, 0.99), rel=0.01)


def test_a_further_attempt_decides_what_the_first_could_not(tmp_path):
    """The test may be looked at as often as one likes: two attempts at six turns are one at twelve."""
    sampled = [attempt_at(1.0, seed, pairs=9) for seed in (0, 1)]
    for one in sampled:
        again = accumulated(tmp_path / "again", TIMED, lambda _, one=one: one).timing
    turns = [turn for one in sampled for turn in one.turns]
    once = accumulated(tmp_path / "once", TIMED, lambda _: Sampled(turns=turns)).timing
    assert (again.blocks, again.ratio, again.interval) == (once.blocks, once.ratio, once.interval)


def test_the_first_attempt_is_judged_as_if_nothing_were_kept(tmp_path):
    from compression_gate.measurers.latency import together

    kept, plain = timed_at(tmp_path, 1.05), together([attempt_at(1.05)]).timing
    assert kept.interval == pytest.approx(plain.interval, rel=1e-5)
    assert kept.control_interval == pytest.approx(plain.control_interval, rel=1e-5)


def test_attempts_by_two_procedures_are_said_to_be(tmp_path):
    """Whether the thread's clock sees the work is found out anew in each: a record of the last alone would be false."""
    for procedure in (PROCEDURE, PROCESSES, PROCESSES):
        one = replace(attempt_at(1.1), procedure=procedure)
        found = accumulated(tmp_path, TIMED, lambda _, one=one: one).timing
    assert found.procedure == f"{PROCEDURE}, then {PROCESSES}"
    assert found.clock == "thread CPU time, then wall time"


OTHERS = [
    ("candidate", "d"),
    ("other", "p"),
    ("role", "baseline"),
    ("runtime", "torch"),
    ("threads", 2),
    ("batch_size", 8),
    ("inputs", "j"),
    ("machine", "n"),
    ("package", "1"),
    ("procedure", "q"),
]


@pytest.mark.parametrize(("field", "value"), OTHERS)
def test_what_is_timed_otherwise_is_other_evidence(tmp_path, field, value):
    timed_at(tmp_path, 1.1)
    other = TIMED.model_copy(update={field: value})
    assert accumulated(tmp_path, other, lambda _: attempt_at(1.0)).timing.attempts == 1


def test_every_field_of_what_is_timed_is_tried():
    assert {field for field, _ in OTHERS} == set(Timed.model_fields)


def test_each_attempt_throws_its_own_coins(tmp_path):
    numbers = []
    for _ in range(3):
        accumulated(tmp_path, TIMED, lambda number: numbers.append(number) or attempt_at(1.0))
    assert numbers == [1, 2, 3]


def test_an_attempt_that_crashed_is_kept_and_counted_and_so_are_its_turns(tmp_path):
    crashed = accumulated(tmp_path, TIMED, lambda _: attempt_at(1.2, turns=2, reason="killed by signal 9")).timing
    assert crashed.ratio is None
    assert crashed.reason == "killed by signal 9"
    after = accumulated(tmp_path, TIMED, lambda _: attempt_at(1.0, 1)).timing
    assert after.reason is None
    assert after.attempts == 2
    assert after.attempt_ratios == (None, pytest.approx(1.0, rel=0.01))
    assert after.turns == 8
    again = accumulated(tmp_path, TIMED, lambda _: Sampled(reason="hung")).timing
    assert (again.ratio, again.reason, again.attempts) == (None, "hung", 3)
    assert [one.attempt.reason for one in read(folder_of(tmp_path), TIMED)] == ["killed by signal 9", None, "hung"]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def exchanged(path):
    """A sound file, of other samples."""
    evidence.write_samples(path, attempt_at(0.5))


DAMAGE = [
    ("1.npz", cut),
    ("1.npz", emptied),
    ("1.npz", flipped),
    ("1.npz", exchanged),
    ("1.npz", lambda path: path.unlink()),
    ("1.npz", lambda path: path.write_bytes(b"no samples")),
    ("1.json", cut),
    ("1.json", emptied),
    ("1.json", lambda path: path.write_text('{"schema": 2}')),
    ("1.json", lambda path: path.write_text(path.read_text().replace('"candidate": "c"', '"candidate": "d"'))),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_damaged_evidence_is_named_and_leaves_no_figure(tmp_path, name, damage):
    timed_at(tmp_path, 1.1, 1.1)
    damage(folder_of(tmp_path) / name)
    timing = accumulated(tmp_path, TIMED, lambda _: pytest.fail("was timed all the same")).timing
    assert timing.ratio is None
    assert timing.interval == (None, None)
    assert name in timing.reason
    assert "delete the folder" in timing.reason
    assert timing.attempts == 2


def test_an_attempt_taken_out_from_among_others_is_missed(tmp_path):
    timed_at(tmp_path, 1.1, 1.0)
    for suffix in (".npz", ".json"):
        (folder_of(tmp_path) / f"1{suffix}").unlink()
    with pytest.raises(MeasurementError, match=r"attempt 1.*got attempts \[2\] only"):
        read(folder_of(tmp_path), TIMED)


def test_an_attempt_whose_process_was_killed_between_its_two_files_counts(tmp_path):
    timed_at(tmp_path, 1.1)
    before = Attempt.read(folder_of(tmp_path) / "1.json")
    (folder_of(tmp_path) / "1.json").unlink()
    both = timed_at(tmp_path, 0.99)
    assert both.attempts == 2
    assert answer(both) == "fail"
    mended = Attempt.read(folder_of(tmp_path) / "1.json")
    assert (mended.ratio, mended.interval, mended.samples_sha256) == (
        before.ratio,
        before.interval,
        before.samples_sha256,
    )


@pytest.mark.skipif(os.name != "posix", reason="processes are killed as POSIX does")
@pytest.mark.parametrize("moment", ["replace", "write"])
def test_a_process_killed_while_it_writes_leaves_nothing_half(tmp_path, moment):
    """Once before the samples have their name, once after: neither spoils the next attempt."""
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from compression_gate.records.attempts import Attempt
import test_evidence as own
target = Path if {moment!r} == "replace" else Attempt
setattr(target, {moment!r}, lambda *_: os.kill(os.getpid(), 9))
own.timed_at(Path({str(tmp_path)!r}), 1.1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    timing = timed_at(tmp_path, 1.0)
    assert timing.reason is None
    assert timing.attempts == (1 if moment == "replace" else 2)
    names = {path.name for path in folder_of(tmp_path).iterdir()}
    assert names == {
        "lock",
        *(f"{number}.{end}" for number in range(1, timing.attempts + 1) for end in ("npz", "json")),
    }


def test_writers_at_once_lose_nothing(tmp_path):
    folder = folder_of(tmp_path)
    writers = [threading.Thread(target=add, args=(folder, TIMED, attempt_at(1.0, seed))) for seed in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert numbers_of(folder) == [1, 2, 3, 4, 5, 6]
    assert len({one.attempt.samples_sha256 for one in read(folder, TIMED)}) == 6


def test_a_folder_that_is_never_let_go_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "PATIENCE_S", 0.0)
    with evidence.locked(tmp_path), pytest.raises(MeasurementError, match="lock of another process"):
        add(tmp_path, TIMED, attempt_at(1.0))


def test_deleting_the_evidence_begins_anew_and_shows(tmp_path):
    import shutil

    timed_at(tmp_path, 1.1, 1.1)
    shutil.rmtree(folder_of(tmp_path))
    timing = timed_at(tmp_path, 1.0)
    assert timing.attempts == 1


def test_samples_are_kept_in_half_the_bytes(tmp_path):
    timed_at(tmp_path, 1.1)
    with np.load(folder_of(tmp_path) / "1.npz") as file:
        assert {file[name].dtype for name in file.files if name.endswith(("_cpu", "wall")) and "by" not in name} == {
            np.dtype(np.float32)
        }
    note = json.loads((folder_of(tmp_path) / "1.json").read_text())
    assert note["turns"] == 6
    assert note["pairs"] == 1200
    assert note["timed"]["candidate"] == "c"
