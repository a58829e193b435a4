"""A teacher's answers are kept only where they are the same every time, and under what they follow from."""

from __future__ import annotations

import importlib

import pytest
import torch

from compression_gate.methods import teacher_answers
from compression_gate.methods.teacher_answers import FOLDER, answering, content_digest
from compression_gate.tasks.calling import call

CPU = torch.device("cpu")
MODULE = "tiny_models_of_method_tests"


class Counting:
    """Counts the calls of a model."""

    def __init__(self, model):
        self.calls = 0
        model.register_forward_pre_hook(self.count)

    def count(self, module, inputs):
        self.calls += 1


def files(suite):
    return sorted(path.name for path in (suite.task.folder / FOLDER).glob("answers-*"))


@pytest.mark.parametrize("kind", ["mlp", "resnet", "tokens"])
def test_kept_answers_are_those_of_the_examples_however_they_are_shuffled(tiny, kind):
    suite = tiny(kind)
    ask = answering(suite.reference, ["head"], suite.context(), CPU)
    counting = Counting(suite.reference)
    for batch in suite.task.batches("train", 100, shuffle_seed=3):
        found = ask(batch)
        calls = counting.calls
        with torch.no_grad():
            expected = call(suite.reference, batch.inputs)
        counting.calls = calls
        assert torch.allclose(found.outputs, expected, atol=1e-5)
        assert torch.equal(found.outputs, found.features["head"])
    assert counting.calls == 0, "the teacher was asked again"


def test_the_file_is_used_again_for_the_same_teacher_and_data(tiny):
    suite = tiny("mlp")
    answering(suite.reference, [], suite.context(), CPU)
    counting = Counting(suite.reference)
    answering(suite.reference, [], suite.context(), CPU)
    assert counting.calls == 1  # one batch, to know the size
    assert len(files(suite)) == 1


def test_another_teacher_has_other_answers(tiny):
    suite = tiny("mlp")
    (batch,) = suite.task.batches("train", 1000)
    first = answering(suite.reference, [], suite.context(), CPU)(batch)
    second = answering(suite.factory, [], suite.context(), CPU)(batch)
    assert not torch.equal(first.outputs, second.outputs)
    assert len(files(suite)) == 2


def test_answers_of_code_that_was_edited_are_asked_for_anew(tiny):
    suite = tiny("mlp")
    answering(suite.reference, [], suite.context(), CPU)
    source = suite.task.folder / f"{MODULE}.py"
    source.write_text(f"{source.read_text(encoding='utf-8')}\n# Another forward.\n", encoding="utf-8")
    answering(suite.reference, [], suite.context(), CPU)
    assert len(files(suite)) == 2


def test_code_of_a_teacher_that_the_task_does_not_name_counts(tiny):
    suite = tiny("mlp")
    source = suite.task.folder / "teacher_of_its_own.py"
    source.write_text("from torch import nn\n\n\nclass Own(nn.Flatten):\n    pass\n", encoding="utf-8")
    teacher = importlib.import_module("teacher_of_its_own").Own()
    answering(teacher, [], suite.context(), CPU)
    source.write_text(f"{source.read_text(encoding='utf-8')}    # Another forward.\n", encoding="utf-8")
    answering(teacher, [], suite.context(), CPU)
    assert len(files(suite)) == 2


def test_answers_of_another_version_are_asked_for_anew(tiny, monkeypatch):
    suite = tiny("mlp")
    answering(suite.reference, [], suite.context(), CPU)
    monkeypatch.setattr(teacher_answers, "__version__", "0.0.0")
    answering(suite.reference, [], suite.context(), CPU)
    assert len(files(suite)) == 2


def test_augmented_inputs_are_asked_for_anew_and_the_notes_say_so(tiny):
    suite = tiny("lenet")
    context = suite.context()
    context = type(context)(
        task=suite.task,
        reference=suite.reference,
        train=context.train.model_copy(update={"augment": ("noise",)}),
    )
    answering(suite.reference, [], context, CPU)
    assert context.notes.remarks == [
        "the teacher is asked anew for every batch: train.augment changes the inputs (noise)"
    ]
    assert files(suite) == []


def test_a_dataset_that_augments_itself_is_asked_for_anew(tiny):
    suite = tiny("mlp")
    images = suite.task.split("train").dataset.inputs

    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return images[index] + torch.randn(()), index % 4

    object.__setattr__(suite.task.split("train"), "dataset", Noisy())
    context = suite.context()
    answering(suite.reference, [], context, CPU)
    assert "the dataset gives other inputs every time it is read" in context.notes.remarks[0]
    assert files(suite) == []


def test_padded_inputs_are_asked_for_anew(tiny):
    suite = tiny("tokens", collate=f"{MODULE}:padded")
    context = suite.context()
    answering(suite.reference, [], context, CPU)
    assert "task.collate pads" in context.notes.remarks[0]


def test_answers_too_large_to_keep_are_asked_for_anew(tiny, monkeypatch):
    suite = tiny("mlp")
    monkeypatch.setattr(teacher_answers, "LARGEST_BYTES", 1000)
    context = suite.context()
    answering(suite.reference, [], context, CPU)
    assert "they would take 8,192 bytes, more than 1,000" in context.notes.remarks[0]


def test_the_oldest_files_are_let_go_of(tiny, monkeypatch):
    monkeypatch.setattr(teacher_answers, "MOST_FILES", 1)
    suite = tiny("mlp")
    answering(suite.reference, [], suite.context(), CPU)
    before = files(suite)
    answering(suite.factory, [], suite.context(), CPU)
    assert len(files(suite)) == 1
    assert files(suite) != before


def test_the_digest_is_of_what_the_data_are(tiny):
    suite = tiny("mlp")
    before = content_digest(suite.task, 0)
    assert content_digest(suite.task, 1) == before
    suite.task.split("train").dataset.inputs[5] += 1
    assert content_digest(suite.task, 0) != before
