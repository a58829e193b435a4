"""A record counts only under the params that it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from compression_gate.pipeline.definition import DEFINITION
from compression_gate.records.params import read_params
from compression_gate.records.provenance import READ_BY, params_digests
from compression_gate.records.verdict import Check
from compression_gate.stages import check, gate


def edit_params(suite: Path, change: Callable[[dict], object]) -> None:
    """Change the values of `params.yaml`."""
    values = yaml.safe_load((suite / "params.yaml").read_text())
    change(values)
    (suite / "params.yaml").write_text(yaml.safe_dump(values))


def stale(suite: Path) -> dict[str, Check]:
    """Judge, and return what is stale, by name; `check` must see the error too."""
    verdict = gate.run(suite)
    found = {one.metric: one for one in verdict.checks if one.reason == "stale"}
    assert check.check(suite, "pull_request").exit_code == (4 if found else 0)
    return found


CHANGES = [  # params, what is stale by them, a key path that is told
    ({"compress": {"steps": [{"method": "weight_sharing"}]}}, {"candidate", "compression"}, "compress"),
    ({"train": {"epochs": 9}}, {"reference", "candidate", "compression"}, "train"),
    ({"train": {"seed": 9}}, {"data", "reference", "candidate", "compression", "evaluation"}, "train"),
    ({"evaluate": {"perturbations": ["gaussian_noise"]}}, {"evaluation"}, "evaluate"),
    ({"prepare": {"allow": ["leaks"]}}, {"data"}, "prepare"),
]


@pytest.mark.parametrize(("change", "names", "told"), CHANGES)
def test_records_of_other_params_are_stale_and_named(finished: Path, change: dict, names: set[str], told: str) -> None:
    edit_params(finished, lambda values: values.update(change))
    found = stale(finished)
    assert set(found) == names
    assert all(f"another {told}" in one.message and "`compression-gate run`" in one.mending for one in found.values())


def test_another_limit_makes_no_record_stale(finished: Path) -> None:
    edit_params(finished, lambda values: values["gate"]["rules"]["size"].update(max=1500))
    assert stale(finished) == {}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("reference", "models/reference/artifact.json"),
        ("candidate", "models/candidate/artifact.json"),
        ("data", "reports/data.json"),
        ("compression", "reports/compression.json"),
        ("evaluation", "reports/evaluation.json"),
    ],
)
def test_a_record_that_does_not_say_its_params_is_stale(finished: Path, name: str, path: str) -> None:
    values = json.loads((finished / path).read_text())
    assert values.pop("params_digests")
    (finished / path).write_text(json.dumps(values))
    found = stale(finished)
    assert set(found) == {name}
    assert "--force" in found[name].mending


def test_a_record_says_just_what_dvc_runs_its_stage_for(finished: Path) -> None:
    params = read_params(finished)
    for stage, paths in READ_BY.items():
        assert DEFINITION[stage].params == paths == tuple(params_digests(stage, params))
