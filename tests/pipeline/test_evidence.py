"""What `run --again` tells of earlier timings, and when it has nothing to add to."""

from __future__ import annotations

import json

import pytest

from compression_gate import __version__
from compression_gate.errors import ParamsError
from compression_gate.measurers.machine import timing_environment
from compression_gate.pipeline.evidence import attempts, attempts_lines, require_earlier
from compression_gate.records.artifact import Artifact
from compression_gate.records.attempts import EVIDENCE, Attempt, Timed
from compression_gate.records.base import digest_of


def artifact_in(folder, role, digest):
    Artifact(
        role=role,
        format="onnx",
        runtime="onnxruntime",
        files={},
        shipped=(),
        digest=digest,
        parameters=1,
        nonzeros=1,
        macs=1,
    ).write(folder / "artifact.json")


def kept(suite, number, ratio, *, inputs="i", reason=None, **others):
    timed = Timed(
        **{
            "candidate": "c",
            "other": "r",
            "role": "reference",
            "runtime": "onnxruntime",
            "threads": 1,
            "batch_size": 1,
            "inputs": inputs,
            "machine": digest_of(timing_environment(1)),
            "package": __version__,
            "procedure": "p",
            **others,
        }
    )
    Attempt(
        number=number,
        timed=timed,
        measured_at=f"2026-01-0{number}T12:00:00+00:00",
        ratio=ratio,
        interval=(ratio * 0.9, ratio * 1.1) if ratio else (None, None),
        pairs=1200,
        turns=6,
        load_average=0.5,
        reason=reason,
        samples_sha256="s",
    ).write(suite.path / EVIDENCE / timed.key / f"{number}.json")
    return suite.path / EVIDENCE / timed.key


@pytest.fixture
def models(suite):
    for role, digest in (("reference", "r"), ("candidate", "c")):
        artifact_in(suite.path / "models" / role, role, digest)
    return suite


def test_attempts_are_told_oldest_first_and_a_failed_one_with_its_reason(models):
    kept(models, 1, 1.04)
    kept(models, 2, None, reason="killed by signal 9")
    assert [attempt.ratio for attempt in attempts(models.path)["reference"]] == [1.04, None]
    assert attempts_lines(models.path) == [
        "against the reference, attempt 1 (2026-01-01T12:00:00+00:00): 1.040 of its time (0.936 to 1.144), "
        "1,200 pairs in 6 processes, load 0.5",
        "against the reference, attempt 2 (2026-01-02T12:00:00+00:00): no figure: killed by signal 9",
    ]


OTHERS = [
    ("candidate", "d"),
    ("other", "s"),
    ("role", "baseline"),
    ("threads", 2),
    ("machine", "another"),
    ("package", "0.0"),
    ("batch_size", 8),
]


@pytest.mark.parametrize(("field", "value"), OTHERS)
def test_there_is_nothing_to_add_to_where_only_something_else_was_timed(models, field, value):
    kept(models, 1, 1.04, **{field: value})
    with pytest.raises(
        ParamsError, match="--again: nothing to add to: expected a timing of models/candidate"
    ) as caught:
        require_earlier(models.path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_there_is_nothing_to_add_to_before_the_first_run(suite):
    assert attempts(suite.path) == {}
    with pytest.raises(ParamsError):
        require_earlier(suite.path)


def test_a_baseline_is_looked_for_where_the_references_lie(models):
    artifact_in(models.path / ".compression_gate/references/baseline", "candidate", "b")
    kept(models, 1, 1.04, role="baseline", other="b")
    assert list(attempts(models.path)) == ["baseline"]


def test_of_two_shapes_of_inputs_the_last_one_timed_is_told(models):
    kept(models, 1, 1.04, inputs="small")
    kept(models, 2, 0.99, inputs="large")
    assert [attempt.ratio for attempt in attempts(models.path)["reference"]] == [0.99]


def test_a_damaged_record_does_not_hide_the_others(models):
    folder = kept(models, 1, 1.04)
    kept(models, 2, 0.99)
    (folder / "1.json").write_text("{")
    assert [attempt.number for attempt in attempts(models.path)["reference"]] == [2]


def test_what_is_judged_is_told_last(models):
    kept(models, 1, 1.04)
    record = {
        "schema": 1,
        "runtime": "onnxruntime",
        "threads": 1,
        "batch_sizes": [1],
        "models": {},
        "environment": {},
        "machine_digest": "m",
        "pairs": {
            "reference": {
                "procedure": "p",
                "clock": "thread CPU time",
                "ratio": None,
                "interval": [None, None],
                "confidence": 0.98,
                "pairs": 1200,
                "turns": 6,
                "control_ratio": None,
                "control_interval": [None, None],
                "wall_ratio": None,
                "reason": "hung",
                "attempts": 2,
                "attempt_ratios": [1.04, None],
            }
        },
    }
    (models.path / "reports").mkdir()
    (models.path / "reports/benchmark.json").write_text(json.dumps(record))
    assert attempts_lines(models.path)[-1] == (
        "against the reference, judged: attempt 1: 1.040, attempt 2: no figure; all together no figure: hung"
    )
