"""A user's own weights: adopted as they are, compressed without a step of training."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("clothing")

SOME = '''"""Some of the images: reading all of them takes longer than a test may."""

from compression_gate.tasks.fashion_mnist import Images, load as load_all


def load(split):
    images, count = load_all(split), {"train": 1200, "test": 400}[split]
    return Images(images.pixels[:count], images.labels[:count], split=split, classes=images.classes)
'''


@pytest.fixture
def suite(example):
    suite = example("pretrained")
    (suite.path / "some_clothes.py").write_text(SOME)
    suite.edit(task__data="some_clothes:load")
    return suite


def test_weights_run_through_the_stages_and_nothing_is_trained(suite):
    script = importlib.import_module("train_elsewhere")
    script.write(suite.path / "weights.pt", epochs=1, count=5120)
    # Uncalibrated: the axes of 3,136 features alone would take most of the time.
    suite.steps(low_rank={"calibrated": False, "budget": 0.9})
    own = torch.load(suite.path / "weights.pt", weights_only=True)["state_dict"]
    found = suite.run()
    kept = load_file(suite.path / "models/reference/model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in own.items())
    assert (suite.path / "reports/training.csv").read_text().count("\n") == 1
    steps = json.loads((suite.path / "reports/compression.json").read_text())["steps"]
    assert [step["method"] for step in steps] == ["low_rank", "static_quantization"]
    assert not any(step["curves"] for step in steps)
    assert found.models["candidate"].metrics["accuracy"].value > 0.4
    assert found.models["candidate"].metrics["agreement"].value > 0.6


def test_missing_weights_are_named(suite):
    from compression_gate.errors import TaskError
    from compression_gate.stages import prepare, train

    prepare.run(suite.path)
    with pytest.raises(TaskError, match=r"weights\.pt: no such file"):
        train.run(suite.path)
