"""A recipe takes the place of steps, and nothing else of the file moves."""

import pytest

from compression_gate.errors import ParamsError
from compression_gate.pipeline.definition import check_definition
from compression_gate.records.params import read_params
from compression_gate.stages.adoption import adopt, with_recipe

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
    "nothing in it": ("compress: {}\ngate: {}\n", 'compress: {recipe: "r.yaml"}\ngate: {}\n'),
    "null": ("compress:\ngate: {}\n", 'compress: {recipe: "r.yaml"}\ngate: {}\n'),
    "none": ("train: {epochs: 1}\n", 'train: {epochs: 1}\ncompress: {recipe: "r.yaml"}\n'),
}


@pytest.mark.parametrize(("before", "after"), TEXTS.values(), ids=TEXTS)
def test_only_the_steps_are_replaced(before, after):
    assert with_recipe(HEAD + before, "r.yaml") == HEAD + after


READABLE = {name: before for name, (before, _) in TEXTS.items() if name != "null"}


@pytest.mark.parametrize("before", READABLE.values(), ids=READABLE)
def test_what_comes_out_can_be_read_and_names_the_recipe(before, tmp_path):
    (tmp_path / "params.yaml").write_text(HEAD + before)
    assert adopt(tmp_path, "recipes/found.yaml")
    assert read_params(tmp_path).compress.recipe == "recipes/found.yaml"
    assert not adopt(tmp_path, "recipes/found.yaml")


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
