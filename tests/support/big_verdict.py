"""A verdict of 20 rules over 50 slices each, none of which passes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from compression_gate.stages import gate

RULES, SLICES = 20, 50


def write_big_verdict(suite: Path) -> None:
    """Give a finished suite such a verdict, and the rules that it is of."""
    values = yaml.safe_load((suite / "params.yaml").read_text())
    rule = {"metric": "recall", "slice": "class", "max_drop": 0.001, "min_n": 1}
    values["gate"]["rules"] = {f"classes{number}": rule for number in range(RULES)}
    (suite / "params.yaml").write_text(yaml.safe_dump(values))
    gate.run(suite)
    path = suite / "reports/verdict.json"
    verdict = json.loads(path.read_text())
    plain = {**verdict["checks"][0], "metric": "recall", "status": "error", "reason": "missing_slice", "level": "block"}
    checks = [{**plain, "rule": f"classes{n}", "slice": f"class={m}"} for n in range(RULES) for m in range(SLICES)]
    path.write_text(json.dumps({**verdict, "checks": checks, "status": "error", "exit_code": 4}))
