"""The reference's module in eager torch: timed as the user wrote it, or a reason why not."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import save_file

from compression_gate.artifacts.exporting import exported_artifact
from compression_gate.measurers.eager import measure_eager
from compression_gate.measurers.fresh import Conditions
from compression_gate.records.params import read_params
from compression_gate.tasks.task import open_task

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def reference(suite):
    """A suite with its reference."""
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    folder = suite.path / "models/reference"
    folder.mkdir(parents=True)
    model = task.build_model()
    save_file(model.state_dict(), folder / "model.safetensors")
    exported_artifact(model, task, params, folder, role="reference")
    return suite


def conditions(patience_s=60.0):
    inputs = {"input": np.zeros((2, 1, 8, 8), np.float32)}
    return Conditions(runtime="onnxruntime", threads=1, inputs=inputs, patience_s=patience_s)


def test_a_call_is_timed_with_its_interval(reference):
    found = measure_eager(reference.path, reference.path / "models/reference", "tensor", conditions())
    assert found.reason is None
    assert found.low <= found.value <= found.high
    assert found.samples >= 10
    assert found.unit == "ms"


SPOILT = [
    (
        "return self.out(",
        'raise ValueError("the model\'s own words")\n        return self.out(',
        "the model's own words",
    ),
    ("return self.out(", "import os; os.kill(os.getpid(), 11)\n        return self.out(", "killed by signal 11"),
    ("Linear(width * 9, 24)", "Linear(width * 9, 25)", "does not fit what task.model builds"),
]


@pytest.mark.parametrize(("old", "new", "words"), SPOILT)
def test_a_module_that_cannot_be_timed_has_a_reason(reference, old, new, words):
    reference.replace(old, new)
    folder = reference.path / "models/reference"
    found = measure_eager(reference.path, folder, "tensor", conditions())
    assert found.value is None
    assert words in found.reason


def test_a_module_that_hangs_is_waited_for_so_long(reference):
    reference.replace("return self.out(", "import time; time.sleep(600)\n        return self.out(")
    found = measure_eager(reference.path, reference.path / "models/reference", "tensor", conditions(patience_s=8))
    assert found.value is None
    assert "expected an answer within 8 s" in found.reason
