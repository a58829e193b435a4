"""Who may teach: the reference, a model with its weights, one that is trained for it, and several at once."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from compression_gate.errors import CompressionError, ParamsError, TaskError
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.teachers import FOLDER, open_teacher
from compression_gate.modules.normalized import Normalized
from compression_gate.modules.surgery import state_digest
from compression_gate.modules.weights_file import save_weights
from compression_gate.tasks import training

MODULE = "tiny_models_of_method_tests"
LENET = {"model": f"{MODULE}:build", "model_args": {"kind": "lenet"}}
TRAINED = {**LENET, "train": {"epochs": 1, "seed": 3}}


@pytest.fixture
def suite(tiny):
    return tiny("mlp")


def other_teacher(tiny, path, suffix=".safetensors"):
    """A trained LeNet's weights in the suite's folder."""
    reference = tiny("lenet").reference
    file = path / f"teacher{suffix}"
    if suffix == ".safetensors":
        save_weights(reference, file)
    else:
        torch.save({"state_dict": reference.state_dict()}, file)
    return reference, {**LENET, "weights": file.name}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_model_by_dotted_path_teaches_with_its_weights(tiny, suite, tmp_path, suffix):
    reference, value = other_teacher(tiny, tmp_path, suffix)
    teacher = open_teacher(value, suite.context())
    assert state_digest(teacher) == state_digest(reference)
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_a_teacher_of_another_architecture_teaches(tiny, suite, tmp_path):
    _, value = other_teacher(tiny, tmp_path)
    context = suite.context()
    student = Distillation(teacher=value, epochs=1, alpha=1.0).apply(suite.factory, context)
    assert suite.accuracy(student) > suite.accuracy(suite.factory) + 0.2
    assert any("of 64 validation examples right" in remark for remark in context.notes.remarks)


def test_several_teachers_are_averaged(tiny, suite, tmp_path):
    reference, value = other_teacher(tiny, tmp_path)
    teacher = open_teacher(["reference", value], suite.context())
    expected = (suite.outputs(suite.reference) + suite.outputs(reference)) / 2
    assert torch.allclose(suite.outputs(teacher), expected, atol=1e-6)


def test_a_teacher_sees_inputs_normalised_as_the_reference_does(tiny, suite, tmp_path):
    reference, value = other_teacher(tiny, tmp_path)
    context = suite.context()
    wrapped = Normalized(suite.reference, torch.tensor([0.5]), torch.tensor([2.0])).eval()
    context = type(context)(task=suite.task, reference=wrapped, train=context.train)
    inputs = suite.task.example_inputs(4)
    with torch.no_grad():
        assert torch.equal(open_teacher(value, context)(inputs), reference((inputs - 0.5) / 2))


def test_a_file_with_normalisation_of_its_own_brings_it(tiny, suite, tmp_path):
    reference, value = other_teacher(tiny, tmp_path)
    own = Normalized(reference, torch.tensor([0.25]), torch.tensor([3.0])).eval()
    save_weights(own, tmp_path / "teacher.safetensors")
    inputs = suite.task.example_inputs(4)
    with torch.no_grad():
        assert torch.equal(open_teacher(value, suite.context())(inputs), own(inputs))


def test_a_teacher_is_trained_by_its_own_block_once(suite, monkeypatch):
    context = suite.context()
    first = open_teacher(TRAINED, context)
    assert [len(curve) for curve in context.notes.curves.values()] == [1]
    assert len(list((suite.task.folder / FOLDER).glob("*.safetensors"))) == 1

    def never(*arguments, **more):
        raise AssertionError("trained again")

    monkeypatch.setattr("compression_gate.methods.teachers.fit", never)
    again = suite.context()
    assert state_digest(open_teacher(TRAINED, again)) == state_digest(first)
    assert again.notes.curves == context.notes.curves
    assert again.notes.remarks == [
        f"teacher ({MODULE}:build): trained earlier on the same data, used again",
    ]


CHANGES = {
    "another seed": lambda suite: ({**LENET, "train": {"epochs": 1, "seed": 4}}, None),
    "another argument": lambda suite: ({**TRAINED, "model_args": {"kind": "resnet"}}, None),
    "other data": lambda suite: (TRAINED, suite.task.split("train").dataset.inputs.__setitem__(0, 0.0)),
    "other code": lambda suite: (TRAINED, append(suite.task.folder / f"{MODULE}.py", "\n# changed\n")),
}


def append(path, text):
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_trained_teacher_follows_from_trains_it_anew(suite, change):
    open_teacher(TRAINED, suite.context())
    open_teacher(CHANGES[change](suite)[0], suite.context())
    assert len(list((suite.task.folder / FOLDER).glob("*.safetensors"))) == 2


def test_without_a_model_the_tasks_own_is_trained(suite):
    teacher = open_teacher({"train": {"epochs": 1, "seed": 5}}, suite.context())
    assert type(teacher) is type(suite.reference)
    assert state_digest(teacher) != state_digest(suite.reference)


def test_training_of_a_teacher_is_continued_after_a_kill(suite, tmp_path, monkeypatch):
    value = {**LENET, "train": {"epochs": 2}}
    whole = state_digest(open_teacher(value, suite.context()))
    for path in (suite.task.folder / FOLDER).iterdir():
        path.unlink()
    saved = training.save_checkpoint

    def killed(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        open_teacher(value, suite.context(checkpoint=tmp_path / "step.pt"))
    monkeypatch.setattr(training, "save_checkpoint", saved)
    assert state_digest(open_teacher(value, suite.context(checkpoint=tmp_path / "step.pt"))) == whole


def test_a_teacher_with_other_classes_is_refused_by_name(suite):
    value = {"model": f"{MODULE}:one_output", "model_args": {"kind": "mlp"}, "weights": "from_model"}
    message = (
        rf"teacher \({MODULE}:one_output\): expected answers like the reference's, \(N, 4\), got \(N, 1\): "
        "a teacher of the same classes is needed"
    )
    with pytest.raises(CompressionError, match=message):
        open_teacher(value, suite.context())


FILES = [  # what is in the folder, message
    (None, r"teacher\.1\.weights: .*teacher\.safetensors: no such file"),
    ({"other": torch.ones(3)}, r"teacher\.1\.weights: .*not in the model: other"),
]


@pytest.mark.parametrize(("state", "message"), FILES)
def test_weights_that_do_not_fit_are_told_with_their_key(suite, tmp_path, state, message):
    if state is not None:
        save_file(state, tmp_path / "teacher.safetensors")
    with pytest.raises(TaskError, match=message):
        open_teacher(["reference", {**LENET, "weights": "teacher.safetensors"}], suite.context())


def test_a_pickle_that_would_run_code_is_refused(suite, tmp_path):
    torch.save(suite.reference, tmp_path / "teacher.pt")
    with pytest.raises(TaskError, match=r"teacher\.weights: .*loading it would run its code"):
        open_teacher({**LENET, "weights": "teacher.pt"}, suite.context())


def test_a_path_that_leads_nowhere_is_told_with_its_key(suite):
    with pytest.raises(ParamsError, match=r"teacher\.model: expected something to import at 'nowhere:Net'"):
        open_teacher({"model": "nowhere:Net", "weights": "from_model"}, suite.context())


BAD = [
    ("referance", r"teacher: expected 'reference', or a mapping of model, model_args and weights or train"),
    ([], r"teacher: expected 1 to 16 teachers, got 0"),
    ({"model": "a:B"}, r"teacher: expected exactly one of weights, train, got none"),
    ({"weights": "a", "train": {}}, r"teacher: expected exactly one of weights, train, got weights and train"),
    ({"modle": "a:B"}, r"teacher\.modle: has no such key: .* \(did you mean 'model'\?\)"),
    ({"model": "a.B", "train": {}}, r"teacher\.model: expected a dotted path .*, got 'a\.B'"),
    ({"model": 3, "train": {}}, r"teacher\.model: expected a text, got 3"),
    (
        ["reference", {"train": {"epoch": 3}}],
        r"teacher\.1\.train\.epoch: expected one of .* \(did you mean 'epochs'\?\)",
    ),
    ({"train": {"epochs": -1}}, r"teacher\.train\.epochs: expected greater than or equal to 0, got -1"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_what_cannot_teach_is_refused_by_its_key(value, message):
    with pytest.raises(ParamsError, match=message):
        Distillation(teacher=value)
