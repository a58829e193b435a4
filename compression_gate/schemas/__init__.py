"""JSON Schemas of `params.yaml` and `verdict.json`, for editors and for programs that read a verdict.

`python -m compression_gate.schemas` writes the two files beside this one anew; a test holds them to the records.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compression_gate.records.params import Params
from compression_gate.records.rules import LIMIT_NAMES
from compression_gate.records.verdict import Verdict

FOLDER = Path(__file__).parent
LIMIT = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*-?[\d.]+(e-?\d+)?\s*%\s*$"}, {"type": "null"}]
}


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas by file name."""
    params = Params.model_json_schema()
    # A limit is written as a number or a share; the short form of the gate allows keys named for metrics.
    rule = params["$defs"]["Rule"]["properties"]
    rule.update({name: {**LIMIT, "default": None} for name in LIMIT_NAMES})
    params["$defs"].pop("Limit", None)
    gate = params["$defs"]["GateParams"]
    gate["patternProperties"] = {r"^(max|min)_\w+$": LIMIT}
    return {"params.schema.json": params, "verdict.schema.json": Verdict.model_json_schema(by_alias=True)}


def text_of(schema: dict[str, Any]) -> str:
    """A schema as it is published."""
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
