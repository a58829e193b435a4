"""What `dvc plots show` and `dvc plots diff` draw: small tables of what the records hold."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.reporters import record_tables
from compression_gate.reporters.base import Findings

Row = Sequence[object]


def plot_files(findings: Findings) -> Mapping[str, str]:
    """File name -> CSV, of the head alone where a record is missing: DVC asks for every output."""
    return {
        "steps.csv": written(("step", "state_bytes", "macs", "nonzeros", "quality"), step_rows(findings)),
        "layers.csv": written(("layer", "bytes"), layer_rows(findings)),
        "trade_off.csv": written(("model", "size_bytes", "latency_ms", "quality"), trade_off_rows(findings)),
        "latency.csv": written(("latency_ms", "share", "model"), latency_rows(findings)),
    }


def step_rows(findings: Findings) -> Iterable[Row]:
    """Each step of the recipe behind the reference, numbered so that a step that comes twice stays two."""
    record = findings.compression
    if record is None:
        return
    quality = next(iter(record.reference.quality), "")
    steps = (record.reference, *record.steps)
    for number, (step, name) in enumerate(zip(steps, record_tables.step_names(findings), strict=True)):
        yield f"{number} {name}", step.state_bytes, step.macs, step.nonzeros, step.quality.get(quality)


def layer_rows(findings: Findings) -> Iterable[Row]:
    """Bytes of each layer's weights behind the last step."""
    record = findings.compression
    if record is not None and record.steps:
        yield from record.steps[-1].layer_bytes.items()


def trade_off_rows(findings: Findings) -> Iterable[Row]:
    """Every model of the run; the quality is the first axis of the trade-off, where one was measured."""
    found = findings.verdict.trade_off
    if found is None:
        return
    first = found.axes[0].metric
    quality = first if kind_of(first) in QUALITY else ""
    for point in found.points:
        yield point.role, *(point.figures.get(name) for name in ("size_bytes", "latency_ms", quality))


def latency_rows(findings: Findings) -> Iterable[Row]:
    """Shares of single calls, the candidate's and that of the first model it was timed against."""
    calls = findings.samples.calls if findings.samples else {}
    for role, pair in list(calls.items())[:1]:
        for name, found in zip((role, "candidate"), pair, strict=True):
            for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
                yield f"{(low * high) ** 0.5:.6g}", f"{count / found.n:.6g}", name


def written(head: Sequence[str], rows: Iterable[Row]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
