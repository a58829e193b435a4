"""The published schemas are those of the records, and take what the records take."""

import json

import jsonschema
import pytest
import yaml

from compression_gate.schemas import FOLDER, schemas, text_of

SHORT = "task: {model: 'a:B', data: 'c:d'}\ngate: {max_accuracy_drop: 0.01, max_latency_increase: '5%'}\n"
RULES = "task: {model: 'a:B', data: 'c:d'}\ngate: {rules: {one: {metric: accuracy, max_drop: '5%'}}}\n"
WRONG = "task: {model: 'a:B', data: 'c:d'}\ntrain: {epochz: 3}\n"


@pytest.mark.parametrize("name", ["params.schema.json", "verdict.schema.json"])
def test_published_schema_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == text_of(schemas()[name]), "python -m compression_gate.schemas"


@pytest.mark.parametrize(("text", "valid"), [(SHORT, True), (RULES, True), (WRONG, False)])
def test_params_schema_takes_both_forms_and_no_unknown_key(text: str, valid: bool) -> None:
    validator = jsonschema.Draft202012Validator(json.loads((FOLDER / "params.schema.json").read_text(encoding="utf-8")))
    assert validator.is_valid(yaml.safe_load(text)) is valid
