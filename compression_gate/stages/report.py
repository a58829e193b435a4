"""`report`: render the verdict and the records. Nothing is measured or judged here."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from compression_gate.errors import CompressionGateError
from compression_gate.records.base import Record, write_text
from compression_gate.records.metrics import Benchmark, CompressionRecord, Evaluation
from compression_gate.records.params import read_params
from compression_gate.records.verdict import PIPELINE, Verdict
from compression_gate.reporters.base import Findings
from compression_gate.reporters.markdown import rendered

R = TypeVar("R", bound=Record)


def run(suite: Path) -> None:
    """Write `reports/report.md`.

    Raises:
        MetricsError: there is no verdict to render.
    """
    write_text(suite / "reports" / "report.md", rendered(read_findings(suite)))


def read_findings(suite: Path) -> Findings:
    """Read the verdict and whatever records lie beside it."""
    reports = suite / "reports"
    params, verdict = read_params(suite), Verdict.read(reports / "verdict.json")
    if any(check.metric == PIPELINE for check in verdict.checks):
        # What lies there was measured by an older run, and is not what this one found.
        return Findings(suite=suite.resolve().name, params=params, verdict=verdict)
    return Findings(
        suite=suite.resolve().name,
        params=params,
        verdict=verdict,
        compression=optional(CompressionRecord, reports / "compression.json"),
        # An adaptive test set tells its one answer and no figure.
        evaluation=None if verdict.test_reuse.mode == "adaptive" else optional(Evaluation, reports / "evaluation.json"),
        benchmark=optional(Benchmark, reports / "benchmark.json"),
    )


def optional(kind: type[R], path: Path) -> R | None:
    """A record, or None: the verdict already says what is missing."""
    try:
        return kind.read(path)
    except CompressionGateError:
        return None
