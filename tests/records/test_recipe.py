"""Recipes: what their digest covers, and files that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.errors import ParamsError
from compression_gate.records.params import Step
from compression_gate.records.recipe import Recipe, recipe_digest

OPTION_VALUES = st.one_of(
    st.integers(-(2**40), 2**40), st.floats(-1e6, 1e6), st.booleans(), st.text("abc_", max_size=5), st.none()
)
OPTIONS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), OPTION_VALUES, max_size=4)


@given(st.lists(OPTIONS, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory, options):
    recipe = Recipe(steps=tuple(Step(method="some_method", **values) for values in options))
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    recipe.write(path)
    assert Recipe.read(path) == recipe
    assert Recipe.read(path).digest == recipe.digest


def test_the_digest_changes_with_options_and_order_only():
    one, two = Step(method="a", x=1, y=2), Step(method="b")
    assert recipe_digest([one, two]) == recipe_digest([Step(method="a", y=2.0, x=1.0), two])
    assert (
        len({recipe_digest(steps) for steps in ([one, two], [two, one], [one], [Step(method="a", x=1, y=3), two])}) == 4
    )


def test_layout_and_comments_do_not_matter(tmp_path):
    (tmp_path / "a.yaml").write_text("# the best one\nsteps: [{method: a, x: 1}]\nschema: 1\n")
    assert Recipe.read(tmp_path / "a.yaml").digest == recipe_digest([Step(method="a", x=1)])


BAD_FILES = [
    ("steps: [", "not YAML"),
    ("- 1", "expected .*got"),
    ("schema: 2\nsteps: []", "schema: .*got 2"),
    ("steps: [{x: 1}]", r"steps\.0\.method: Field required"),
    ("steps: []\nbeta: 1", "beta: Extra inputs are not permitted"),
    ("", "got None"),
    ("steps: [{method: a, x: 1, x: 2}]", r"steps\.0\.x: is written twice"),
    ("steps: [{method: a, x: !!set {b}}]", r"steps\.0\.x: expected .* of the kind !!set"),
    ("steps: [{method: a, x: !!int ''}]", "a value is not of its kind"),
    (f"steps: {'[' * 3000}", "at most 100 levels"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_file_that_is_no_recipe_is_named_with_what_is_wrong(tmp_path, text, message):
    (tmp_path / "best.yaml").write_text(text)
    with pytest.raises(ParamsError, match=rf"best\.yaml(:\d+)?: .*{message}"):
        Recipe.read(tmp_path / "best.yaml")


def test_a_character_that_json_escapes_as_two_is_one(tmp_path):
    (tmp_path / "best.json").write_text('{"schema": 1, "steps": [{"method": "a", "x": "\\ud83d\\ude00"}]}')
    assert Recipe.read(tmp_path / "best.json").digest == recipe_digest([Step(method="a", x="\N{GRINNING FACE}")])


def test_a_date_among_the_options_stays_as_it_is_written(tmp_path):
    (tmp_path / "best.yaml").write_text("steps: [{method: a, day: 2020-01-31}]\nschema: 1\n")
    assert Recipe.read(tmp_path / "best.yaml").digest == recipe_digest([Step(method="a", day="2020-01-31")])


def test_a_missing_file_is_told_with_the_way_out(tmp_path):
    with pytest.raises(ParamsError, match=r"best\.yaml: missing.*compression-gate search"):
        Recipe.read(tmp_path / "best.yaml")
