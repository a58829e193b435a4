"""`sensitivity`: the record on disk, and the table that is printed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from compression_gate.cli import app
from compression_gate.errors import MetricsError, ParamsError
from compression_gate.records.artifact import Artifact
from compression_gate.records.sensitivity import Sensitivity, SensitivityTable
from compression_gate.reporters.sensitivity import grids, reasons, saved
from compression_gate.stages import prepare, sensitivity, train
from compression_gate.stages.sensitivity import RECORD, Request


@pytest.fixture
def trained(suite):
    """A suite with a reference."""
    prepare.run(suite.path)
    train.run(suite.path)
    return suite


def test_the_record_holds_what_was_asked_of_every_layer(trained):
    table = sensitivity.run(trained.path, Request(methods=["magnitude_pruning"], examples=16))
    assert SensitivityTable.read(trained.path / RECORD) == table
    assert table.artifact_digest == Artifact.open(trained.path / "models/reference").digest
    assert {row.layer for row in table.rows} == {"conv", "hidden", "out"}
    assert table.n == 16


def test_the_command_prints_a_table_or_the_record(trained):
    arguments = ["sensitivity", "-C", str(trained.path), "--method", "weight_only_quantization"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "weight_only_quantization, by bits" in shown.output
    record = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(record.stdout) == json.loads((trained.path / RECORD).read_text())


BAD = [
    (Request(examples=0), ParamsError, "--examples: expected 1 or more, got 0"),
    (Request(methods=["pruning"]), ParamsError, "--method: expected one of .*got 'pruning'"),
]


@pytest.mark.parametrize(("request_", "error", "text"), BAD)
def test_a_request_that_cannot_be_is_told(suite, request_, error, text):
    with pytest.raises(error, match=text):
        sensitivity.run(suite.path, request_)


def test_without_a_reference_it_says_what_to_run(suite):
    with pytest.raises(MetricsError, match=r"artifact\.json: missing: run the stage"):
        sensitivity.run(suite.path, Request())


def row(layer, strength, **figures):
    return Sensitivity(
        layer=layer, members=(layer,), method="magnitude_pruning", option="sparsity", strength=strength, **figures
    )


def test_the_printed_table_has_layers_down_and_strengths_across():
    table = SensitivityTable(
        weights_digest="w",
        n=9,
        metric="accuracy",
        loss=0.5,
        quality=0.9,
        rows=(
            row("a", 0.9, loss_rise=0.25, quality_drop=0.1, nonzeros_saved=1200),
            row("a", 0.5, loss_rise=-0.01, quality_drop=-0.002, nonzeros_saved=700),
            row("b", 0.5, reason="no layer can be treated"),
        ),
        seconds=1,
    )
    assert grids(table) == [
        (
            "magnitude_pruning, by sparsity",
            ["layer", "0.5", "0.9", "at most saved"],
            [["a", "+0.20 (-0.010)", "−10.00 (+0.250)", "1,200 non-zeros"]],
        )
    ]
    assert reasons(table) == ["b: no layer can be treated"]


def test_what_saves_nothing_is_not_told_as_a_saving():
    assert saved([row("a", 0.5, bytes_saved=-3)]) == "–"
