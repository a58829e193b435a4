"""The split `holdout`: asked when a release is judged, outside the DVC graph, so that no commit learns from it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from compression_gate import __version__
from compression_gate.artifacts.compared import open_models
from compression_gate.gate.binding import known_sources, models_of, sources_digest
from compression_gate.gate.facts import Facts, Outcomes
from compression_gate.gate.judge import checks_of
from compression_gate.records.holdout import SUFFIX, Holdout
from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.params import read_params
from compression_gate.stages.evaluate import measure, record
from compression_gate.tasks.task import open_task

FOLDER = Path(".compression_gate/holdout")


def run(suite: Path) -> Holdout | None:
    """Judge every quality rule on the holdout and write `.compression_gate/holdout`; None where the data have none.

    Raises:
        CompressionGateError: the models or the holdout cannot be measured.
    """
    # Without a verdict in it the folder says that the holdout was begun, however this ends.
    shutil.rmtree(suite / FOLDER, ignore_errors=True)
    (suite / FOLDER).mkdir(parents=True)
    params, sources = read_params(suite), known_sources(suite)
    task = open_task(params, suite)
    try:
        task.split("holdout")
    except (KeyError, ValueError):
        (suite / FOLDER).rmdir()
        return None
    models, digests = open_models(suite, params), models_of(suite)
    measured = measure(models, task, params, "holdout")
    digest = hashlib.sha256("\n".join(measured.ids.tolist()).encode()).hexdigest()
    evaluation = record(measured, models, params, digest, suite / FOLDER)
    facts = Facts(
        params=params.with_rules(lambda rule: kind_of(rule.metric) in QUALITY),
        evaluation=evaluation,
        outcomes=Outcomes.read(suite / FOLDER / "predictions.npz"),
        artifacts=models.artifacts,
        alpha=params.gate.alpha,
    )
    found = Holdout(
        n=evaluation.n,
        models=digests,
        params_digest=params.digest,
        sources_digest=sources_digest(sources),
        package_version=__version__,
        checks=tuple(
            check.model_copy(update={"rule": name + SUFFIX})
            for name, rule in facts.params.gate.rules.items()
            for check in checks_of(name, rule, facts)
        ),
    )
    found.write(suite / FOLDER / "verdict.json")
    return found
