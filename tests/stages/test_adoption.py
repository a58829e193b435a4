"""A recipe takes the place of steps, and nothing else of the file moves."""

import pytest
import yaml

from compression_gate.errors import ParamsError
from compression_gate.methods.chain import built, recipe_of
from compression_gate.pipeline.definition import check_definition
from compression_gate.records.params import Step, read_params
from compression_gate.records.recipe import Recipe
from compression_gate.records.search import SearchRecord
from compression_gate.records.trial import Answer, Trial
from compression_gate.stages.adoption import adopt, adopt_found, digest_in_use, with_recipe

HEAD = "# ours\ntask:  {model: 'a:Net', data: a:load}\n"
TEXTS = {
    "block steps": (
        "compress:\n  # why\n  steps:\n    - {method: low_rank, ratio: 0.5}   # half\n    - method: distillation\n"
        "      epochs: 1\n"
        "  # of the phone\n  runtime: onnxruntime\n# behind\nbenchmark: {budget_s: 3}\n",
        'compress:\n  # why\n  recipe: "r.yaml"\n  # of the phone\n  runtime: onnxruntime\n# behind\n'
        "benchmark: {budget_s: 3}\n",
    ),
    "flow steps": (
        "compress: {steps: [{method: low_rank, ratio: 0.5}], runtime: onnxruntime}\n",
        'compress: {recipe: "r.yaml", runtime: onnxruntime}\n',
    ),
    "a target": (
        "compress:\n  target:\n    compression_ratio: 4\n    max_accuracy_drop: 0.01\n",
        'compress:\n  recipe: "r.yaml"\n',
    ),
    "another recipe": ("compress: {recipe: old.yaml}  # of March\n", 'compress: {recipe: "r.yaml"}  # of March\n'),
    "a runtime alone": (
        "compress:\n  runtime: onnxruntime\n",
        'compress:\n  recipe: "r.yaml"\n  runtime: onnxruntime\n',
    ),
    "a runtime in braces": ("compress: {format: onnx}\n", 'compress: {recipe: "r.yaml", format: onnx}\n'),
    "no recipe beside steps": (
        "compress:\n  recipe: null  # a file, instead of steps\n  # the phone's\n"
        "  steps:\n    - {method: distillation}\n  runtime: onnxruntime\n",
        'compress:\n  # the phone\'s\n  recipe: "r.yaml"\n  runtime: onnxruntime\n',
    ),
    "no recipe behind a target": (
        "compress:\n  target: {compression_ratio: 4, max_accuracy_drop: 0.01}\n  recipe:",
        'compress:\n  recipe: "r.yaml"\n',
    ),
    "no recipe beside steps, in braces": (
        "compress: {recipe: null, runtime: onnxruntime, steps: [{method: distillation}]}\n",
        'compress: {runtime: onnxruntime, recipe: "r.yaml"}\n',
    ),
    "no recipe behind steps, in braces": (
        "compress: {steps: [{method: distillation}], recipe: null}\n",
        'compress: {recipe: "r.yaml"}\n',
    ),
    "no steps": ("compress:\n  steps: []\n  recipe: null\n", 'compress:\n  recipe: "r.yaml"\n'),
    "nothing in it": ("compress: {}\ngate: {}\n", 'compress: {recipe: "r.yaml"}\ngate: {}\n'),
    "null": ("compress:\ngate: {}\n", 'compress: {recipe: "r.yaml"}\ngate: {}\n'),
    "none": ("train: {epochs: 1}\n", 'train: {epochs: 1}\ncompress: {recipe: "r.yaml"}\n'),
}


@pytest.mark.parametrize(("before", "after"), TEXTS.values(), ids=TEXTS)
def test_only_the_steps_are_replaced(before, after):
    assert with_recipe(HEAD + before, "r.yaml") == HEAD + after


READABLE = {name: before for name, (before, _) in TEXTS.items() if name != "null"}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("before", READABLE.values(), ids=READABLE)
def test_what_comes_out_can_be_read_and_names_the_recipe(before, newline, tmp_path):
    (tmp_path / "params.yaml").write_bytes((HEAD + before).replace("\n", newline).encode())
    assert adopt(tmp_path, "recipes/found.yaml")
    assert read_params(tmp_path).compress.recipe == "recipes/found.yaml"
    assert not adopt(tmp_path, "recipes/found.yaml")
    after = (tmp_path / "params.yaml").read_bytes().decode()
    assert after.count("\n") == after.count(newline)


ENTANGLED = {
    "an anchor": "compress:\n  steps: &s\n    - {method: distillation}\nsearch: {space: *s}\n",
    "an alias": "search: {space: &s [{method: distillation}]}\ncompress: {steps: *s}\n",
    "all in braces": None,
}


@pytest.mark.parametrize("text", ENTANGLED.values(), ids=ENTANGLED)
def test_steps_that_the_rest_of_the_file_has_a_part_in_are_left_to_a_person(text, tmp_path):
    text = HEAD + text if text else "{task: {model: 'a:Net', data: a:load}}\n"
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(
        ParamsError, match=r"params\.yaml:\d+: compress: expected .* write `recipe: r\.yaml` .* by hand"
    ):
        adopt(tmp_path, "r.yaml")
    assert (tmp_path / "params.yaml").read_text() == text


FOUND = Recipe(steps=[Step(method="batchnorm_folding")])
USED = {  # what the params hold, and whether what was found are other steps
    "the same steps": ({"steps": [{"method": "batchnorm_folding"}]}, False),
    "the same steps in a file": ({"recipe": "recipes/found.yaml"}, False),
    "others": ({"steps": [{"method": "low_rank", "ratio": 0.5}]}, True),
    "none": ({}, True),
    "a target": ({"target": {"compression_ratio": 4, "max_accuracy_drop": 0.01}}, True),
    "a file that is gone": ({"recipe": "recipes/gone.yaml"}, True),
}


@pytest.mark.parametrize(("compress", "others"), USED.values(), ids=USED)
def test_what_was_found_is_adopted_where_its_steps_are_others(compress, others, tmp_path):
    (tmp_path / "params.yaml").write_text(HEAD + yaml.safe_dump({"compress": compress}))
    FOUND.write(tmp_path / "recipes/found.yaml")
    record = SearchRecord.model_construct(
        best=Trial.model_construct(recipe_digest=recipe_of(built(FOUND.steps, "steps")).digest),
        recipe="recipes/found.yaml",
    )
    before = (tmp_path / "params.yaml").read_bytes()
    assert adopt_found(tmp_path, record, digest_in_use(tmp_path)) == others
    assert ((tmp_path / "params.yaml").read_bytes() != before) == others


def test_what_is_no_better_than_the_steps_in_use_is_not_adopted(tmp_path):
    (tmp_path / "params.yaml").write_text(HEAD)
    one = Trial(number=0, genome={}, origin="start", steps=(), recipe_digest="a", answer=Answer(verdict="pass"))
    start, best = (
        one.model_copy(update={"answer": one.answer.model_copy(update={"figures": {"size_bytes": size}})})
        for size in (80.0, 90.0)
    )
    record = SearchRecord.model_construct(start=start, best=best, recipe="recipes/found.yaml")
    assert not adopt_found(tmp_path, record, "other steps")
    assert (tmp_path / "params.yaml").read_text() == HEAD


def test_an_adopted_recipe_is_declared_to_dvc_so_that_run_takes_it(suite):
    (suite.path / "recipes").mkdir()
    (suite.path / "recipes/found.yaml").write_text("steps: [{method: batchnorm_folding}]\n")
    check_definition(read_params(suite.path), suite.path)
    assert adopt(suite.path, "recipes/found.yaml")
    check_definition(read_params(suite.path), suite.path)
    assert "recipes/found.yaml" in (suite.path / "dvc.yaml").read_text()


def test_params_that_are_wrong_stay_as_they_are(tmp_path):
    text = HEAD + "compress: {steps: 3}\n"
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError):
        adopt(tmp_path, "r.yaml")
    assert (tmp_path / "params.yaml").read_text() == text
