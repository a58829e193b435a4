"""What every reporter is given: the verdict, and the records it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from compression_gate.records.metrics import Benchmark, CompressionRecord, Evaluation
from compression_gate.records.params import Params
from compression_gate.records.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A verdict with its records; one that could not be read is None, and the verdict says so.

    ``today`` is the day it is shown on, from which the age of waivers is counted.
    """

    suite: str
    params: Params
    verdict: Verdict
    compression: CompressionRecord | None = None
    evaluation: Evaluation | None = None
    benchmark: Benchmark | None = None
    today: date = field(default_factory=date.today)
