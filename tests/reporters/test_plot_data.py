"""What `dvc plots` draws: small tables of the records, with their heads where there are none."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from compression_gate.pipeline.definition import DEFINITION
from compression_gate.reporters.plot_data import plot_files
from compression_gate.stages import gate, report
from compression_gate.stages.report import read_findings, with_samples


def test_steps_layers_and_models_are_those_of_the_records(whole: Path) -> None:
    files = plot_files(with_samples(read_findings(whole), whole))
    steps, layers, models = (
        list(csv.DictReader(files[f"{name}.csv"].splitlines())) for name in ("steps", "layers", "trade_off")
    )
    assert [row["step"] for row in steps] == ["0 reference", "1 structured_pruning (pruning_ratio 0.5)"]
    assert [row["state_bytes"] for row in steps] == ["10000", "1500"]
    assert {row["layer"]: row["bytes"] for row in layers} == {"conv": "1000", "head": "500"}
    assert {row["model"] for row in models} == {"reference", "baseline", "candidate"}


def test_a_cost_is_not_drawn_as_a_quality(whole: Path) -> None:
    findings = read_findings(whole)
    trade_off = findings.verdict.trade_off
    costs = trade_off.model_copy(update={"axes": trade_off.axes[1:]})
    verdict = findings.verdict.model_copy(update={"trade_off": costs})
    rows = list(csv.DictReader(plot_files(replace(findings, verdict=verdict))["trade_off.csv"].splitlines()))
    assert {row["model"]: row["quality"] for row in rows} == {"reference": "", "baseline": "", "candidate": ""}
    assert all(row["size_bytes"] for row in rows)


def test_every_output_that_dvc_expects_is_written_also_after_a_crash(whole: Path) -> None:
    gate.crashed_verdict(whole, read_findings(whole).params, {"stage": "train", "exit_code": 4, "message": "no"})
    report.run(whole)
    stage = DEFINITION["report"]
    for path in (*stage.outs, *(path for plot in stage.plots for path in plot)):
        assert (whole / path).is_file(), path


@pytest.mark.parametrize("plot", DEFINITION["report"].plots)
def test_columns_that_dvc_is_told_of_are_there(whole: Path, plot: dict) -> None:
    ((path, options),) = plot.items()
    head = plot_files(with_samples(read_findings(whole), whole))[Path(path).name].splitlines()[0].split(",")
    assert {options["x"], options["y"]} <= set(head)
