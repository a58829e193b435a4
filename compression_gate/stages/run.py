"""`run`: the whole road through DVC, then the verdict. What a person types."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from compression_gate import __version__
from compression_gate.errors import CompressionGateError, MetricsError, ParamsError
from compression_gate.pipeline.definition import DEFINITION, STAGES, check_definition, outputs_of
from compression_gate.pipeline.dvc import dvc_root, missing_outputs, reproduce, set_up
from compression_gate.pipeline.evidence import require_earlier
from compression_gate.pipeline.references import resolve
from compression_gate.pipeline.state import (
    Failure,
    failure_path,
    prepare_state,
    source_digests,
    state_kept,
    suite_lock,
    write_json,
)
from compression_gate.records.base import digest_of
from compression_gate.records.history import releases_of
from compression_gate.records.params import Params, read_params
from compression_gate.records.state_files import STATE
from compression_gate.records.waivers import read_waivers, today_utc

log = logging.getLogger("compression_gate")
VERDICT = Path("reports/verdict.json")
UNEXPLAINED = 4


@dataclass(frozen=True, kw_only=True)
class Request:
    """How the pipeline is to be run.

    Args:
        begin: a stage from which on everything runs again; force: everything does.
        again: time once more, beside what was timed before.
        dry: only show what would run.
        target: the branch that this commit is for; None: as the job's environment or the remote says.
        rebuild: train and compress a baseline or release again, from its commit, where its artifact is gone.
    """

    begin: str | None = None
    force: bool = False
    dry: bool = False
    target: str | None = None
    rebuild: bool = False
    again: bool = False

    @property
    def start(self) -> str | None:
        """The stage from which on everything runs again."""
        return "benchmark" if self.again else self.begin


def run(suite: Path, request: Request) -> Failure | None:
    """Bring every record up to date; returns what failed, after writing a verdict that says so.

    Raises:
        ParamsError: the params, the waivers, `dvc.yaml` or the request are wrong. Nothing was touched.
    """
    if request.begin is not None and request.begin not in STAGES:
        raise ParamsError(f"--from: expected one of {', '.join(STAGES)}, got {request.begin!r}")
    if request.again and (request.begin is not None or request.force):
        raise ParamsError("--again: times once more and runs nothing else again: leave out --from and --force")
    params = read_params(suite)
    source_digests(suite, params)
    check_definition(params, suite)
    read_waivers(suite, params, today=today_utc(), releases=known_releases(suite))
    if request.again:
        require_earlier(suite)
    with suite_lock(suite):
        if request.dry:
            show(suite, params, request)
            return None
        failure = attempted(suite, params, request)
        if failure is not None:
            record_crash(suite, params, failure)
        return failure


def known_releases(suite: Path) -> tuple[str, ...]:
    """The releases on record as the last run found them; this one looks for them anew."""
    try:
        return releases_of(suite)
    except MetricsError as error:
        log.warning("%s (this run writes it anew)", error)
        return ()


def show(suite: Path, params: Params, request: Request) -> None:
    """Let DVC say what would run; what `run` prepares for it is put back as it was.

    Raises:
        CompressionGateError: DVC could not say.
    """
    check_recipe(params, suite)
    if dvc_root(suite) is None:
        log.info("no DVC here yet: `compression-gate run` sets it up and runs every stage")
        return
    with state_kept(suite):
        prepare_state(suite, params)
        resolve(suite, params, target=request.target)
        code = reproduce(suite, begin=request.start, force=request.force, dry=True)
    if code != 0:
        raise CompressionGateError(f"DVC ended with code {code} before it could say what would run: see its output")


def attempted(suite: Path, params: Params, request: Request) -> Failure | None:
    """Take the road; whatever fails on it, DVC and the disk included, is returned.

    Raises:
        ParamsError: the recipe is wrong. Nothing was touched.
    """
    touched = False
    try:
        check_recipe(params, suite)
        touched = True
        failure_path(suite).unlink(missing_ok=True)
        (suite / VERDICT).unlink(missing_ok=True)
        if done := set_up(suite):
            log.info("%s", done)
        prepare_state(suite, params)
        resolve(suite, params, target=request.target, rebuild=request.rebuild)
        return failure_of(suite, reproduce(suite, begin=request.start, force=request.force))
    except CompressionGateError as error:
        if isinstance(error, ParamsError) and not touched:
            raise
        return Failure.model_validate({"stage": "run", "exit_code": error.exit_code, "message": str(error)})
    except Exception as error:
        log.exception("the run could not go on")
        return Failure(stage="run", exit_code=UNEXPLAINED, message=f"{type(error).__name__}: {error}")


def check_recipe(params: Params, suite: Path) -> None:
    """Build the recipe's steps once, so that a wrong option is told before anything is trained.

    Methods import torch, which takes seconds: a recipe that was found good is remembered by its digest.
    """
    path = suite / STATE / "checked.json"
    recipe = suite / params.compress.recipe if params.compress.recipe else None
    text = recipe.read_text(encoding="utf-8") if recipe and recipe.is_file() else ""
    digest = digest_of([__version__, params.as_dict()["compress"], text])
    try:
        if json.loads(path.read_text(encoding="utf-8")) == {"recipe": digest}:
            return
    except (OSError, ValueError):
        pass
    from compression_gate.artifacts.recipe_check import check

    check(params, suite)
    write_json(path, {"recipe": digest})


def failure_of(suite: Path, code: int) -> Failure | None:
    """What went wrong in DVC or a stage, if anything did."""
    if code == 0:
        if absent := missing_outputs(suite):
            message = f"DVC reported success, yet {', '.join(absent)} is missing: run `compression-gate run --force`"
            return Failure(stage="dvc", exit_code=UNEXPLAINED, message=message)
        return None
    try:
        return Failure.read(failure_path(suite))
    except CompressionGateError:
        message = (
            f"DVC ended with code {code} and no stage left word: it was killed, or DVC itself failed (see its output)"
        )
        return Failure(stage="dvc", exit_code=UNEXPLAINED, message=message)


def record_crash(suite: Path, params: Params, failure: Failure) -> None:
    """Write a verdict that says so and render it, so that nobody reads an older one; on a full disk there is none."""
    from compression_gate.stages import gate, report

    try:
        for name in (str(VERDICT), *outputs_of(DEFINITION["report"])):
            (suite / name).unlink(missing_ok=True)
        gate.crashed_verdict(suite, params, failure.model_dump())
        report.run(suite)
    except Exception:
        log.exception("%s: the failure could not be written down whole: %s", failure.stage, failure.message)
