"""`train`: the reference, trained here, by the user, or adopted; whole or not there."""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gate.errors import ExportError, MetricsError, ParamsError, TaskError
from compression_gate.records.artifact import Artifact
from compression_gate.records.params import read_params
from compression_gate.records.provenance import params_digests
from compression_gate.stages import prepare, train
from compression_gate.tasks import training
from compression_gate.tasks.task import open_task

REFERENCE = "models/reference"


@pytest.fixture
def prepared(suite):
    """A suite whose data were looked at."""
    prepare.run(suite.path)
    return suite


def curve(suite):
    with (suite.path / "reports" / "training.csv").open() as file:
        return list(csv.DictReader(file))


def weights(suite):
    return load_file(suite.path / REFERENCE / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def state_dict_of(suite, seed=9):
    torch.manual_seed(seed)
    return open_task(read_params(suite.path), suite.path).build_model().state_dict()


def test_reference_is_written_whole(prepared):
    artifact = train.run(prepared.path)
    assert Artifact.open(prepared.path / REFERENCE) == artifact
    assert sorted(path.name for path in (prepared.path / REFERENCE).iterdir()) == [
        "artifact.json",
        "model.onnx",
        "model.safetensors",
    ]
    assert artifact.params_digests == params_digests("train", read_params(prepared.path))
    assert (artifact.role, artifact.shipped) == ("reference", ("model.onnx",))
    assert artifact.parameters == 8 * 9 + 8 + 16 + 72 * 24 + 24 + 24 * 3 + 3
    assert [row["epoch"] for row in curve(prepared)] == ["1", "2"]
    assert list((prepared.path / ".compression_gate" / "checkpoints").iterdir()) == []


def test_same_seed_same_digest(prepared):
    assert train.run(prepared.path).digest == train.run(prepared.path).digest


def test_exported_file_answers_as_the_weights_do(prepared):
    from compression_gate.modules.checkpoints import load_reference
    from compression_gate.runtimes.onnx_runtime import OnnxRuntime

    prepared.edit("train.normalize", True)
    train.run(prepared.path)
    task = open_task(read_params(prepared.path), prepared.path)
    inputs = task.example_inputs(16)
    model = load_reference(task, prepared.path / REFERENCE, normalize=True)
    session = OnnxRuntime().load(prepared.path / REFERENCE / "model.onnx", 1)
    with torch.no_grad():
        assert np.allclose(model(inputs).numpy(), session({"input": inputs.numpy()}), atol=1e-4)


def test_without_prepare_it_says_what_to_run(suite):
    with pytest.raises(MetricsError, match=r"data\.json: missing: run the stage that writes it"):
        train.run(suite.path)
    assert not (suite.path / "models").exists()


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_weights_are_adopted_and_nothing_is_trained(prepared, name):
    state = state_dict_of(prepared)
    (save_file if name.endswith("safetensors") else torch.save)(state, prepared.path / name)
    prepared.edit("task.weights", name)
    train.run(prepared.path)
    assert equal(weights(prepared), state)
    assert (prepared.path / "reports" / "training.csv").read_text() == (
        "epoch,loss,validation_loss,validation_quality,seconds\n"
    )


def test_model_that_comes_trained_is_taken_as_it_is(prepared):
    prepared.append(
        "\n\ndef trained():\n    model = Net()\n    nn.init.constant_(model.out.bias, 0.25)\n    return model\n"
    )
    prepared.edit("task.model", f"{prepared.module}:trained")
    prepared.edit("task.weights", "from_model")
    train.run(prepared.path)
    assert weights(prepared)["out.bias"].tolist() == [0.25] * 3
    assert curve(prepared) == []


def test_users_own_loop_trains(prepared):
    prepared.append(
        "\n\ndef fit(model, datasets, options):\n"
        "    assert {name: len(data) for name, data in datasets.items()}"
        " == {'train': 204, 'validation': 24, 'calibration': 12}\n"
        "    image, label = datasets['train'][0]\n"
        "    nn.init.constant_(model.out.bias, options.learning_rate)\n"
        "    return model\n"
    )
    prepared.edit("task.trainer", f"{prepared.module}:fit")
    train.run(prepared.path)
    assert weights(prepared)["out.bias"].tolist() == pytest.approx([0.01] * 3)


TRAINERS = [
    (
        "def fit(model):\n    return model\n",
        ParamsError,
        r"task\.trainer: .*expected a callable\(model, datasets, options\)",
    ),
    (
        "def fit(model, datasets, options):\n    return options['epochs']\n",
        TaskError,
        r"task\.trainer: .*:fit: raised TypeError: .* \(gratings_\d+\.py:\d+\): mend it",
    ),
    ("def fit(model, datasets, options):\n    pass\n", TaskError, r"task\.trainer: .*expected .*Module, got NoneType"),
]


@pytest.mark.parametrize(("code", "error", "expected"), TRAINERS)
def test_loop_that_breaks_the_contract_is_told(prepared, code, error, expected):
    prepared.append("\n\n" + code)
    prepared.edit("task.trainer", f"{prepared.module}:fit")
    with pytest.raises(error, match=expected):
        train.run(prepared.path)


# What the model answers, as it comes from its factory, and what is said.
ANSWERS = [
    ("self.out(hidden) * float('nan')", r"expected finite outputs, got 96 of 96 NaN or infinite"),
    ("self.out(hidden) / 0", r"expected finite outputs"),
    ("self.out(hidden)[:, :2]", r"more than 2 columns.*got \(32, 2\): return one score a class"),
    ("self.out(hidden).mean(0)", r"expected outputs \(N, …\) with N = 32, got \(3,\): keep the batch axis first"),
    ("self.out(hidden)[:, 0]", r"expected outputs \(N, classes\)"),
    ("'words'", r"expected a tensor, a tuple whose first item is one"),
    ("self.out(images)", r"forward\(\) of Net raised RuntimeError"),
]


@pytest.mark.parametrize(("answer", "expected"), ANSWERS)
def test_model_that_answers_wrongly_is_told_and_leaves_nothing(prepared, answer, expected):
    old = "return self.out(self.drop(torch.relu(self.hidden(maps.flatten(1)))))"
    prepared.replace(old, f"hidden = self.hidden(maps.flatten(1))\n        return {answer}")
    prepared.edit("task.weights", "from_model")
    with pytest.raises(TaskError, match=rf"task\.model: .*{expected}"):
        train.run(prepared.path)
    assert not (prepared.path / "models").exists()
    assert not (prepared.path / "reports" / "training.csv").exists()


NOT_NORMALISED = [
    ("{'images': self.images[index]}", r"by name images \(204, 1, 8, 8\) torch\.float32: "),
    ("(self.images[index] * 9).long()", r"input \(204, 1, 8, 8\) torch\.int64: "),
    ("(self.images[index], self.images[index])", r"input_0 .*, input_1 .*: "),
]


@pytest.mark.parametrize(("inputs", "expected"), NOT_NORMALISED)
def test_inputs_that_cannot_be_normalised_are_told_as_they_are(prepared, inputs, expected):
    prepared.append(f"\n\ndef item(self, index):\n    return {inputs}, int(self.targets[index])\n")
    prepared.append("\n\nGratings.__getitem__ = item\n")
    prepared.edit("train.normalize", True)
    with pytest.raises(TaskError, match=rf"train\.normalize: expected one float input .* by position, got {expected}"):
        train.run(prepared.path)


@pytest.mark.parametrize("own", ["loss", "trainer"])
@pytest.mark.parametrize("column", [":1", "0"])
def test_model_of_another_form_is_told_before_it_is_trained(prepared, own, column):
    prepared.append("\n\ndef never(*arguments):\n    raise SystemError('trained')\n")
    prepared.append(
        f"\n\nclass One(Net):\n    def forward(self, images):\n        return super().forward(images)[:, {column}]\n"
    )
    prepared.edit("task.model", f"{prepared.module}:One")
    prepared.edit(f"task.{own}", f"{prepared.module}:never")
    with pytest.raises(TaskError, match=r"task\.model: expected outputs \(N, classes\) with more than 2 columns"):
        train.run(prepared.path)


def test_weights_that_the_users_own_loop_fills_may_start_as_anything(prepared):
    prepared.append("\n\nclass Empty(Net):\n    def __init__(self):\n        super().__init__()\n")
    prepared.append("        nn.init.constant_(self.out.bias, float('nan'))\n")
    prepared.append("\n\ndef fit(model, datasets, options):\n    nn.init.zeros_(model.out.bias)\n    return model\n")
    prepared.edit("task.model", f"{prepared.module}:Empty")
    prepared.edit("task.trainer", f"{prepared.module}:fit")
    train.run(prepared.path)
    assert weights(prepared)["out.bias"].tolist() == [0.0] * 3


def test_failing_export_leaves_no_partial_reference(prepared):
    prepared.replace("maps.flatten(1)", "(maps if maps.sum().item() > 0 else -maps).flatten(1)")
    prepared.edit("task.weights", "from_model")
    with pytest.raises(ExportError):
        train.run(prepared.path)
    assert list((prepared.path / "models").iterdir()) == []


SCRIPT = """
import os, signal, sys
from pathlib import Path
from compression_gate.stages import train
from compression_gate.tasks import training
step, steps = training.train_step, iter(range(100))
def counted(*arguments):
    if next(steps) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)
training.train_step = counted
train.run(Path(sys.argv[1]))
"""


def interrupted(suite, monkeypatch):
    """Train until Ctrl-C in the second epoch, and return the checkpoint that is left."""
    step, steps = training.train_step, iter(range(100))

    def counted(*arguments):
        if next(steps) == 9:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", counted)
        with pytest.raises(KeyboardInterrupt):
            train.run(suite.path)
    assert not (suite.path / REFERENCE).exists()
    assert not (suite.path / "reports" / "training.csv").exists()
    checkpoint = suite.path / ".compression_gate" / "checkpoints" / "train.pt"
    assert checkpoint.exists()
    return checkpoint


def test_killed_training_continues_and_ends_with_the_weights_of_an_unbroken_one(prepared):
    """The process dies by SIGKILL in its second epoch, as a runner that is reclaimed would."""
    # The same weights to the bit need the same number of threads, which tests before this one may have changed here.
    same = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(prepared.path)], capture_output=True, check=False, env=same
    )
    assert answer.returncode == -signal.SIGKILL, answer.stderr.decode()
    assert not (prepared.path / REFERENCE).exists()
    checkpoint = prepared.path / ".compression_gate" / "checkpoints" / "train.pt"
    assert checkpoint.exists()
    continued = train.run(prepared.path)
    assert not checkpoint.exists()
    assert continued.digest == train.run(prepared.path).digest
    assert len(curve(prepared)) == 2


def test_training_stopped_by_hand_continues(prepared, monkeypatch):
    interrupted(prepared, monkeypatch)
    steps = []
    monkeypatch.setattr(
        training, "train_step", lambda *given, step=training.train_step: steps.append(1) or step(*given)
    )
    continued = train.run(prepared.path)
    assert len(steps) == 7
    assert continued.digest == train.run(prepared.path).digest


def test_checkpoint_of_another_source_is_not_continued(prepared, monkeypatch):
    """Between the kill and the rerun the user changed the model: its weights must not start from the old one's."""
    interrupted(prepared, monkeypatch)
    prepared.replace("nn.Linear(width * 9, 24)", "nn.Linear(width * 9, 20)")
    prepared.replace("nn.Linear(24, CLASSES)", "nn.Linear(20, CLASSES)")
    after = train.run(prepared.path)
    assert after.digest == train.run(prepared.path).digest
    assert weights(prepared)["hidden.weight"].shape == (20, 72)


def test_checkpoint_of_other_data_is_not_continued(prepared, monkeypatch):
    interrupted(prepared, monkeypatch)
    prepared.edit("prepare.allow", ["leaks"])
    record = json.loads((prepared.path / "reports" / "data.json").read_text())
    (prepared.path / "reports" / "data.json").write_text(json.dumps(record | {"digest": "0" * 64}))
    after = train.run(prepared.path)
    assert after.digest == train.run(prepared.path).digest
