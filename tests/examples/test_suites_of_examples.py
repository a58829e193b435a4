"""Every example is a whole suite: its definition is up to date, its page says how it is run and what came out."""

from __future__ import annotations

from pathlib import Path

import pytest

from compression_gate.methods.chain import steps_of
from compression_gate.pipeline.definition import check_definition
from compression_gate.records.params import read_params

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("speech", "vision-mobile", "detection", "pretrained")
MOST_LINES = 60  # a screen


def test_there_are_no_others():
    assert {path.parent.name for path in EXAMPLES.glob("*/params.yaml")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_definition_names_everything_that_the_stages_read(name):
    params = read_params(EXAMPLES / name)
    check_definition(params, EXAMPLES / name)
    assert steps_of(params, EXAMPLES / name)


@pytest.mark.parametrize("name", NAMES)
def test_gate_limits_quality_bytes_and_time(name):
    metrics = {rule.metric for rule in read_params(EXAMPLES / name).gate.rules.values() if rule.level == "block"}
    assert metrics & {"accuracy", "mAP"}
    assert "compression_ratio" in metrics
    assert metrics & {"speedup", "latency_ms"}


@pytest.mark.parametrize("name", NAMES)
def test_page_fits_a_screen_and_says_how_to_run_it(name):
    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= MOST_LINES
    assert f"compression-gate run -C examples/{name}" in page


@pytest.mark.parametrize("name", NAMES)
def test_make_examples_runs_it(name):
    makefile = (EXAMPLES.parent / "Makefile").read_text(encoding="utf-8")
    line = next(line for line in makefile.splitlines() if line.startswith("EXAMPLES :="))
    assert name in line.split()
