"""A method of somebody else's, as CONTRIBUTING.md has it: under 30 lines of code, and the product does the rest."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from compression_gate.errors import ParamsError
from compression_gate.records.artifact import Artifact
from compression_gate.stages import compress, prepare, train

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def block():
    """The only Python on the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


@pytest.fixture
def installed(block, tmp_path, monkeypatch):
    """A package that offers it by its entry point."""
    (tmp_path / "own_rounding.py").write_text(block)
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[compression_gate.methods]\nrounding = own_rounding:DigitRounding\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def test_it_is_under_thirty_lines_of_code(block):
    assert len([line for line in block.splitlines() if line.strip()]) < 30


def test_it_is_a_step_like_any_other(suite, installed):
    """Trained, applied, measured, exported and reloaded by the real stages."""
    suite.edit("compress.steps", [{"method": "rounding", "digits": 3}, {"method": "static_quantization", "bits": 8}])
    prepare.run(suite.path)
    train.run(suite.path)
    rounding, quantization = compress.run(suite.path).steps
    assert rounding.effective
    assert rounding.covered
    assert rounding.options == {"digits": 3}
    assert quantization.effective
    assert "model.onnx" in Artifact.open(suite.path / "models/candidate").files


def test_its_bad_option_names_itself(suite, installed):
    suite.edit("compress.steps", [{"method": "rounding", "digits": 0}])
    with pytest.raises(ParamsError, match="digits: expected 1 or more and at most 23, got 0"):
        compress.run(suite.path)
