"""The holdout: asked for a release only, of the very candidate, and believed for no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from safetensors.torch import save_file

from compression_gate.gate.binding import bindings_of, sources_digest
from compression_gate.records.holdout import Holdout
from compression_gate.records.metrics import DataRecord
from compression_gate.records.params import read_params
from compression_gate.records.verdict import Check, Subject, Verdict
from compression_gate.stages import check, holdout
from compression_gate.stages.artifacts import exported_artifact
from compression_gate.tasks.task import open_task

SPLITS = 'EXAMPLES = {"train": 240, "test": 90}'
WITH_HOLDOUT = 'EXAMPLES = {"train": 240, "test": 90, "holdout": 120}'


@pytest.fixture
def judged(suite_factory: Callable):
    """A suite with a holdout, both models untrained and alike, and a verdict that passed."""
    suite = suite_factory()
    suite.replace(SPLITS, WITH_HOLDOUT)
    suite.edit("gate", {"rules": {"accuracy": {"metric": "accuracy", "max_drop": 0.2}}})
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    DataRecord(digest="data", splits={}, leaks={}).write(suite.path / "reports/data.json")
    model = task.build_model()
    for role in ("reference", "candidate"):
        folder = suite.path / "models" / role
        folder.mkdir(parents=True)
        save_file(model.state_dict(), folder / "model.safetensors")
        made = exported_artifact(model, task, params, folder, role=role)
    Verdict(
        status="pass",
        exit_code=0,
        policy="pull_request",
        checks=(Check(rule="accuracy", metric="accuracy", status="pass"),),
        candidate=Subject(digest=made.digest),
        params_digest=params.digest,
        sources_digest=sources_digest({}),
        package_version=holdout.__version__,
        bindings=bindings_of(suite.path),
    ).write(suite.path / "reports/verdict.json")
    return suite


def test_the_holdout_is_judged_by_the_rules_that_examples_answer(judged) -> None:
    found = holdout.run(judged.path)
    assert found == Holdout.read(judged.path / check.HOLDOUT)
    assert found.n == 120
    assert [(one.rule, one.status, one.n) for one in found.checks] == [("accuracy (holdout)", "pass", 120)]


def test_a_release_counts_the_holdout_and_a_pull_request_does_not(judged) -> None:
    found = holdout.run(judged.path)
    bad = found.model_copy(update={"checks": (found.checks[0].model_copy(update={"status": "fail", "p_value": None}),)})
    bad.write(judged.path / check.HOLDOUT)
    assert check.check(judged.path, "release").exit_code == 1
    assert check.check(judged.path, "pull_request").exit_code == 0


def test_a_holdout_that_nobody_asked_is_told(judged) -> None:
    outcome = check.check(judged.path, "release")
    assert outcome.exit_code == 0
    assert "no holdout was judged" in " ".join(outcome.verdict.warnings)


@pytest.mark.parametrize("field", ["candidate_digest", "params_digest"])
def test_a_holdout_of_another_candidate_or_other_params_is_an_error(judged, field: str) -> None:
    holdout.run(judged.path).model_copy(update={field: "another"}).write(judged.path / check.HOLDOUT)
    outcome = check.check(judged.path, "release")
    assert outcome.exit_code == 4
    assert [one.reason for one in outcome.decision.blocking] == ["stale"]


@pytest.mark.parametrize("text", ["", "{", json.dumps({"schema": 9})])
def test_a_damaged_holdout_is_an_error(judged, text: str) -> None:
    holdout.run(judged.path)
    (judged.path / check.HOLDOUT).write_text(text)
    assert check.check(judged.path, "release").exit_code == 4


def test_data_without_a_holdout_leave_nothing_behind(judged) -> None:
    holdout.run(judged.path)
    judged.replace(WITH_HOLDOUT, SPLITS)
    shutil.rmtree(judged.path / "__pycache__", ignore_errors=True)
    assert holdout.run(judged.path) is None
    assert not (judged.path / check.HOLDOUT).exists()
