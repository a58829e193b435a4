"""Several recipes as one model: what each member is, what the whole answers, and what is refused."""

from __future__ import annotations

import pytest
import torch

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.chain import built, factory_of, order_problems, recipe_of
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.ensemble import Ensemble
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.structured_pruning import StructuredPruning
from compression_gate.methods.weight_sharing import WeightSharing
from compression_gate.modules.fused import Fused
from compression_gate.modules.norms import reestimate
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest
from compression_gate.records.recipe import Recipe
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.runtimes.torch_eager import TorchEager
from compression_gate.tasks import training
from compression_gate.tasks.calling import named

MODULE = "tiny_models_of_method_tests"
PRUNED = {"method": "structured_pruning", "pruning_ratio": 0.5}
SPARSE = {"method": "magnitude_pruning", "sparsity": 0.5}
TAUGHT = {"method": "distillation", "epochs": 1}
SHARED = {"method": "weight_sharing", "bits": 4}
INTEGERS = {"method": "static_quantization"}
OTHER = {**TAUGHT, "student": {"model": f"{MODULE}:build", "model_args": {"kind": "mlp"}}}


def parameters(model):
    return sum(weight.numel() for weight in model.parameters())


def test_fused_answers_with_the_mean_of_what_each_recipe_gives(tiny):
    suite = tiny("lenet")
    fused = suite.apply(Ensemble(members=((PRUNED,), (SPARSE,))))
    expected = [suite.apply(StructuredPruning()), suite.apply(MagnitudePruning(sparsity=0.5))]
    mean = sum(suite.outputs(member) for member in expected) / 2
    assert torch.allclose(suite.outputs(fused), mean, atol=1e-6)
    assert parameters(fused) == sum(map(parameters, expected))


def test_members_start_from_the_model_that_is_given(tiny):
    suite = tiny("lenet")
    pruned = suite.apply(StructuredPruning())
    fused = suite.apply(Ensemble(members=((SPARSE,), (TAUGHT,))), pruned)
    assert parameters(fused) == 2 * parameters(pruned)


def test_norms_are_taken_anew_behind_every_step_of_a_member(tiny):
    suite = tiny("resnet")
    fused = suite.apply(Ensemble(members=((SPARSE, SHARED), (SHARED,))))
    sparse = suite.apply(MagnitudePruning(sparsity=0.5))
    reestimate(sparse, suite.task, seed=suite.params.train.seed)
    shared = suite.apply(WeightSharing(bits=4), sparse)
    reestimate(shared, suite.task, seed=suite.params.train.seed)
    assert state_digest(fused.members[0]) == state_digest(shared)


def test_equal_recipes_that_train_give_members_of_seeds_of_their_own(tiny):
    suite = tiny("mlp")
    fused = suite.apply(Ensemble(members=((TAUGHT,), (TAUGHT,))))
    assert state_digest(fused.members[0]) == state_digest(suite.apply(Distillation(epochs=1)))
    assert state_digest(fused.members[0]) != state_digest(fused.members[1])


def test_members_that_come_out_equal_are_refused(tiny):
    with pytest.raises(CompressionError, match=r"members 0 and 2 came out equal: averaging them changes nothing"):
        tiny("mlp").apply(Ensemble(members=((PRUNED,), (SPARSE,), (PRUNED,))))


def test_what_each_member_met_is_noted_under_its_name(tiny):
    suite = tiny("lenet")
    context = suite.context()
    fused = Ensemble(members=((PRUNED, TAUGHT), (SPARSE,))).apply(suite.reference, context)
    names = {name for name, _ in fused.named_modules()} | {name for name, _ in fused.named_parameters()}
    assert context.notes.covered
    assert set(context.notes.covered) <= names
    assert list(context.notes.curves) == ["members.0.distillation"]
    assert "members.0: the teacher's answers to 512 training examples were asked for once" in context.notes.remarks
    assert "parameters of the members: 498, 1,808; together 2,306" in context.notes.remarks


def test_integers_are_counted_with_the_members_parameters(tiny):
    suite = tiny("lenet")
    context = suite.context()
    Ensemble(members=((INTEGERS,), (SPARSE,))).apply(suite.reference, context)
    assert "parameters of the members: 1,808, 1,808; together 3,616" in context.notes.remarks


RUNTIMES = {"onnxruntime": OnnxRuntime, "torch": TorchEager}
RECIPES = {
    "pruned and sparse": ((PRUNED,), (SPARSE,)),
    "integers": ((PRUNED, INTEGERS), (INTEGERS,)),
    "another architecture": ((OTHER,), (PRUNED,)),
}


EXPORTS = [
    ("onnxruntime", "integers", "probabilities"),
    ("onnxruntime", "another architecture", "logits"),
    ("torch", "integers", "logits"),
    ("torch", "pruned and sparse", "probabilities"),
]


@pytest.mark.parametrize(("runtime", "recipes", "average"), EXPORTS)
def test_the_saved_model_answers_alike_in_every_runtime(tiny, tmp_path, runtime, recipes, average):
    suite = tiny("lenet")
    ensemble = Ensemble(members=RECIPES[recipes], average=average)
    fused = suite.apply(ensemble)
    factory = factory_of([ensemble], suite.factory, suite.task)
    save_model(fused, factory, tmp_path / "saved")
    loaded = load_model(factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(loaded), suite.outputs(fused))
    path, inputs = tmp_path / RUNTIMES[runtime].file_name, suite.task.example_inputs(32, "test")
    RUNTIMES[runtime]().export(loaded, inputs, path, {})
    answers = RUNTIMES[runtime]().load(path, 1)({name: value.numpy() for name, value in named(inputs).items()})
    # Integer layers round a little differently in a file: see docs/decisions.md.
    tolerance = 0.1 if recipes == "integers" else 1e-4
    assert torch.allclose(torch.from_numpy(answers), suite.outputs(fused), atol=tolerance * float(answers.std()))


def test_a_fused_model_can_be_compressed_further_and_saved(tiny, tmp_path):
    suite = tiny("lenet")
    steps = built_steps([{"method": "ensemble", "members": [[PRUNED], [SPARSE]]}, PRUNED, INTEGERS])
    model = suite.reference
    for step in steps:
        model = suite.apply(step, model)
    factory = factory_of(steps, suite.factory, suite.task)
    save_model(model, factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(load_model(factory, tmp_path / "saved")), suite.outputs(model))


def built_steps(values):
    from compression_gate.records.params import Step

    return built([Step.model_validate(value) for value in values], "steps")


def test_ensembles_may_be_members(tiny, tmp_path):
    suite = tiny("mlp")
    inner = {"method": "ensemble", "members": [[PRUNED], [SPARSE]]}
    ensemble = Ensemble(members=((inner,), (TAUGHT,)))
    fused = suite.apply(ensemble)
    factory = factory_of([ensemble], suite.factory, suite.task)
    save_model(fused, factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(load_model(factory, tmp_path / "saved")), suite.outputs(fused))


@pytest.mark.parametrize(("student", "place"), [("first", 0), ("smallest", 1)])
def test_distilled_into_one_member_by_the_average_of_all(tiny, tmp_path, student, place):
    suite = tiny("lenet")
    ensemble = Ensemble(
        members=((SPARSE,), (PRUNED,)), mode="distilled", student=student, distillation={"epochs": 1, "alpha": 1.0}
    )
    context = suite.context()
    taught = ensemble.apply(suite.reference, context)
    fused = suite.apply(Ensemble(members=((SPARSE,), (PRUNED,))))
    lesson = Distillation(epochs=1, alpha=1.0)
    expected = lesson.apply(
        fused.members[place], type(context)(task=suite.task, reference=fused, train=suite.params.train)
    )
    assert state_digest(taught) == state_digest(expected)
    assert f"the student is member {place}" in context.notes.remarks
    factory = factory_of([ensemble], suite.factory, suite.task)
    save_model(taught, factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(load_model(factory, tmp_path / "saved")), suite.outputs(taught))


def test_a_distilled_member_keeps_its_zeros(tiny):
    suite = tiny("lenet")
    taught = suite.apply(Ensemble(members=((SPARSE,), (PRUNED,)), mode="distilled", distillation={"epochs": 1}))
    assert float((taught.hidden.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_finished_members_are_not_made_again_after_a_kill(tiny, tmp_path, monkeypatch):
    suite = tiny("mlp")
    method = Ensemble(members=((PRUNED, {**TAUGHT, "epochs": 2}), (SPARSE, {**TAUGHT, "epochs": 2})))
    context = suite.context()
    whole = method.apply(suite.reference, context)
    checkpoint, count, step = tmp_path / "step.pt", 0, training.train_step

    def killed(*arguments):
        nonlocal count
        count += 1
        if count == 27:  # of 8 an epoch: in the second epoch of the second member
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=checkpoint)
    count = 100
    again = suite.context(checkpoint=checkpoint)
    continued = method.apply(suite.reference, again)
    assert count == 108
    assert state_digest(continued) == state_digest(whole)
    assert again.notes.covered == context.notes.covered
    assert again.notes.remarks == context.notes.remarks
    assert again.notes.curves.keys() == context.notes.curves.keys()
    assert list(tmp_path.glob("step*")) == []


def test_probabilities_are_refused_where_there_are_no_classes(tiny):
    suite = tiny("lenet", kind="regression", data=f"{MODULE}:regression", model=f"{MODULE}:one_output")
    with pytest.raises(CompressionError, match=r"average probabilities needs classes, task.kind is regression"):
        suite.apply(Ensemble(members=((PRUNED,), (SPARSE,)), average="probabilities"))


def test_numbers_are_averaged_where_there_are_no_classes(tiny):
    suite = tiny("lenet", kind="regression", data=f"{MODULE}:regression", model=f"{MODULE}:one_output")
    fused = suite.apply(Ensemble(members=((PRUNED,), (SPARSE,))))
    assert isinstance(fused, Fused)
    assert suite.outputs(fused).shape == (32, 1)


def test_a_recipe_with_an_ensemble_is_read_back(tmp_path):
    steps = [Ensemble(members=((PRUNED, TAUGHT), (SPARSE,)), mode="distilled", distillation={"epochs": 3})]
    recipe_of(steps).write(tmp_path / "recipe.yaml")
    again = built(Recipe.read(tmp_path / "recipe.yaml").steps, "steps")
    assert again == steps
    assert recipe_of(again).digest == recipe_of(steps).digest


BAD = [
    ({"members": ()}, r"members: expected 2 to 16 lists of steps, got 0"),
    ({"members": ((PRUNED,),)}, r"members: expected 2 to 16 lists of steps, got 1"),
    ({"mode": "glued"}, r"mode: expected one of fused, distilled, got 'glued'"),
    ({"average": "votes"}, r"average: expected one of logits, probabilities, got 'votes'"),
    ({"student": "last"}, r"student: expected one of first, smallest, got 'last'"),
    ({"members": ((PRUNED,), ({"sparsity": 0.5},))}, r"members\.1\.0\.method: expected a method's name"),
    ({"members": ((PRUNED,), ({**SPARSE, "sparsity": 2.0},))}, r"members\.1\.0\.sparsity: expected .*, got 2\.0"),
    ({"members": ((PRUNED,), (INTEGERS, PRUNED))}, r"members\.1\.1: structured_pruning cannot come after static_quant"),
    ({"distillation": {"epochs": 1}}, r"distillation: is for mode distilled"),
    ({"mode": "distilled", "distillation": {"alpha": 2.0}}, r"distillation\.alpha: expected 0 or more and at most 1"),
    ({"mode": "distilled", "distillation": {"teacher": "reference"}}, r"distillation\.teacher: .*: leave it out"),
    ({"mode": "distilled", "distillation": {"kind": "feature"}}, r"distillation\.kind: looks inside one teacher"),
    (
        {"mode": "distilled", "members": ((INTEGERS,), (PRUNED,))},
        r"members\.0\.1: distillation cannot come after static_quantization",
    ),
    (
        {"mode": "distilled", "student": "smallest", "members": ((PRUNED,), (SHARED,))},
        r"members\.1\.1: distillation cannot come after weight_sharing",
    ),
    (
        {"mode": "distilled", "student": "smallest", "members": ((PRUNED,), (OTHER,))},
        r"student: the smallest of members of several architectures",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        Ensemble(**{"members": ((PRUNED,), (SPARSE,)), **options})


ORDERS = [  # steps, words of the refusal; None where they make sense
    ([Ensemble(members=((PRUNED,), (SPARSE,))), Distillation()], None),
    ([StructuredPruning(), Ensemble(members=((PRUNED,), (TAUGHT,)))], None),
    ([Ensemble(members=((PRUNED,), (INTEGERS,))), StructuredPruning()], "the weights are integers then"),
    ([Ensemble(members=((PRUNED,), (SHARED,))), Distillation()], "undo the sharing"),
    ([WeightSharing(bits=4), Ensemble(members=((PRUNED,), (TAUGHT,)))], "undo the sharing"),
    ([StructuredPruning(), Ensemble(members=((OTHER,), (PRUNED,)))], "takes the place of the model"),
    (
        [Ensemble(members=((PRUNED,), (INTEGERS,)), mode="distilled", distillation={"epochs": 1}), Distillation()],
        None,
    ),
]


@pytest.mark.parametrize(("steps", "words"), ORDERS)
def test_what_is_inside_counts_for_the_order(steps, words):
    problems = order_problems(steps, "steps")
    assert len(problems) == (words is not None)
    assert words is None or words in problems[0]
