"""`compress.target`: a chain is chosen, carried out, measured on its file, and told; or the nearest miss is."""

from __future__ import annotations

import pytest

from compression_gate.artifacts import recipe_check
from compression_gate.artifacts.target import distance
from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.static_quantization import StaticQuantization
from compression_gate.records.artifact import Artifact
from compression_gate.records.choice import Tried
from compression_gate.records.metrics import CompressionRecord
from compression_gate.records.params import read_params
from compression_gate.stages import compress, prepare, train


@pytest.fixture
def trained(suite):
    """A suite whose reference is large enough that its weights, not the graph, make up its file."""
    suite.edit("task.model_args", {"width": 96})
    suite.edit("train.epochs", 3)
    prepare.run(suite.path)
    train.run(suite.path)
    suite.edit("compress", {"target": {"compression_ratio": 2.5, "max_accuracy_drop": 0.1}})
    return suite


def test_the_first_rung_that_meets_the_target_is_taken_and_told_whole(trained):
    record = compress.run(trained.path)
    read = CompressionRecord.read(trained.path / "reports/compression.json")
    assert read.model_dump(mode="json") == record.model_dump(mode="json")
    choice = record.choice
    (first,) = choice.tried
    assert (choice.chosen, first.name, first.reason) == ("8 bits", "8 bits", None)
    reference, candidate = (Artifact.open(trained.path / "models" / role) for role in ("reference", "candidate"))
    assert first.size_bytes == candidate.size_bytes == record.size_bytes
    assert first.compression_ratio == reference.state_bytes / candidate.size_bytes >= 2.5
    assert first.accuracy_drop == pytest.approx(choice.reference_accuracy - first.accuracy)
    assert choice.n == 24
    assert [step.method for step in record.steps] == [step["method"] for step in first.steps]
    assert any("Conv2d" in fact for fact in choice.facts)


def test_the_chosen_steps_may_be_copied_and_give_the_same_candidate(trained):
    chosen = compress.run(trained.path)
    before = Artifact.open(trained.path / "models/candidate")
    steps = chosen.model_dump(mode="json")["choice"]["tried"][-1]["steps"]
    trained.edit("compress", {"steps": steps})
    compress.run(trained.path)
    after = Artifact.open(trained.path / "models/candidate")
    assert after.params_digests["compress"] != before.params_digests["compress"]
    assert after.model_copy(update={"params_digests": before.params_digests}) == before


def test_a_ratio_that_integers_cannot_reach_takes_channels_and_training(trained):
    trained.edit("compress.target", {"compression_ratio": 7, "max_accuracy_drop": 0.3, "max_epochs": 12})
    record = compress.run(trained.path)
    assert record.choice.tried[0].reason == "its file would not be 7 × smaller"
    assert record.size_bytes * 7 <= Artifact.open(trained.path / "models/reference").state_bytes
    assert sum(one.epochs for one in record.choice.tried) <= 12
    assert compress.run(trained.path).choice == record.choice


def test_epochs_are_never_more_than_allowed(trained):
    trained.edit("compress.target", {"compression_ratio": 60, "max_accuracy_drop": 0.0, "max_epochs": 0})
    with pytest.raises(CompressionError, match=r"compress\.target: expected 60 × smaller .*got no chain") as caught:
        compress.run(trained.path)
    assert "epoch" in str(caught.value) or "would not be 60 × smaller" in str(caught.value)
    assert not (trained.path / "models/candidate").exists()


def test_the_nearest_miss_is_named_with_its_figures(trained, monkeypatch):
    monkeypatch.setattr("compression_gate.artifacts.target.MARGIN", 1.5)
    trained.edit("compress.target", {"compression_ratio": 3.9, "max_accuracy_drop": 0.1, "max_epochs": 0})
    with pytest.raises(CompressionError, match=r"nearest was .*: [\d,]+ bytes, \d\.\d+ × smaller, .* points lost"):
        compress.run(trained.path)


def test_a_rung_that_was_finished_before_a_kill_is_not_made_again(trained, monkeypatch):
    made, whole, measure = [], StaticQuantization.apply, compress.predict

    def counted(method, model, context):
        if context.checkpoint is not None:  # else only its size is asked for
            made.append(method.bits)
        return whole(method, model, context)

    def killed(session, task, *splits):
        if made:
            raise KeyboardInterrupt
        return measure(session, task, *splits)

    monkeypatch.setattr(StaticQuantization, "apply", counted)
    monkeypatch.setattr(compress, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        compress.run(trained.path)
    monkeypatch.setattr(compress, "predict", measure)
    assert compress.run(trained.path).choice.chosen == "8 bits"
    assert made == [8]


FAR = Tried(name="a", why="b", compression_ratio=10.0, accuracy_drop=0.03)


@pytest.mark.parametrize(
    ("figures", "expected"), [({}, 3.0), ({"compression_ratio": 20.0}, 2.0), ({"accuracy_drop": 0.0}, 1.0)]
)
def test_distance_counts_both_ends_in_shares_of_what_was_asked_for(figures, expected):
    assert distance(FAR.model_copy(update=figures), 20, 0.01) == pytest.approx(expected)


@pytest.mark.parametrize("given", [{}, {"compression_ratio": 4, "size_bytes": 900}])
def test_a_target_has_one_measure_of_size(suite, given):
    suite.edit("compress", {"target": {"max_accuracy_drop": 0.01, **given}})
    with pytest.raises(ParamsError, match="expected exactly one of compression_ratio and size_bytes"):
        read_params(suite.path)


def test_bytes_are_a_target_as_a_ratio_is(trained):
    state = Artifact.open(trained.path / "models/reference").state_bytes
    trained.edit("compress.target", {"size_bytes": int(state / 2.5), "max_accuracy_drop": 0.1})
    record = compress.run(trained.path)
    assert record.choice.chosen == "8 bits"
    assert record.choice.compression_ratio == pytest.approx(2.5, rel=1e-3)


def test_a_coded_file_is_trained_to_the_bytes_that_were_asked_for(trained):
    state = Artifact.open(trained.path / "models/reference").state_bytes
    most = int(state / 40)
    trained.edit("compress", {"target": {"size_bytes": most, "max_accuracy_drop": 0.6}, "format": "coded"})
    record = compress.run(trained.path)
    assert record.choice.chosen == "priced bits"
    assert 0.9 * most < record.size_bytes <= most


@pytest.mark.parametrize("other", [{"steps": [{"method": "distillation"}]}, {"recipe": "best.yaml"}])
def test_a_target_beside_steps_or_a_recipe_is_refused(suite, other):
    suite.edit("compress", {"target": {"compression_ratio": 4, "max_accuracy_drop": 0.01}, **other})
    with pytest.raises(ParamsError, match=r"params\.yaml:\d+: compress: has both .* and target: keep one of them"):
        read_params(suite.path)


BAD = [
    ({"compression_ratio": 1}, "compression_ratio"),
    ({"compression_ratio": None, "size_bytes": 0}, "size_bytes"),
    ({"max_accuracy_drop": 1.0}, "max_accuracy_drop"),
    ({"max_epochs": -1}, "max_epochs"),
    ({"ratio": 3}, "ratio"),
]


@pytest.mark.parametrize(("change", "named"), BAD)
def test_a_target_that_cannot_be_names_its_key(suite, change, named):
    suite.edit("compress", {"target": {"compression_ratio": 4, "max_accuracy_drop": 0.01, **change}})
    with pytest.raises(ParamsError, match=rf"params\.yaml:\d+: compress\.target\.{named}: "):
        read_params(suite.path)


def test_a_task_without_an_accuracy_is_told_before_anything_is_trained(suite):
    suite.edit("compress", {"target": {"compression_ratio": 4, "max_accuracy_drop": 0.01}})
    suite.edit("task.kind", "regression")
    suite.edit("gate", {"rules": {}})
    with pytest.raises(ParamsError, match=r"compress\.target\.max_accuracy_drop: expected task\.kind classification"):
        recipe_check.check(read_params(suite.path), suite.path)
