"""What the student learns, from whom, and what it leaves as it is."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.chain import factory_of, order_problems
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.features import captured, distance
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.structured_pruning import StructuredPruning
from compression_gate.modules.normalized import Normalized, unnormalized_shell
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest, weights
from compression_gate.tasks import training

MODULE = "tiny_models_of_method_tests"
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
    teacher_inputs = torch.cat([inputs for inputs in seen if len(inputs) > 2])  # two try out the memory's layout
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


@pytest.mark.parametrize("way", ["soft", "feature", "adversarial", "adversarial on features"])
def test_distillation_works_on_regression(tiny, way):
    suite = tiny_regression(tiny)
    context = suite.context()
    student = Distillation(epochs=3, alpha=1.0, **WAYS[way]).apply(suite.factory, context)
    before, after = (
        float((suite.outputs(m) - suite.outputs(suite.reference)).square().mean()) for m in (suite.factory, student)
    )
    assert after < before


def test_the_adversary_takes_one_number_an_example(tiny):
    suite = tiny_regression(tiny)
    flat = suite.task.params.model_copy(update={"model": "tiny_models_of_method_tests:one_number"})
    suite = dataclasses.replace(suite, task=dataclasses.replace(suite.task, params=flat))
    reference = suite.task.build_model()
    context = dataclasses.replace(suite.context(), reference=reference)
    Distillation(epochs=1, **WAYS["adversarial"]).apply(suite.task.build_model(), context)
    assert len(context.notes.curves["discriminator"]) == 1


@pytest.mark.parametrize("way", ["soft", "feature", "adversarial"])
def test_the_teacher_alone_teaches_where_the_task_has_no_loss(tiny, way):
    suite = tiny_regression(tiny)
    custom = suite.task.params.model_copy(update={"kind": "custom"})
    suite = dataclasses.replace(suite, task=dataclasses.replace(suite.task, params=custom))
    context = suite.context()
    Distillation(epochs=1, alpha=1.0, **WAYS[way]).apply(suite.factory, context)
    (row,) = context.notes.curves["distillation"]
    assert math.isfinite(row.loss)
    assert math.isnan(row.validation_loss)
    with pytest.raises(ParamsError, match=r"task\.loss: expected a callable\(outputs, targets\) for kind custom"):
        Distillation(epochs=1, **WAYS[way]).apply(suite.factory, context)


WAYS = {
    "soft": {},
    "hard": {"kind": "hard"},
    "feature": {"kind": "feature"},
    "adversarial": {"kind": "adversarial"},
    "adversarial on features": {"kind": "adversarial", "on": "features"},
}


@pytest.mark.parametrize("way", WAYS)
def test_training_continued_after_a_kill_ends_where_it_would_have(tiny, tmp_path, monkeypatch, way):
    """Killed in the middle of the second of three epochs: what the first left is all that counts."""
    suite, method = tiny("lenet"), Distillation(epochs=3, **WAYS[way])
    pruned = suite.apply(StructuredPruning())
    context = suite.context()
    whole = method.apply(pruned, context)
    checkpoint, steps = tmp_path / "checkpoint.pt", 0
    step = training.train_step

    def killed(*arguments):
        nonlocal steps
        steps += 1
        if steps == 12:  # of 8 an epoch
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, pruned, checkpoint=checkpoint)
    assert checkpoint.exists()
    monkeypatch.setattr(training, "train_step", step)
    again = suite.context(checkpoint=checkpoint)
    assert state_digest(method.apply(pruned, again)) == state_digest(whole)
    assert not checkpoint.exists()
    assert losses(again) == losses(context)


def losses(context):
    return {label: [row.loss for row in curve] for label, curve in context.notes.curves.items()}


@pytest.mark.parametrize("way", ["feature", "adversarial", "adversarial on features"])
@pytest.mark.parametrize("kind", ["mlp", "resnet", "mobilenet", "tokens", "transformer", "recurrent", "tied"])
def test_every_kind_teaches_every_model(tiny, kind, way):
    suite = tiny(kind)
    context = suite.context()
    student = Distillation(epochs=3, learning_rate=0.03, **WAYS[way]).apply(suite.factory, context)
    assert suite.accuracy(student) > suite.accuracy(suite.factory) + 0.2
    assert not any(module._forward_hooks for module in student.modules())
    first, *_, last = context.notes.curves["distillation"]
    assert last.loss < first.loss
    assert ("discriminator" in context.notes.curves) == (way != "feature")
    assert {name.partition(".")[0] for name, _ in student.named_parameters()} == {
        name.partition(".")[0] for name, _ in suite.factory.named_parameters()
    }


def test_features_are_drawn_to_the_teachers(tiny):
    suite = tiny("lenet")
    pruned = suite.apply(StructuredPruning(ignore=("hidden",)))
    method = {"epochs": 3, "alpha": 0.0, "learning_rate": 0.003}
    plain = suite.apply(Distillation(**method), pruned)
    hinted = suite.apply(Distillation(kind="feature", layers=(("hidden", "hidden"),), strength=30.0, **method), pruned)
    assert hidden_distance(suite, hinted) < 0.5 * hidden_distance(suite, plain)


def hidden_distance(suite, model):
    found = []
    for one in (model, suite.reference):
        with captured(one, ["hidden"]) as seen, torch.no_grad():
            one(suite.task.example_inputs(64, "test"))
        found.append(seen["hidden"])
    return float(distance(*found))


def test_the_adversary_alone_moves_the_student(tiny):
    """With alpha 1 and equal answers nothing but the discriminator is left to learn from."""
    suite = tiny("mlp")
    method = Distillation(kind="adversarial", alpha=1.0, epochs=1)
    assert state_digest(suite.apply(method)) != state_digest(suite.apply(Distillation(alpha=1.0, epochs=1)))


@pytest.mark.parametrize("way", WAYS)
def test_zeros_stay_zero_whatever_is_learned_from(tiny, way):
    suite = tiny("lenet")
    sparse = suite.apply(MagnitudePruning(sparsity=0.8))
    student = suite.apply(Distillation(epochs=1, **WAYS[way]), sparse)
    for name, weight in weights(sparse).items():
        assert bool((weights(student)[name][weight == 0] == 0).all()), name


def test_a_student_of_another_architecture_takes_the_models_place_and_can_be_saved(tiny, tmp_path):
    suite = tiny("lenet")
    steps = [
        Distillation(student={"model": f"{MODULE}:build", "model_args": {"kind": "mlp"}}, epochs=3),
        MagnitudePruning(sparsity=0.5),
    ]
    student = suite.apply(steps[1], suite.apply(steps[0]))
    assert type(student).__name__ == "Mlp"
    assert suite.accuracy(student) > 0.7
    factory = factory_of(steps, suite.factory, suite.task)
    save_model(student, factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(load_model(factory, tmp_path / "saved")), suite.outputs(student))


def test_zeros_that_a_fresh_student_begins_with_are_trained(tiny):
    suite = tiny("lenet")
    student = suite.apply(Distillation(student={"model": f"{MODULE}:zero_headed"}, epochs=1))
    assert float((student.head.weight == 0).float().mean()) < 0.1


def test_a_student_is_normalised_as_the_reference_is(tiny, tmp_path):
    suite = tiny("lenet")
    wrapped = Normalized(suite.reference, torch.tensor([0.5]), torch.tensor([2.0])).eval()
    context = type(suite.context())(task=suite.task, reference=wrapped, train=suite.params.train)
    method = Distillation(student={"model": f"{MODULE}:build", "model_args": {"kind": "mlp"}}, epochs=1)
    student = method.apply(wrapped, context)
    assert (float(student.mean), float(student.deviation)) == (0.5, 2.0)
    factory = factory_of([method], unnormalized_shell(suite.factory, 1), suite.task)
    save_model(student, factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(load_model(factory, tmp_path / "saved")), suite.outputs(student))


def test_a_student_with_other_outputs_is_refused(tiny):
    method = Distillation(student={"model": f"{MODULE}:one_output", "model_args": {"kind": "mlp"}}, epochs=1)
    with pytest.raises(CompressionError, match=r"student \(.*one_output\): expected answers .*\(N, 4\), got \(N, 1\)"):
        tiny("mlp").apply(method)


def test_a_student_after_another_step_is_refused():
    student = Distillation(student={"model": "some.models:Net"})
    (problem,) = order_problems([MagnitudePruning(sparsity=0.5), student], "steps")
    assert "steps.1: distillation cannot come after magnitude_pruning (step 0): the student" in problem


BAD = [
    ({"kind": "sofd"}, r"kind: expected one of soft, hard, feature, adversarial, got 'sofd' \(did you mean 'soft'\?\)"),
    ({"temperature": 0.0}, "temperature: expected more than 0, got 0.0"),
    ({"alpha": 1.1}, "alpha: expected 0 or more and at most 1, got 1.1"),
    ({"epochs": 0}, "epochs: expected 1 or more, got 0"),
    ({"learning_rate": -1.0}, "learning_rate: expected more than 0, got -1.0"),
    ({"strength": 0.0, "kind": "feature"}, "strength: expected more than 0, got 0.0"),
    ({"strength": 1.0}, "strength: is the factor of features or of the adversary: .* with kind soft, got 1.0"),
    (
        {"discriminator_learning_rate": 0.01, "kind": "feature"},
        "discriminator_learning_rate: is the adversary's: expected kind adversarial, got 'feature'",
    ),
    (
        {"on": "features", "kind": "feature"},
        "on: is where the adversary looks: expected kind adversarial, got 'feature'",
    ),
    (
        {"layers": (("a", "b"),)},
        "layers: are for features: expected kind feature, or adversarial on features, got kind",
    ),
    ({"student": {"weights": "a"}}, r"student\.model: expected a dotted path like 'package.module:name', got none"),
    ({"student": {"model": "a:B", "train": {}}}, r"student\.train: has no such key"),
    ({"student": {"model": "a.B"}}, r"student\.model: expected a dotted path .*, got 'a\.B'"),
    ({"kind": "feature", "teacher": ("reference", "reference")}, "teacher: expected one teacher whose layers"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        Distillation(**options)
