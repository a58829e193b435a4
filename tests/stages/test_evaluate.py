"""`evaluate` on a tiny suite: answers of the files, joined by id; the same answers give the same bytes."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from compression_gate.errors import MeasurementError, MetricsError, StaleError
from compression_gate.gate.facts import Outcomes
from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import DataRecord, Evaluation
from compression_gate.records.params import read_params
from compression_gate.stages import evaluate
from compression_gate.stages.artifacts import exported_artifact
from compression_gate.tasks.task import open_task


def built(suite, change=None):
    """Write the data record and both models, untrained; the candidate's output weights are changed by ``change``."""
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    DataRecord(digest="data", splits={}, leaks={}).write(suite.path / "reports/data.json")
    for role in ("reference", "candidate"):
        model = task.build_model()
        if change and role == "candidate":
            change(model)
        folder = suite.path / "models" / role
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "model.safetensors")
        exported_artifact(model, task, params, folder, role=role)
    return suite


def test_files_answer_for_their_models(suite):
    record = evaluate.run(built(suite).path)
    assert record == Evaluation.read(suite.path / "reports/evaluation.json")
    assert record.n == 90
    assert record.models["reference"].metrics == record.models["candidate"].metrics
    assert record.models["candidate"].metrics["agreement"].value == 1
    assert set(record.models["candidate"].slices["recall"]) == {"class=0", "class=1", "class=2"}
    assert record.pairs["reference"]["flips"].value == 0
    assert record.absent == {"baseline": "no reference folder", "release": "no reference folder"}
    assert record.classes == ("0", "1", "2")


def test_predictions_join_by_id_and_have_no_date(suite):
    evaluate.run(built(suite).path)
    path = suite.path / "reports/predictions.npz"
    before = path.read_bytes()
    with np.load(path) as file:
        assert set(file.files) == {"ids", "target", "reference_predicted", "candidate_predicted"}
        assert len(np.unique(file["ids"])) == 90
    evaluate.run(suite.path)
    assert path.read_bytes() == before


def test_confusion_has_a_row_for_every_example(suite):
    evaluate.run(built(suite).path)
    with (suite.path / "reports/confusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90
    assert set(rows[0]) == {"actual", "predicted"}


def test_a_model_that_answers_nan_is_an_error_and_leaves_no_record(suite):
    built(suite, change=lambda model: model.out.weight.data.fill_(float("nan")))
    with pytest.raises(MeasurementError, match=r"candidate: .* NaN or infinity in 90 of 90"):
        evaluate.run(suite.path)
    assert not (suite.path / "reports/evaluation.json").exists()


def test_ids_that_occur_twice_are_an_error(suite):
    suite.replace("        self.targets = ", "        self.ids = ['same'] * count\n        self.targets = ")
    built(suite)
    with pytest.raises(MeasurementError, match="expected unique ids, got 1"):
        evaluate.run(suite.path)


def test_a_changed_file_is_stale(suite):
    built(suite)
    path = suite.path / "models/candidate/model.onnx"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(StaleError, match=r"model\.onnx"):
        evaluate.run(suite.path)


def test_a_missing_model_is_named(suite):
    built(suite)
    shutil.rmtree(suite.path / "models/reference")
    with pytest.raises(MetricsError, match="models/reference"):
        evaluate.run(suite.path)


def test_a_baseline_is_measured_and_an_absent_release_says_why(suite):
    built(suite)
    references = suite.path / ".compression_gate/references"
    shutil.copytree(suite.path / "models/candidate", references / "baseline")
    (references / "release").mkdir()
    (references / "release/absent").write_text("never released\n")
    record = evaluate.run(suite.path)
    assert set(record.models) == {"reference", "candidate", "baseline"}
    assert record.absent == {"release": "never released"}
    assert record.models["baseline"].digest == Artifact.open(references / "baseline").digest


def test_only_the_metrics_asked_for_are_produced(suite):
    suite.edit("evaluate.metrics", ["accuracy"])
    record = evaluate.run(built(suite).path)
    assert set(record.models["candidate"].metrics) == {"accuracy", "agreement", "flips"}


def test_columns_of_the_data_make_slices(suite):
    suite.replace(
        "        self.targets = ", "        self.columns = {'half': ['a', 'b'] * (count // 2)}\n        self.targets = "
    )
    record = evaluate.run(built(suite).path)
    assert record.models["candidate"].slices["accuracy"]["half=a"].n == 45
    with np.load(suite.path / "reports/predictions.npz") as file:
        assert file["column_half"].tolist() == ["a", "b"] * 45


ODD_COLUMNS = [  # as a dataset may hold them, the slices they make
    ("[1, 2] * (count // 2)", {"part=1", "part=2"}),
    ("[float('nan'), 1.5] * (count // 2)", {"part=nan", "part=1.5"}),
    ("[None, 'x'] * (count // 2)", {"part=None", "part=x"}),
    ("torch.arange(count) % 2", {"part=0", "part=1"}),
]


@pytest.mark.parametrize(("values", "slices"), ODD_COLUMNS)
def test_columns_of_any_kind_of_value_are_judged_as_text(suite, values, slices):
    suite.replace("        self.targets = ", f"        self.columns = {{'part': {values}}}\n        self.targets = ")
    record = evaluate.run(built(suite).path)
    assert set(record.models["candidate"].slices["accuracy"]) == slices | {f"class={label}" for label in range(3)}
    column = Outcomes.read(suite.path / "reports/predictions.npz").columns["part"]
    assert [(column == part.removeprefix("part=")).sum() for part in slices] == [45, 45]
