"""What every reporter is given: the verdict, and the records it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from compression_gate.records.metrics import Benchmark, CompressionRecord, CurvePoint, Evaluation
from compression_gate.records.params import Params
from compression_gate.records.sensitivity import SensitivityTable
from compression_gate.records.verdict import Point, Verdict
from compression_gate.records.waivers import today_utc


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts (B,) of calls between ``edges`` (B + 1,) [ms]; calls beyond the ends are in none.

    Args:
        n: all calls, also those beyond the ends.
        middle: their median [ms].
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    n: int
    middle: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """What was taken for what.

    Args:
        labels: of the classes, (C,).
        before, after: counts (C, C) of reference and candidate, true class down, predicted across; empty where there
            are more classes than a page has room for.
        errors: of reference and candidate.
        changes: true class, predicted class, how often before, how often after: the largest changes first.
    """

    labels: tuple[str, ...]
    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]
    errors: tuple[int, int]
    changes: tuple[tuple[str, str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the files of single examples and single calls come to: counts, and no example.

    ``calls``: role timed against -> its histogram and the candidate's, of the same edges, calls of the same pairs.
    """

    confusion: Confusion | None = None
    calls: Mapping[str, tuple[Histogram, Histogram]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A verdict with its records; one that could not be read is None, and the verdict says so.

    Args:
        folder: of the suite, as seen from the repository's root.
        training: the curve of the reference's training.
        sensitivity: of the reference, where somebody asked for it; steps hold tables of their own.
        samples: summed up; None where nobody needs them.
        rule_lines: rule -> its line in `params.yaml`.
        tried: fronts of searches, measured on the validation split: shown beside this run's models, compared with none.
        adoptions: where the gate fails, recipes that a search found to meet its limits, and the line that adopts each.
        today: the day it is shown on, from which the age of waivers is counted; None where that must not matter.
    """

    suite: str
    params: Params
    verdict: Verdict
    folder: str = "."
    compression: CompressionRecord | None = None
    evaluation: Evaluation | None = None
    benchmark: Benchmark | None = None
    training: tuple[CurvePoint, ...] = ()
    sensitivity: SensitivityTable | None = None
    samples: Samples | None = None
    rule_lines: Mapping[str, int] = field(default_factory=dict)
    tried: tuple[Point, ...] = ()
    adoptions: tuple[str, ...] = ()
    today: date | None = field(default_factory=today_utc)
