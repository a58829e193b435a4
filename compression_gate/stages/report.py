"""`report`: render the verdict and the records. Nothing is measured or judged here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from compression_gate.errors import CompressionGateError
from compression_gate.records.base import Record, write_text
from compression_gate.records.document import Document
from compression_gate.records.metrics import Benchmark, CompressionRecord, Evaluation
from compression_gate.records.params import Params, read_params
from compression_gate.records.verdict import PIPELINE, Verdict
from compression_gate.reporters.base import Findings
from compression_gate.reporters.markdown import rendered

R = TypeVar("R", bound=Record)
PARAMS = "params.yaml"


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
    found = Findings(
        suite=suite.resolve().name,
        folder=folder_of(suite),
        params=params,
        verdict=verdict,
        rule_lines=lines_of_rules(suite, params),
    )
    if any(check.metric == PIPELINE for check in verdict.checks):
        # What lies there was measured by an older run, and is not what this one found.
        return found
    return replace(
        found,
        compression=optional(CompressionRecord, reports / "compression.json"),
        # An adaptive test set tells its one answer and no figure.
        evaluation=None if verdict.test_reuse.mode == "adaptive" else optional(Evaluation, reports / "evaluation.json"),
        benchmark=optional(Benchmark, reports / "benchmark.json"),
    )


def folder_of(suite: Path) -> str:
    """The suite as seen from the top of its git checkout; where there is none, as from inside of it."""
    here = suite.resolve()
    top = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    return here.relative_to(top).as_posix() if top else "."


def lines_of_rules(suite: Path, params: Params) -> dict[str, int]:
    """Where each rule stands in `params.yaml`; of one in the short form, where the section does."""
    document = Document(suite / PARAMS, PARAMS)
    return {name: document.line(("gate", "rules", name)) for name in params.gate.rules}


def optional(kind: type[R], path: Path) -> R | None:
    """A record, or None: the verdict already says what is missing."""
    try:
        return kind.read(path)
    except CompressionGateError:
        return None
