"""The holdout: asked for a release only, of the very candidate, and believed for no other."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from safetensors.torch import save_file

from compression_gate.artifacts.exporting import exported_artifact
from compression_gate.errors import MetricsError
from compression_gate.gate.binding import bindings_of, sources_digest
from compression_gate.records.holdout import Holdout
from compression_gate.records.metrics import DataRecord
from compression_gate.records.params import read_params
from compression_gate.records.state_files import REFERENCES
from compression_gate.records.verdict import Check, Subject, Verdict
from compression_gate.stages import check, holdout
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


def test_a_release_counts_the_holdout_and_a_pull_request_does_not(judged) -> None:
    untold = check.check(judged.path, "release")
    assert untold.exit_code == 0
    assert "no holdout was judged" in " ".join(untold.verdict.warnings)
    found = holdout.run(judged.path)
    assert found == Holdout.read(judged.path / check.HOLDOUT)
    assert found.n == 120
    assert [(one.rule, one.status, one.n) for one in found.checks] == [("accuracy (holdout)", "pass", 120)]
    bad = found.model_copy(update={"checks": (found.checks[0].model_copy(update={"status": "fail", "p_value": None}),)})
    bad.write(judged.path / check.HOLDOUT)
    assert check.check(judged.path, "release").exit_code == 1
    assert check.check(judged.path, "pull_request").exit_code == 0


def test_a_holdout_that_is_of_something_else_or_damaged_is_an_error(judged) -> None:
    """One situation each, in one test: exporting the models takes longer than all of them."""
    path = judged.path / check.HOLDOUT
    found = holdout.run(judged.path)
    roles = ("models/reference", "models/candidate", f"{REFERENCES}/baseline", f"{REFERENCES}/release")
    others = (
        *({"models": found.models | {role: "another"}} for role in roles),
        {"models": {}},
        {"params_digest": "another"},
        {"sources_digest": "another"},
        {"package_version": "0"},
        {"checks": ()},
    )
    for field in others:
        found.model_copy(update=field).write(path)
        outcome = check.check(judged.path, "release")
        assert (outcome.exit_code, [one.reason for one in outcome.decision.blocking]) == (4, ["stale"]), field
    for text in ("", "{", json.dumps({"schema": 9})):
        path.write_text(text)
        assert check.check(judged.path, "release").exit_code == 4, text
    judged.replace(WITH_HOLDOUT, SPLITS)
    assert holdout.run(judged.path) is None, "the data have no holdout any more"
    assert not path.parent.exists()


def test_a_holdout_that_was_not_measured_to_the_end_is_an_error(judged) -> None:
    (judged.path / "models/candidate/artifact.json").rename(judged.path / "kept.json")
    with pytest.raises(MetricsError):
        holdout.run(judged.path)
    (judged.path / "kept.json").rename(judged.path / "models/candidate/artifact.json")
    (blocking,) = check.check(judged.path, "release").decision.blocking
    assert (blocking.reason, blocking.message) == ("stale", "the holdout was begun and not finished")
    assert check.check(judged.path, "pull_request").exit_code == 0
