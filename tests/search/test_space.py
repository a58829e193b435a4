"""Genomes stand for chains that make sense, whatever is in them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.errors import ParamsError
from compression_gate.methods.chain import built
from compression_gate.methods.ladder import Facts
from compression_gate.records.params import Step
from compression_gate.search.defaults import default_slots
from compression_gate.search.space import LEFT_OUT, Units, space_of

DECLARED = (
    {"method": "structured_pruning", "pruning_ratio": {"low": 0.1, "high": 0.8}, "optional": True},
    {"method": "distillation", "epochs": [1, 2], "optional": True},
    {
        "any_of": [
            {"method": "static_quantization", "calibration": ["minmax", "mse"]},
            {"method": "weight_only_quantization", "bits": [8, 4]},
        ],
        "optional": True,
    },
)
UNITS = Units(of={"weight_only_quantization": {"conv": ("conv",), "hidden": ("hidden",), "out": ("out", "tied")}})
BY_LAYER = ({"method": "weight_only_quantization", "bits": {"by_layer": [0, 8, 4]}},)
BAD = {
    "no slot": ((), "expected at least one slot"),
    "no method": (({"bits": 8},), r"search\.space\.0.*expected the name of a method"),
    "unknown method": (
        ({"method": "magic"},),
        r"search\.space\.0\.method: expected one of structured_pruning.*got 'magic'",
    ),
    "unknown method by layer": (({"method": "magic", "bits": {"by_layer": [8, 4]}},), r"0\.method: .*got 'magic'"),
    "unknown option": (({"method": "low_rank", "rang": 3},), "rang"),
    "an end that the method refuses": (
        ({"method": "structured_pruning", "pruning_ratio": {"low": 0.5, "high": 1.5}},),
        r"search\.space\.0\.pruning_ratio: expected .* got 1\.5",
    ),
    "a value that the method refuses": (({"method": "weight_only_quantization", "bits": [8, 9]},), "bits.* got 9"),
    "alternatives that are none": (({"any_of": {"method": "low_rank"}},), "any_of: expected a list of steps"),
    "alternatives that are a number": (({"any_of": 5},), r"search\.space\.0\.any_of: expected a list of steps, got 5"),
    "an option of an alternative": (
        ({"any_of": [{"method": "low_rank", "ratio": 0.5}, {"method": "weight_only_quantization", "bits": [8, 9]}]},),
        r"search\.space\.0\.any_of\.1\.bits: .* got 9",
    ),
    "something beside any_of": (({"any_of": [{"method": "low_rank", "ratio": 0.5}], "bits": 4},), "got bits too"),
    "optional what": (({"method": "batchnorm_folding", "optional": "yes"},), "optional: expected true or false"),
    "layers of a method without": (
        ({"method": "distillation", "epochs": {"by_layer": [1, 2]}},),
        "distillation has no layers that it can treat one by one",
    ),
    "layers beside ignore": (
        ({**BY_LAYER[0], "ignore": {"value": ["out"]}},),
        r"0\.ignore: expected none beside strengths by layer",
    ),
    "two problems": (({"method": "magic"}, {"bits": 8}), "expected the name of a method"),
}


def space(declared=DECLARED, *, free_order=True, units=UNITS):
    return space_of(declared, free_order=free_order, units=units)


@pytest.mark.parametrize(("declared", "message"), BAD.values(), ids=BAD)
def test_a_wrong_space_is_refused_before_anything_runs(declared, message):
    with pytest.raises(ParamsError, match=message):
        space(declared)


@given(st.integers(0, 10_000))
def test_every_genome_stands_for_a_chain_in_an_order_that_makes_sense(seed):
    one = space()
    steps = one.steps_of(one.sample(random.Random(seed)))
    assert [step.method for step in steps] == [step.method for step in built_again(steps)]
    assert "weight_only_quantization" not in [step.method for step in steps[:-1]]


def built_again(steps):
    built(steps, "steps")  # raises where an order makes no sense
    return steps


def test_chains_are_of_every_length_and_order():
    one, coins = space(), random.Random(0)
    chains = {tuple(step.method for step in one.steps_of(one.sample(coins))) for _ in range(300)}
    assert {len(chain) for chain in chains} == {0, 1, 2, 3}
    assert ("structured_pruning", "distillation") in chains
    assert ("distillation", "structured_pruning") in chains


def test_in_the_written_order_there_are_no_places():
    one, coins = space(free_order=False), random.Random(0)
    assert not any(name.endswith(".place") for name in one.genes)
    order = [
        step.method
        for step in one.steps_of({**one.sample(coins), "0.pick": "0.structured_pruning", "1.pick": "1.distillation"})
    ]
    assert order[:2] == ["structured_pruning", "distillation"]


def test_what_is_left_out_keeps_its_genes():
    one = space()
    genome = one.sample(random.Random(1)) | {f"{slot.name}.pick": LEFT_OUT for slot in one.slots}
    assert one.steps_of(genome) == ()
    assert set(genome) == set(one.genes)


INTEGERS = {"method": "static_quantization"}
TRAINED = {"method": "quantization_aware_training", "epochs": 1}
NARROW = {"method": "structured_pruning", "pruning_ratio": 0.5}


def optional(step):
    return {**step, "optional": True}


def test_a_step_that_fits_nowhere_is_left_out():
    one = space((optional(INTEGERS), optional(TRAINED)))
    both = {"0.pick": "0.static_quantization", "1.pick": "1.quantization_aware_training"}
    for first, second in ((0.1, 0.9), (0.9, 0.1)):
        steps = one.steps_of({**both, "0.place": first, "1.place": second})
        assert len(steps) == 1


def test_a_step_that_may_be_left_out_makes_room_for_one_that_may_not():
    either = {"any_of": [TRAINED, NARROW], "optional": True}
    one = space((INTEGERS, either))
    taken = {"1.pick": "1.quantization_aware_training", "0.place": 0.9, "1.place": 0.1}
    assert [step.method for step in one.steps_of(taken)] == ["static_quantization"]


def test_the_written_order_is_kept():
    one = space(({"any_of": [INTEGERS, NARROW]}, {"method": "distillation", "optional": True}), free_order=False)
    chains = {
        tuple(step.method for step in one.steps_of({"0.pick": first, "1.pick": second}))
        for first in one.genes["0.pick"].values
        for second in one.genes["1.pick"].values
    }
    assert chains == {("static_quantization",), ("structured_pruning",), ("structured_pruning", "distillation")}


CONTRADICTIONS = {  # slots, whether their order is free, whether they are refused
    "a written order that makes no sense": ((INTEGERS, NARROW), False, True),
    "the same, each of them optional": ((optional(INTEGERS), optional(NARROW)), False, True),
    "the same in any order": ((INTEGERS, NARROW), True, False),
    "two that exclude each other": ((INTEGERS, TRAINED), True, True),
    "one of them optional, so that it never could be": ((INTEGERS, optional(TRAINED)), True, True),
    "both optional: one or the other": ((optional(INTEGERS), optional(TRAINED)), True, False),
    "the same twice": ((TRAINED, TRAINED), False, True),
    "some alternatives that fit": (
        (INTEGERS, {"any_of": [TRAINED, {"method": "low_rank", "ratio": 0.5}]}),
        True,
        False,
    ),
}


@pytest.mark.parametrize(("declared", "free", "refused"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_slots_that_exclude_each_other_are_refused(declared, free, refused):
    if refused:
        message = r"search\.space\.1: expected a step that may stand beside search\.space\.0: .* cannot come after .*: "
        with pytest.raises(ParamsError, match=message):
            space(declared, free_order=free)
    else:
        space(declared, free_order=free)


def test_strengths_by_layer_become_a_step_for_each_strength():
    one = space(BY_LAYER)
    assert list(one.genes) == [f"0.weight_only_quantization.bits.{index}" for index in range(3)]
    steps = one.steps_of(dict(zip(one.genes, (8, 4, 8), strict=True)))
    assert [(step.options["bits"], sorted(step.options["ignore"])) for step in steps] == [
        (8, ["hidden"]),
        (4, ["conv", "out", "tied"]),
    ]


def test_a_layer_without_strength_stays_as_it_is():
    one = space(BY_LAYER)
    (step,) = one.steps_of(dict(zip(one.genes, (0, 4, 0), strict=True)))
    assert sorted(step.options["ignore"]) == ["conv", "out", "tied"]
    assert one.steps_of(dict(zip(one.genes, (0, 0, 0), strict=True))) == ()


def test_groups_of_layers_share_a_strength():
    one = space(({"method": "weight_only_quantization", "bits": {"by_group": [0, 8], "groups": 2}},))
    assert len(one.genes) == 2


def test_methods_that_need_the_table_of_sensitivities_are_named_before_it_is_there():
    plain = {"method": "low_rank", "ratio": 0.5}
    assert space((plain, {"any_of": [*BY_LAYER, plain]}), units=None).layered == ["weight_only_quantization"]
    assert space((plain,), units=None).layered == []


UNREADABLE = {
    "no list": ({"any_of": 5}, r"search\.space\.1\.any_of: expected a list of steps, got 5"),
    "no such method": ({"method": "nope", "bits": {"by_layer": [8]}}, r"search\.space\.1\.method: .* got 'nope'"),
    "no layers": ({"method": "distillation", "alpha": {"by_layer": [0.1]}}, r"search\.space\.1: .* treat one by one"),
    "no such option": ({"method": "low_rank", "rang": 3}, r"search\.space\.1\.rang: "),
}


@pytest.mark.parametrize(("slot", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_wrong_slot_is_told_before_the_table_is_there(slot, message):
    with pytest.raises(ParamsError, match=message):
        space((*BY_LAYER, slot), units=None)


def test_all_problems_of_a_space_are_told_at_once():
    with pytest.raises(ParamsError) as told:
        space(({"any_of": 5}, {"method": "magic"}, {"method": "weight_only_quantization", "bits": [8, 9]}))
    assert [problem.split(":")[0] for problem in told.value.problems] == [
        "search.space.0.any_of",
        "search.space.1.method",
        "search.space.2.bits",
    ]


def test_a_written_chain_is_found_in_the_space():
    steps = [
        Step.model_validate({"method": "structured_pruning", "pruning_ratio": 0.5}),
        Step.model_validate({"method": "static_quantization", "calibration": "mse"}),
    ]
    one = space()
    found = one.steps_of(one.genome_of(steps))
    assert [(step.method, step.options) for step in found] == [
        (step.method, step.options) for step in one.steps_of(one.genome_of(found))
    ]
    assert found[0].options["pruning_ratio"] == 0.5
    assert found[1].options["calibration"] == "mse"


def test_options_inside_others_are_found_in_the_space_too():
    student = {"model": ["a:Net", "b:Slim"], "model_args": {"width": [16, 24, 32]}}
    one = space(({"method": "distillation", "epochs": [1, 4], "student": student},))
    options = {"epochs": 4, "student": {"model": "b:Slim", "model_args": {"width": 32}}}
    (step,) = one.steps_of(one.genome_of([Step.model_validate({"method": "distillation", **options})]))
    assert {key: step.options[key] for key in options} == options


def test_a_choice_among_models_is_a_distillation_into_one_of_them():
    models, widths = ["shop:Net", "shop:Slim"], {"width": [16, 32]}
    short = {"model": models, "model_args": widths, "epochs": 4, "optional": True}
    student = {"model": models, "model_args": widths}
    written = {"method": "distillation", "student": student, "epochs": 4, "optional": True}
    assert space((short, INTEGERS)).genes == space((written, INTEGERS)).genes
    genome = {"0.pick": "0.distillation", "0.distillation.student.model": "shop:Slim"}
    steps = space((short, INTEGERS)).steps_of({**space((short, INTEGERS)).sample(random.Random(0)), **genome})
    assert [step.method for step in steps] == ["distillation", "static_quantization"]
    assert steps[0].options["student"]["model"] == "shop:Slim"


def test_a_choice_among_models_names_what_is_wrong_with_it():
    with pytest.raises(ParamsError, match=r"search\.space\.0\.student\.model: .* got 'Slim'"):
        space(({"model": ["shop:Net", "Slim"]},))
    with pytest.raises(ParamsError, match=r"search\.space\.0\.epoch: .*did you mean 'epochs'"):
        space(({"model": ["shop:Net"], "epoch": 4},))


def test_a_chain_with_a_step_that_has_no_slot_is_not_in_the_space():
    assert space().genome_of([Step(method="batchnorm_folding")]) is None
    assert space().genome_of([Step(method="distillation"), Step(method="distillation")]) is None


FACTS = {
    "integers": Facts(rounded=True, stored=False, integers=True, narrowest=2, told=()),
    "recurrent": Facts(rounded=False, stored=True, integers=True, narrowest=2, told=()),
    "floats": Facts(rounded=True, stored=False, integers=False, narrowest=8, told=()),
}


@pytest.mark.parametrize("facts", FACTS.values(), ids=FACTS)
@pytest.mark.parametrize("file_format", ["onnx", "coded"])
@pytest.mark.parametrize("norms", [True, False])
def test_the_default_space_can_be_read_and_holds_the_default_chain(facts, file_format, norms):
    one = space(tuple(default_slots(facts, file_format, norms=norms)), units=Units())
    methods = {alternative.method for slot in one.slots for alternative in slot.alternatives}
    assert ("batchnorm_folding" in methods) == norms
    assert ("rate_aware_training" in methods) == (file_format == "coded")
    assert ("static_quantization" in methods) == (facts.rounded and facts.integers)
    assert all(one.steps_of(one.sample(random.Random(seed))) is not None for seed in range(50))


def test_the_default_space_may_be_kept_in_its_written_order():
    assert space(tuple(default_slots(FACTS["integers"], "coded", norms=True)), free_order=False)
