"""`report`: render the verdict and the records. Nothing is measured or judged here."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from compression_gate.errors import CompressionGateError
from compression_gate.records.base import Record, write_text
from compression_gate.records.document import Document
from compression_gate.records.metrics import Benchmark, CompressionRecord, CurvePoint, Evaluation
from compression_gate.records.params import Params, expanded_gate, read_params
from compression_gate.records.search import SearchRecord, stored_searches
from compression_gate.records.sensitivity import SensitivityTable
from compression_gate.records.verdict import PIPELINE, Point, Verdict
from compression_gate.reporters.adoption import adoptions
from compression_gate.reporters.base import Findings
from compression_gate.reporters.markdown import rendered

R = TypeVar("R", bound=Record)
PARAMS = "params.yaml"


def run(suite: Path) -> None:
    """Write `report.md`, `report.html`, `junit.xml` and what `dvc plots` draws.

    Raises:
        MetricsError: there is no verdict to render.
    """
    from compression_gate.reporters import html, junit, plot_data

    reports = suite / "reports"
    findings = with_samples(read_findings(suite), suite)
    write_text(reports / "report.md", rendered(findings))
    write_text(reports / "report.html", html.rendered(findings))
    write_text(reports / "junit.xml", junit.rendered(findings))
    for name, text in plot_data.plot_files(findings).items():
        write_text(reports / "plots" / name, text)


def with_samples(findings: Findings, suite: Path) -> Findings:
    """The findings with what only a page has room for, summed up from single examples, calls and layers."""
    from compression_gate.reporters.samples import samples_of

    reports = suite / "reports"
    if any(check.metric == PIPELINE for check in findings.verdict.checks):
        return findings
    table = optional(SensitivityTable, reports / "sensitivity.json")
    if table is not None and table.artifact_digest != findings.verdict.reference.digest:
        table = None  # it was measured of another reference
    timed = findings.verdict.bindings.get("reports/timings.npz")
    return replace(
        findings,
        samples=samples_of(reports / "predictions.npz", reports / "timings.npz", findings.evaluation, timed),
        training=curve_of(reports / "training.csv"),
        sensitivity=table,
    )


def curve_of(path: Path) -> tuple[CurvePoint, ...]:
    """The training curve; none where nothing was trained, or the file is damaged."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(
                CurvePoint.model_validate({name: value or None for name, value in row.items()})
                for row in csv.DictReader(file)
            )
    except (OSError, ValueError, csv.Error):
        return ()


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
    compression = optional(CompressionRecord, reports / "compression.json")
    recipe = compression.recipe_digest if compression else None
    searches = stored_searches(suite)
    return replace(
        found,
        compression=compression,
        adoptions=adoptions(verdict, params, recipe, searches),
        tried=() if verdict.test_reuse.mode == "adaptive" else tried_of(searches, verdict),
        # An adaptive test set tells its one answer and no figure.
        evaluation=None if verdict.test_reuse.mode == "adaptive" else optional(Evaluation, reports / "evaluation.json"),
        benchmark=optional(Benchmark, reports / "benchmark.json"),
    )


def tried_of(searches: Sequence[SearchRecord], verdict: Verdict) -> tuple[Point, ...]:
    """The fronts of searches that began at this very reference, as far as they have a figure on each axis."""
    axes = {axis.metric for axis in verdict.trade_off.axes} if verdict.trade_off else set()
    return tuple(
        Point(role=f"search {search.name}, trial {placed.trial.number}", figures=figures, on_front=False)
        for search in searches
        if search.reference_digest == verdict.reference.digest
        for placed in search.front
        if axes and axes <= (figures := placed.trial.answer.figures).keys()
    )


def folder_of(suite: Path) -> str:
    """The suite as seen from the top of its git checkout; where there is none, as from inside of it."""
    here = suite.resolve()
    top = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    return here.relative_to(top).as_posix() if top else "."


def lines_of_rules(suite: Path, params: Params) -> dict[str, int]:
    """Where each rule stands in `params.yaml`; of one in the short form, where its limit does."""
    document = Document(suite / PARAMS, PARAMS)
    if isinstance(gate := document.values.get("gate"), dict):
        expanded_gate(gate, document)
    return {name: document.line(("gate", "rules", name)) for name in params.gate.rules}


def optional(kind: type[R], path: Path) -> R | None:
    """A record, or None: the verdict already says what is missing."""
    try:
        return kind.read(path)
    except CompressionGateError:
        return None
