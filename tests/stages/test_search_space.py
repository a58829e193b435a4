"""What is wrong with a declared space is told with its line, and the document's spaces can be read."""

import re
from pathlib import Path

import pytest
import yaml

from compression_gate.errors import ParamsError
from compression_gate.search.space import Units, space_of
from compression_gate.stages.search_space import placed


def test_a_problem_of_the_space_is_told_with_its_line(tmp_path):
    text = "search:\n  space:\n    - method: low_rank\n      ratio: [0.5]\n    - any_of:\n        - {method: nope}\n"
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError) as caught, placed(tmp_path):
        raise ParamsError(["search.space.0.ratio.low: expected a number", "search.space.1.any_of.0.method: got 'nope'"])
    assert caught.value.problems == (
        "params.yaml:4: search.space.0.ratio.low: expected a number",
        "params.yaml:6: search.space.1.any_of.0.method: got 'nope'",
    )


DOCUMENT = (Path(__file__).parents[2] / "docs/search.md").read_text(encoding="utf-8")
SPACES = [
    space
    for block in re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, flags=re.DOTALL | re.MULTILINE)
    if (space := yaml.safe_load(block)["search"].get("space"))
]
UNITS = Units(of={"weight_only_quantization": {"conv": ("conv",), "out": ("out",)}})


def test_every_space_in_the_document_can_be_read():
    assert len(SPACES) == 2
    for declared in SPACES:
        assert space_of(declared, free_order=True, units=UNITS).genes
