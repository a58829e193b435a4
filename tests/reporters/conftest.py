"""Finished runs, written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_run import finished

from compression_gate.selftest.finished_run import write_recorded
from compression_gate.stages import gate

__all__ = ["finished"]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A run with everything that a page may show: a baseline, curves, layers, sensitivities, calls, slices."""
    suite = write_recorded(tmp_path / "suite")
    path = suite / "reports/compression.json"
    record = json.loads(path.read_text())
    curve = [
        {"epoch": n, "loss": 1 / n, "validation_loss": 1.2 / n, "validation_quality": 0.9, "seconds": 1} for n in (1, 2)
    ]
    row = {"layer": "conv", "members": ["conv"], "method": "structured_pruning", "option": "pruning_ratio"}
    rows = [row | {"strength": n / 4, "loss_rise": n / 10, "quality_drop": n / 50} for n in (1, 2, 3)]
    table = {"weights_digest": "w", "n": 90, "metric": "accuracy", "loss": 0.5, "quality": 0.9, "seconds": 1}
    record["reference"]["layer_bytes"] = {"conv": 4000, "head": 6000}
    record["steps"][0] |= {
        "layer_bytes": {"conv": 1000, "head": 500},
        "state_bytes": 1500,
        "covered": ["conv"],
        "options": {"pruning_ratio": 0.5},
        "quality": {"accuracy": 0.88},
        "curves": {"student": curve},
        "sensitivity": [table | {"rows": rows}],
    }
    path.write_text(json.dumps(record))
    (suite / "reports/training.csv").write_text(
        "epoch,loss,validation_loss,validation_quality,seconds\n1,0.6,0.5,0.8,1.0\n2,0.3,0.4,0.9,1.0\n"
    )
    gate.run(suite)
    return suite
