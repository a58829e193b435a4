"""`evaluate` on a tiny suite: answers of the files, joined by id; the same answers give the same bytes."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from compression_gate.artifacts.exporting import exported_artifact
from compression_gate.errors import MeasurementError, MetricsError, StaleError
from compression_gate.gate.facts import Outcomes
from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import DataRecord, Evaluation
from compression_gate.records.params import read_params
from compression_gate.records.provenance import params_digests
from compression_gate.stages import evaluate
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
    assert record.params_digests == params_digests("evaluate", read_params(suite.path))
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


OTHER_COLUMNS = ["['age', 'site']", "torch.arange(4)", "lambda: 3"]  # names of features, say


@pytest.mark.parametrize("columns", OTHER_COLUMNS)
def test_columns_that_hold_no_values_by_name_make_no_slices(suite, columns):
    suite.replace("        self.targets = ", f"        self.columns = {columns}\n        self.targets = ")
    record = evaluate.run(built(suite).path)
    assert set(record.models["candidate"].slices["accuracy"]) == {f"class={label}" for label in range(3)}


def test_columns_may_be_a_table(suite):
    """A data frame is no mapping, and is neither true nor false."""
    suite.append("\n\nclass Table(dict):\n    def __bool__(self):\n        raise ValueError('ambiguous')\n")
    suite.replace("        self.targets = ", HALVES.replace("{'half'", "Table({'half'").replace("2)}", "2)})"))
    record = evaluate.run(built(suite).path)
    assert {"half=a", "half=b"} < set(record.models["candidate"].slices["accuracy"])


BAD_COLUMNS = ["[1, 2]", "[[1]] * count", "[[1], [2, 3]] * (count // 2)", "3"]


@pytest.mark.parametrize("values", BAD_COLUMNS)
def test_a_column_without_a_value_for_each_example_is_named(suite, values):
    suite.replace("        self.targets = ", f"        self.columns = {{'part': {values}}}\n        self.targets = ")
    with pytest.raises(MeasurementError, match=r"task\.data: column 'part': expected 90 values, one an example, got"):
        evaluate.run(built(suite).path)


NAMES = ("gaussian_noise", "brightness", "shift", "dropout")
TASK_METRICS = {"accuracy", "precision", "recall", "f1"}
HALVES = "        self.columns = {'half': ['a', 'b'] * (count // 2)}\n        self.targets = "


def coarser(model):
    """Round a model's weights, so that it answers some examples in another way."""
    for weights in model.parameters():
        weights.data = (weights.data * 6).round() / 6


def read_arrays(suite):
    with np.load(suite.path / "reports/predictions.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def disturbed(suite):
    """A suite whose models are asked under every perturbation, and whose data have a column."""
    suite.edit("evaluate.perturbations", ["gaussian_noise", {"brightness": 0.3}, {"shift": 0.25}, "dropout"])
    suite.replace("        self.targets = ", HALVES)
    return built(suite, change=coarser)


def test_every_model_is_measured_under_every_perturbation(disturbed):
    references = disturbed.path / ".compression_gate/references"
    shutil.copytree(disturbed.path / "models/candidate", references / "baseline")
    record = evaluate.run(disturbed.path)
    conditions = {f"perturbation={name}" for name in NAMES}
    groups = {"class=0", "class=1", "class=2", "half=a", "half=b", *conditions}
    for model in record.models.values():
        assert set(model.slices) == {*TASK_METRICS, "agreement", "flips"}
        assert all(set(figures) == groups for figures in model.slices.values())
        assert all(figures["perturbation=shift"].n == 90 for figures in model.slices.values())
    assert set(record.pair_slices) == set(record.pairs) == {"reference", "baseline"}
    assert all(figures.keys() == groups for pair in record.pair_slices.values() for figures in pair.values())
    roles = ("reference", "candidate", "baseline")
    expected = {f"{name}@{role}_predicted" for name in NAMES for role in roles} | {
        f"{role}_predicted" for role in roles
    }
    assert set(read_arrays(disturbed)) == expected | {"ids", "target", "column_half"}


def test_slices_are_what_the_predictions_say(disturbed):
    record = evaluate.run(disturbed.path)
    arrays = read_arrays(disturbed)
    target = arrays["target"]
    parts = {f"class={label}": ("", target == label) for label in range(3)}
    parts |= {f"half={value}": ("", arrays["column_half"] == value) for value in "ab"}
    parts |= {f"perturbation={name}": (f"{name}@", target >= 0) for name in NAMES}
    for part, (prefix, inside) in parts.items():
        candidate, reference = (arrays[f"{prefix}{role}_predicted"][inside] for role in ("candidate", "reference"))
        before, after = reference == target[inside], candidate == target[inside]
        expected = {
            "accuracy": after.mean(),
            "agreement": (candidate == reference).mean(),
            "flips": (before & ~after).mean() + (~before & after).mean(),
        }
        for metric, value in expected.items():
            figure = record.models["candidate"].slices[metric][part]
            assert (figure.value, figure.n) == (pytest.approx(value), inside.sum()), (metric, part)
    assert record.pair_slices["reference"] == {
        metric: record.models["candidate"].slices[metric] for metric in ("agreement", "flips")
    }
    assert any((arrays[f"{name}@candidate_predicted"] != arrays["candidate_predicted"]).any() for name in NAMES)


def test_disturbed_inputs_are_the_same_in_every_run(disturbed):
    before = evaluate.run(disturbed.path)
    assert evaluate.run(disturbed.path) == before


def test_a_model_never_flips_against_itself(disturbed):
    record = evaluate.run(disturbed.path)
    reference = record.models["reference"]
    assert {figure.value for figure in reference.slices["flips"].values()} == {0}
    assert {figure.value for figure in reference.slices["agreement"].values()} == {1}


def test_flips_are_what_was_lost_and_won(suite):
    record = evaluate.run(built(suite, change=coarser).path)
    pair = record.pairs["reference"]
    assert pair["flips"].value == pytest.approx(pair["lost"].value + pair["won"].value)
    assert pair["flips"].value > 0
    assert record.models["candidate"].metrics["flips"] == pair["flips"]
    assert record.models["candidate"].metrics["agreement"] == pair["agreement"]


def test_a_class_without_examples_has_no_flips_and_a_reason(suite):
    suite.replace("% CLASSES", "% 2")
    record = evaluate.run(built(suite).path)
    figure = record.pair_slices["reference"]["flips"]["class=2"]
    assert (figure.value, figure.n, figure.reason) == (None, 0, "no test example of class 2")


def test_a_column_may_not_be_named_as_perturbations_are(disturbed):
    disturbed.replace("'half'", "'perturbation'")
    with pytest.raises(MeasurementError, match="column 'perturbation': expected another name"):
        evaluate.run(disturbed.path)


def test_scores_of_a_custom_task_are_taken_under_perturbations_too(suite):
    suite.append("\n\ndef score(outputs, targets):\n    return {'margin': outputs.max(1).values}\n")
    suite.edit("task.kind", "custom")
    suite.edit("task.scorer", f"{suite.module}:score")
    suite.edit("evaluate.perturbations", ["brightness"])
    record = evaluate.run(built(suite).path)
    scores = read_arrays(suite)["brightness@candidate_score_margin"]
    assert record.models["candidate"].slices["margin"]["perturbation=brightness"].value == pytest.approx(scores.mean())
    assert record.pairs == record.pair_slices == {}


def test_token_ids_cannot_be_disturbed(suite):
    suite.replace("return self.images[index]", "return (self.images[index] * 9).long()")
    suite.replace("self.conv(images)", "self.conv(images.float())")
    suite.edit("evaluate.perturbations", ["gaussian_noise"])
    with pytest.raises(MeasurementError, match=r"evaluate\.perturbations: gaussian_noise: .* input torch\.int64"):
        evaluate.run(built(suite).path)
