"""DVC itself, on a run that it tracks: its metrics, plots and experiments show our figures, and how they differ."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from repositories import git

from compression_gate.pipeline.definition import as_dvc_yaml
from compression_gate.pipeline.dvc import dvc
from compression_gate.pipeline.state import prepare_state
from compression_gate.records.params import read_params
from compression_gate.stages import gate, init, report


def told(suite: Path, *words: str) -> str:
    done: subprocess.CompletedProcess[str] = dvc(words, suite)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def tracked(whole: Path) -> Path:
    """A run that was committed, and a second one in the workspace: a slower candidate, a layer less."""
    pytest.importorskip("dvc")
    params = read_params(whole)
    prepare_state(whole, params)
    (whole / ".compression_gate/references/release").mkdir(parents=True)
    (whole / "dvc.yaml").write_text(as_dvc_yaml(params, whole))
    for name in ("reports/confusion.csv", "reports/pytest_benchmark.json"):
        (whole / name).write_text("actual,predicted\n1,1\n" if name.endswith("csv") else "{}")
    gate.run(whole)
    report.run(whole)
    git(whole, "init", "-q", "-b", "main")
    init.ignore(whole, [])
    told(whole, "init", "-q")
    told(whole, "commit", "-q", "-f")
    git(whole, "add", "-A")
    git(whole, "commit", "-q", "-m", "first")
    path = whole / "reports/benchmark.json"
    record = json.loads(path.read_text())
    record["models"]["candidate"]["figures"]["latency_ms"]["value"] = 0.5
    path.write_text(json.dumps(record))
    path = whole / "reports/compression.json"
    record = json.loads(path.read_text())
    record["steps"][0]["layer_bytes"] = {"conv": 700}
    path.write_text(json.dumps(record))
    gate.run(whole)
    report.run(whole)
    return whole


@pytest.mark.slow
def test_dvc_shows_figures_plots_and_experiments(tracked: Path) -> None:
    found = json.loads(told(tracked, "metrics", "diff", "--json"))["reports/metrics.json"]
    assert found["candidate.latency_ms"] == {"old": 0.1, "new": 0.5, "diff": pytest.approx(0.4)}
    plots = json.loads(told(tracked, "plots", "diff", "HEAD", "--json"))["data"]
    values = {path: found[0]["content"]["data"]["values"] for path, found in plots.items() if found}
    layers = {(row["rev"], row["layer"]): row["bytes"] for row in values["reports/plots/layers.csv"]}
    assert layers == {("HEAD", "conv"): "1000", ("HEAD", "head"): "500", ("workspace", "conv"): "700"}
    assert {"reports/training.csv", "reports/plots/steps.csv", "reports/plots/trade_off.csv"} <= values.keys()
    shown = json.loads(told(tracked, "exp", "show", "--json"))
    workspace = next(row for row in shown if row["rev"] == "workspace")
    assert workspace["data"]["metrics"]["reports/metrics.json"]["data"]["candidate"]["latency_ms"] == 0.5
