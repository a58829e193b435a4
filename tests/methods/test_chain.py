"""Steps become methods, or one message says everything that is wrong with them."""

from __future__ import annotations

import pytest

from compression_gate.errors import ParamsError
from compression_gate.methods.chain import built, name_of, recipe_of, steps_of
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.structured_pruning import StructuredPruning
from compression_gate.methods.weight_sharing import WeightSharing
from compression_gate.records.params import Params, Step
from compression_gate.records.recipe import Recipe

WHERE = "params.yaml: compress.steps"


def params(*steps, **compress):
    own = {"model": "some.models:Net", "data": "some.data:load"}
    return Params.model_validate({"task": own, "compress": {"steps": steps, **compress}})


def test_steps_become_option_records_in_order():
    methods = steps_of(
        params(
            {"method": "structured_pruning", "pruning_ratio": 0.25, "ignore": ["head"]},
            {"method": "distillation", "epochs": 1, "alpha": 1},
        )
    )
    assert methods == [StructuredPruning(pruning_ratio=0.25, ignore=("head",)), Distillation(epochs=1, alpha=1.0)]
    assert [name_of(method) for method in methods] == ["structured_pruning", "distillation"]


def test_no_steps_are_no_methods():
    assert steps_of(params()) == []


def test_a_recipe_file_takes_the_place_of_steps(tmp_path):
    Recipe(steps=(Step(method="weight_sharing", bits=4),)).write(tmp_path / "best.yaml")
    assert steps_of(params(recipe="best.yaml"), tmp_path) == [WeightSharing(bits=4)]


def test_a_bad_option_in_a_recipe_file_names_that_file(tmp_path):
    Recipe(steps=(Step(method="weight_sharing", bits=40),)).write(tmp_path / "best.yaml")
    with pytest.raises(ParamsError, match=r"^best\.yaml: steps\.0\.bits: expected 1 or more and at most 16, got 40$"):
        steps_of(params(recipe="best.yaml"), tmp_path)


PROBLEMS = [  # step, message
    ({"method": "distilation"}, r"0\.method: expected one of .*, got 'distilation' \(did you mean 'distillation'\?\)"),
    (
        {"method": "distillation", "temprature": 2.0},
        r"0\.temprature: distillation has no such option: expected one of kind, .* \(did you mean 'temperature'\?\)",
    ),
    ({"method": "distillation", "epochs": "2"}, r"0\.epochs: expected integer, got '2'"),
    ({"method": "distillation", "epochs": True}, r"0\.epochs: expected integer, got True"),
    ({"method": "distillation", "kind": "sofd"}, r"0\.kind: expected 'soft', .* or 'adversarial', got 'sofd'"),
    ({"method": "distillation", "alpha": float("nan")}, r"0\.alpha: expected .*finite number, got nan"),
    ({"method": "distillation", "alpha": 3}, r"0\.alpha: expected 0 or more and at most 1, got 3\.0"),
    ({"method": "magnitude_pruning", "threshold": "low"}, r"0\.threshold: expected number or null, got 'low'"),
    ({"method": "structured_pruning", "ignore": "head"}, r"0\.ignore: expected list, got 'head'"),
]


@pytest.mark.parametrize(("step", "message"), PROBLEMS)
def test_what_is_wrong_is_said_with_its_key_path(step, message):
    with pytest.raises(ParamsError, match=rf"(?m)^{WHERE}\.{message}$"):
        steps_of(params(step))


def test_all_problems_of_all_steps_are_told_at_once():
    with pytest.raises(ParamsError) as caught:
        steps_of(
            params(
                {"method": "structured_pruning", "pruning_ratio": 1.5, "round_to": 0, "importence": "l2"},
                {"method": "no_such_thing"},
                {"method": "weight_sharing"},
            )
        )
    keys = [problem.removeprefix(f"{WHERE}.").partition(":")[0] for problem in caught.value.problems]
    assert sorted(keys) == ["0.importence", "0.pruning_ratio", "0.round_to", "1.method", "2.bits"]


PRUNE, SPARSE = {"method": "structured_pruning"}, {"method": "magnitude_pruning", "sparsity": 0.5}
DISTIL, SHARE = {"method": "distillation"}, {"method": "weight_sharing", "bits": 4}
FOLD, BY_NORMS = {"method": "batchnorm_folding"}, {**PRUNE, "importance": "norm_scale"}
INTEGERS, WEIGHTS = {"method": "static_quantization"}, {"method": "weight_only_quantization"}

ALLOWED = [
    (PRUNE, DISTIL, INTEGERS),
    (SPARSE, DISTIL, SHARE),
    (SPARSE, PRUNE),
    (SHARE, SPARSE),
    (SHARE, {**SHARE, "epochs": 1}),
    (SHARE, INTEGERS),
    (DISTIL, PRUNE, DISTIL),
    (PRUNE, {"method": "magnitude_pruning", "pattern": "2:4"}),
    ({**FOLD, "ignore": ["stem"]}, BY_NORMS),
    (FOLD, PRUNE),
    ({**INTEGERS, "ignore": ["head"]}, INTEGERS),
    (PRUNE, {**WEIGHTS, "ignore": ["head"]}, INTEGERS),
    (INTEGERS, {"method": "dynamic_quantization"}, WEIGHTS),
]
REFUSED = [  # steps, later, earlier, reason
    ((INTEGERS, PRUNE), 1, 0, "integers"),
    ((INTEGERS, DISTIL), 1, 0, "integers"),
    ((PRUNE, INTEGERS, INTEGERS), 2, 1, "integers"),
    ((WEIGHTS, INTEGERS), 1, 0, "integers"),
    (({**WEIGHTS, "ignore": ["head"]}, SPARSE), 1, 0, "integers"),
    ((SHARE, DISTIL), 1, 0, "undo the sharing"),
    ((SHARE, PRUNE, {**SPARSE, "epochs": 1}), 2, 0, "undo the sharing"),
    ((SHARE, {"method": "batchnorm_folding"}), 1, 0, "undo the sharing"),
    ((SPARSE, DISTIL, {"method": "low_rank", "rank": 4}), 2, 0, "undo the pruning"),
    (({"method": "magnitude_pruning", "pattern": "2:4"}, DISTIL, PRUNE), 2, 0, "another group"),
    ((FOLD, BY_NORMS), 1, 0, "gone"),
    (({"method": "rate_aware_training", "strength": 1.0}, BY_NORMS), 1, 0, "gone"),
]


@pytest.mark.parametrize("steps", ALLOWED)
def test_orders_that_make_sense_are_taken(steps):
    assert len(steps_of(params(*steps))) == len(steps)


@pytest.mark.parametrize(("steps", "later", "earlier", "reason"), REFUSED)
def test_orders_that_make_none_are_refused_with_both_steps_and_the_reason(steps, later, earlier, reason):
    with pytest.raises(
        ParamsError, match=rf"^{WHERE}\.{later}: .* cannot come after .* \(step {earlier}\): .*{reason}"
    ):
        steps_of(params(*steps))


def test_a_digest_covers_defaults_that_were_not_written():
    bare, full = (Step(method="distillation"),), (Step(method="distillation", epochs=2, temperature=4),)
    assert recipe_of(built(bare, WHERE)).digest == recipe_of(built(full, WHERE)).digest
    other = (Step(method="distillation", epochs=3),)
    assert recipe_of(built(bare, WHERE)).digest != recipe_of(built(other, WHERE)).digest


def test_a_recipe_of_methods_builds_the_same_methods_again(tmp_path):
    methods = [MagnitudePruning(sparsity=0.5), StructuredPruning(ignore=("head",)), WeightSharing(clusters=9)]
    recipe_of(methods).write(tmp_path / "recipe.yaml")
    assert built(Recipe.read(tmp_path / "recipe.yaml").steps, "recipe.yaml: steps") == methods
