"""What the student learns, from whom, and what it leaves as it is."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.structured_pruning import StructuredPruning
from compression_gate.modules.surgery import state_digest, weights
from compression_gate.tasks import training

OUTPUTS, ANSWERS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.eye(6, 4) * 3


def test_the_soft_part_is_the_divergence_at_the_temperature_times_its_square():
    got = Distillation(temperature=3.0).taught(OUTPUTS, ANSWERS, classes=True)
    expected = functional.kl_div(
        functional.log_softmax(OUTPUTS / 3, 1), functional.softmax(ANSWERS / 3, 1), reduction="batchmean"
    )
    assert float(got) == pytest.approx(float(expected) * 9, rel=1e-5)


def test_the_soft_part_is_zero_for_a_student_that_answers_alike():
    assert float(Distillation().taught(ANSWERS, ANSWERS + 7, classes=True)) == pytest.approx(0, abs=1e-6)


def test_the_hard_part_takes_the_class_the_teacher_would_choose():
    got = Distillation(kind="hard").taught(OUTPUTS, ANSWERS, classes=True)
    assert float(got) == pytest.approx(float(functional.cross_entropy(OUTPUTS, ANSWERS.argmax(1))))


def test_without_classes_the_student_is_drawn_to_the_teachers_numbers():
    assert float(Distillation().taught(OUTPUTS, ANSWERS, classes=False)) == pytest.approx(
        float((OUTPUTS - ANSWERS).square().mean())
    )


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_pruned_network_recovers(tiny, kind):
    suite = tiny("resnet")
    pruned = suite.apply(StructuredPruning())
    student = suite.apply(Distillation(kind=kind, epochs=3), pruned)
    assert suite.accuracy(student) > suite.accuracy(pruned) + 0.2
    assert suite.accuracy(student) >= suite.accuracy(suite.reference) - 0.1


def test_zeros_stay_zero_and_the_rest_moves(tiny):
    suite = tiny("mlp")
    sparse = suite.apply(MagnitudePruning(sparsity=0.8))
    student = suite.apply(Distillation(epochs=1), sparse)
    for name, weight in weights(sparse).items():
        after = weights(student)[name]
        assert bool((after[weight == 0] == 0).all()), name
        assert not torch.equal(after, weight), name


def test_frozen_weights_stay_and_are_named(tiny):
    suite = tiny("mlp")
    suite.reference.first.weight.requires_grad_(False)
    context = suite.context()
    student = Distillation(epochs=1).apply(suite.reference, context)
    assert torch.equal(student.first.weight, suite.reference.first.weight)
    assert context.notes.uncovered == {"first.weight": "frozen"}


def test_the_teacher_sees_the_augmented_inputs(tiny):
    suite = tiny("lenet")
    seen = []
    hook = suite.reference.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].clone()))
    train = suite.params.train.model_copy(update={"augment": ("noise",), "epochs": 1})
    context = type(suite.context())(task=suite.task, reference=suite.reference, train=train)
    Distillation(epochs=1).apply(suite.reference, context)
    hook.remove()
    own = torch.stack(
        [suite.task.split("train").items([index])[0][0] for index in range(len(suite.task.split("train")))]
    )
    teacher_inputs = torch.cat(seen)
    assert len(teacher_inputs) >= len(own)
    assert not any(torch.equal(teacher_inputs[0], image) for image in own)


def test_hard_is_refused_where_there_are_no_classes(tiny):
    with pytest.raises(CompressionError, match=r"kind hard needs classes.*task.kind is regression: use kind soft"):
        tiny_regression(tiny).apply(Distillation(kind="hard"))


def tiny_regression(tiny):
    return tiny(
        "lenet",
        kind="regression",
        data="tiny_models_of_method_tests:regression",
        model="tiny_models_of_method_tests:one_output",
    )


def test_soft_distillation_works_on_regression(tiny):
    suite = tiny_regression(tiny)
    assert torch.isfinite(suite.outputs(suite.apply(Distillation(epochs=1)))).all()


def test_training_continued_after_a_kill_ends_where_it_would_have(tiny, tmp_path, monkeypatch):
    suite, method = tiny("mlp"), Distillation(epochs=2)
    whole = suite.apply(method)
    checkpoint, saved = tmp_path / "checkpoint.pt", training.save_checkpoint

    def killed(model, optimizer, schedule, curve, fitting):
        saved(model, optimizer, schedule, curve, fitting)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=checkpoint)
    monkeypatch.setattr(training, "save_checkpoint", saved)
    assert state_digest(suite.apply(method, checkpoint=checkpoint)) == state_digest(whole)
    assert not checkpoint.exists()


BAD = [
    ({"kind": "sofd"}, r"kind: expected one of soft, hard, feature, adversarial, got 'sofd' \(did you mean 'soft'\?\)"),
    ({"temperature": 0.0}, "temperature: expected more than 0, got 0.0"),
    ({"alpha": 1.1}, "alpha: expected 0 or more and at most 1, got 1.1"),
    ({"epochs": 0}, "epochs: expected 1 or more, got 0"),
    ({"learning_rate": -1.0}, "learning_rate: expected more than 0, got -1.0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        Distillation(**options)
