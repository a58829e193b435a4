"""The commands: parse, call, print. Everything heavy is imported inside."""

from __future__ import annotations

import importlib
import json as json_module
import logging
import os
import signal
import sys
import traceback
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from compression_gate import __version__
from compression_gate.errors import CompressionGateError, DataUnreachableError, ParamsError

if TYPE_CHECKING:
    from compression_gate.records.base import Record

app = typer.Typer(
    name="compression-gate",
    help="Model compression as a gated, repeatable part of a PyTorch repository.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Suite = Annotated[Path, typer.Option("-C", metavar="FOLDER", help="The suite: the folder that holds params.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
HERE = Path()
CRASHED, INTERRUPTED = 4, 130


class Policy(StrEnum):
    """Which table decides what blocks."""

    pull_request = "pull_request"
    release = "release"


class When(StrEnum):
    """When a comment is written; one that is there is always kept up to date."""

    always = "always"
    problems = "problems"
    never = "never"


class Profile(StrEnum):
    """How a coded file's large tensors are coded."""

    small = "small"
    fast = "fast"


PolicyOption = Annotated[Policy, typer.Option("--policy", help="What blocks: a pull request's rules, or a release's.")]


def guarded(word: str, suite: Path, **options: Any) -> Any:
    """Call a stage; a failure is told on stderr, written to `failure.json`, and sets the exit code.

    DVC turns every code into 255, so `run` learns what happened from that file. What the stage writes is gone then:
    nothing behind it may read an older run's. Wrong params leave everything as it was.
    """
    from compression_gate.pipeline.state import Failure, failure_path, remove_outputs

    try:
        return importlib.import_module(f"compression_gate.stages.{word}").run(suite, **options)
    except CompressionGateError as error:
        code, message = error.exit_code, str(error)
        lost = isinstance(error, DataUnreachableError)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a user's code raises ends as "could not measure", not as a pass
        traceback.print_exc()
        code, message, lost = CRASHED, f"{type(error).__name__}: {error}", False
    typer.echo(f"compression-gate {word}: {message}", err=True)
    if code != ParamsError.exit_code:
        remove_outputs(suite, word)
    if suite.is_dir():
        reason: Literal["crashed", "data_unreachable"] = "data_unreachable" if lost else "crashed"
        Failure(stage=word, exit_code=code, message=message, reason=reason).write(failure_path(suite))
    raise typer.Exit(code)


def tell(record: Record, text: str, *, as_json: bool) -> None:
    """Print what a stage found: a line for people, or its whole record."""
    typer.echo(record.model_dump_json(indent=2, by_alias=True) if as_json else text)


@app.callback(invoke_without_command=True)
def common(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Model compression as a gated, repeatable part of a PyTorch repository."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def prepare(suite: Suite = HERE, json: Json = False) -> None:
    """Look at every example: counts, ranges, NaN, duplicates, leaks between splits."""
    record = guarded("prepare", suite)
    tell(record, ", ".join(f"{name} {split.n:,}" for name, split in record.splits.items()) + " examples", as_json=json)


@app.command()
def train(suite: Suite = HERE, json: Json = False) -> None:
    """Train the reference, or adopt the weights the task names."""
    artifact = guarded("train", suite)
    tell(artifact, f"reference: {artifact.parameters:,} parameters, {artifact.state_bytes:,} bytes", as_json=json)


@app.command()
def compress(suite: Suite = HERE, json: Json = False) -> None:
    """Apply the recipe to the reference and export the candidate."""
    record = guarded("compress", suite)
    tell(record, f"candidate: {record.size_bytes:,} bytes after {len(record.steps)} steps", as_json=json)


@app.command()
def evaluate(suite: Suite = HERE, json: Json = False) -> None:
    """Measure every model, as exported and reloaded, on the test split."""
    record = guarded("evaluate", suite)
    tell(record, f"evaluated {', '.join(record.models)} on {record.n:,} examples", as_json=json)


@app.command()
def benchmark(suite: Suite = HERE, json: Json = False) -> None:
    """Measure bytes, memory, load time and latency of every model."""
    record = guarded("benchmark", suite)
    tell(record, f"measured {', '.join(record.models)} with {record.threads} thread(s)", as_json=json)


@app.command()
def gate(suite: Suite = HERE, policy: PolicyOption = Policy.pull_request, json: Json = False) -> None:
    """Judge the records by the rules and write the verdict; ends with 0 whatever it is, `check` sets the code."""
    verdict = guarded("gate", suite, policy=policy.value)
    tell(verdict, f"verdict: {verdict.status}", as_json=json)


@app.command()
def report(suite: Suite = HERE) -> None:
    """Render the verdict and the records."""
    guarded("report", suite)


@app.command()
def check(suite: Suite = HERE, policy: PolicyOption = Policy.pull_request, json: Json = False) -> None:
    """Print the verdict, make sure that it speaks of the files on disk, and end with its exit code."""
    raise typer.Exit(checked(suite, policy, as_json=json))


@app.command()
def run(
    suite: Suite = HERE,
    policy: PolicyOption = Policy.pull_request,
    begin: Annotated[str | None, typer.Option("--from", help="Run this stage and all behind it again.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run every stage again.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Time once more; judged together with what was timed before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run.")] = False,
    target: Annotated[
        str | None, typer.Option(help="The branch this commit is for; found from the job or the remote if not said.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild-baseline", help="Make a baseline whose artifact is gone again from its commit.")
    ] = False,
    json: Json = False,
) -> None:
    """Take the whole road, then print the verdict and end with its exit code."""
    from compression_gate.stages import run as stage_run

    # What prints the verdict takes a third of a second to import, and DVC a second to find nothing to do: both at once.
    Thread(target=importlib.import_module, args=("compression_gate.stages.report",), daemon=True).start()
    request = stage_run.Request(begin=begin, force=force, dry=dry_run, target=target, rebuild=rebuild, again=again)
    failure = stage_run.run(suite, request)
    if dry_run:
        return
    if policy is Policy.release and failure is None:
        importlib.import_module("compression_gate.stages.holdout").run(suite)
    code = checked(suite, policy, as_json=json)
    if again and failure is None and not json:
        for line in importlib.import_module("compression_gate.pipeline.evidence").attempts_lines(suite):
            typer.echo(f"  {line}")
    raise typer.Exit(failure.exit_code if failure else code)


@app.command()
def record(
    suite: Suite = HERE,
    push: Annotated[bool, typer.Option("--push", help="Publish the record to the remote.")] = False,
    remote: Annotated[str | None, typer.Option(help="The remote; the only one, or origin, if not said.")] = None,
    release: Annotated[str | None, typer.Option(help="Mark the run as the release of this name.")] = None,
    accept: Annotated[
        str | None, typer.Option(metavar="REASON", help="Begin anew here, though the baseline is lost for good.")
    ] = None,
    json: Json = False,
) -> None:
    """Keep this run in the history, for later commits to be held against: the target branch's job does it."""
    from compression_gate.stages import record as stage_record

    kept = stage_record.run(suite, push=push, remote=remote, release=release, accepted=accept)
    told = f"recorded {kept.commit[:10]}: {kept.status}{f', release {kept.release}' if kept.release else ''}"
    tell(kept, told, as_json=json)


@app.command()
def release(
    name: Annotated[str, typer.Argument(help="What the release is called: 1.4.0")],
    suite: Suite = HERE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The archive to write.")] = None,
    json: Json = False,
) -> None:
    """Write one archive of exactly what was judged; refused unless it passes as a release and nothing changed since."""
    from compression_gate.stages import release as stage_release

    path, manifest = stage_release.run(suite, name, output)
    files = f"{len(manifest.files)} files, {sum(entry.bytes for entry in manifest.files.values()):,} bytes"
    tell(manifest, f"wrote {path}: {files}, candidate {manifest.candidate_digest[:12]}", as_json=json)


@app.command()
def review(
    suite: Suite = HERE,
    since: Annotated[str | None, typer.Option(help="The first commit to look at; all if not said.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there: .html, or Markdown.")] = None,
    json: Json = False,
) -> None:
    """Look over the recorded runs up to this commit: what moved, which commit did it, the drift since the release."""
    from compression_gate.stages import review as stage_review

    found, text = stage_review.run(suite, since=since, output=output)
    tell(found, f"wrote {output}" if output else text, as_json=json)


@app.command()
def init(
    context: typer.Context,
    suite: Suite = HERE,
    model: Annotated[str | None, typer.Option(help="Dotted path of the module or its factory.")] = None,
    data: Annotated[str | None, typer.Option(help="Dotted path of the callable that returns a split.")] = None,
    weights: Annotated[str | None, typer.Option(help="A state dict, or from_model; nothing is trained then.")] = None,
    kind: Annotated[str | None, typer.Option(help="classification, regression or custom.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Dotted path of the scorer; needed for kind custom.")] = None,
    loss: Annotated[str | None, typer.Option(help="Dotted path of the loss, in place of the kind's own.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Renew the deps of dvc.yaml.")] = False,
) -> None:
    """Write params.yaml, dvc.yaml and two workflows; nothing that is there is overwritten."""
    from compression_gate.stages import init as stage_init

    if refresh:
        if given := given_of(context, "model", "data", "weights", "kind", "scorer", "loss"):
            raise ParamsError(f"init: {given}: expected none beside --refresh: edit params.yaml, or leave them out")
        typer.echo(stage_init.refresh(suite) or "dvc.yaml declares every source already")
        return
    request = stage_init.Request(model=model, data=data, weights=weights, kind=kind, scorer=scorer, loss=loss)
    for path in stage_init.run(suite, request):
        typer.echo(f"wrote {path}")


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="methods, metrics, rules, runtimes, …")] = None,
    suite: Suite = HERE,
    json: Json = False,
) -> None:
    """Name everything that params.yaml may name, the same in every suite."""
    from compression_gate.reporters.terminal import show_rows
    from compression_gate.stages import listing

    rows = {name: listing.rows_of(name) for name in ([kind] if kind else listing.KINDS)}
    if json:
        typer.echo(json_module.dumps(rows, indent=2))
    else:
        show_rows(rows)


@app.command()
def doctor(suite: Suite = HERE, json: Json = False) -> None:
    """Say what is missing, and the line that mends it."""
    from compression_gate.stages import doctor as stage_doctor

    found = list(stage_doctor.findings(suite))
    if json:
        typer.echo(json_module.dumps([vars(finding) for finding in found], indent=2))
    else:
        for finding in found:
            sign = "ok  " if finding.fine else "MISS" if finding.needed else "note"
            typer.echo(f"{sign} {finding.name}: {finding.found}")
            if not finding.fine:
                typer.echo(f"     {finding.mend}")
    raise typer.Exit(CRASHED if any(not finding.fine and finding.needed for finding in found) else 0)


@app.command()
def power(
    suite: Suite = HERE,
    n: Annotated[int | None, typer.Option("--n", help="Number of test examples, in place of those at hand.")] = None,
    discordance: Annotated[
        float | None, typer.Option(help="Share of examples on which two models differ in being right.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what the rules can prove with the data at hand, and what it would take to prove more."""
    from compression_gate.reporters.terminal import show_power
    from compression_gate.stages import power as stage_power

    report = stage_power.run(suite, stage_power.Given(n=n, discordance=discordance))
    if json:
        tell(report, "", as_json=True)
    else:
        show_power(report)


@app.command()
def sensitivity(
    suite: Suite = HERE,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="A method to ask about; again for more. All if not said.")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", help="Validation examples, evenly spaced.")] = 2000,
    json: Json = False,
) -> None:
    """Compress one layer of the reference at a time, by method and strength, and say what each costs and saves."""
    from compression_gate.reporters.sensitivity import show
    from compression_gate.stages import sensitivity as stage_sensitivity

    request = stage_sensitivity.Request(methods=tuple(method or ()), examples=examples)
    table = stage_sensitivity.run(suite, request)
    if json:
        tell(table, "", as_json=True)
    else:
        show(table)


@app.command()
def search(
    suite: Suite = HERE,
    name: Annotated[str | None, typer.Option(help="Of the recipe: recipes/NAME.yaml.")] = None,
    searcher: Annotated[str | None, typer.Option(help="Who proposes: see `compression-gate list searchers`.")] = None,
    trials: Annotated[int | None, typer.Option(help="End after so many.")] = None,
    minutes: Annotated[float | None, typer.Option(help="End after so long.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same proposals.")] = None,
    executor: Annotated[str | None, typer.Option(help="Where trials run: local or ray.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at once.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search that was stopped or killed.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Write the recipe that was found into params.yaml, in place of steps.")
    ] = False,
    json: Json = False,
) -> None:
    """Find a recipe: smaller and no worse, as far as the gate's own rules on validation data tell."""
    from compression_gate.reporters.search import show
    from compression_gate.stages import adoption
    from compression_gate.stages import search as stage_search

    ask = stage_search.Ask(
        name=name,
        searcher=searcher,
        trials=trials,
        minutes=minutes,
        seed=seed,
        executor=executor,
        workers=workers,
        address=address,
        resume=resume,
    )
    before = adoption.digest_in_use(suite) if adopt else None
    found = stage_search.run_shown(suite, ask)
    if not json:
        show(found)
    adopted = adopt and adoption.adopt_found(suite, found, before)
    if adopt and found.best is not None:
        same = "params.yaml stays as it is: what was found is no better than the steps in use"
        typer.echo(f"params.yaml: compress.recipe: {found.recipe}" if adopted else same, err=True)
    if json:
        typer.echo(json_module.dumps(found.model_dump(mode="json", by_alias=True) | {"adopted": adopted}, indent=2))
    raise typer.Exit(stage_search.code_of(found))


@app.command()
def encode(
    source: Annotated[
        Path | None,
        typer.Argument(help="A .safetensors or .onnx file, or a model's folder; else the candidate."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file to write.")] = None,
    suite: Suite = HERE,
    profile: Annotated[Profile, typer.Option(help="Fewest bytes, or fast to decode.")] = Profile.small,
    embed_graph: Annotated[
        bool, typer.Option("--embed-graph", help="Of a model: with its exported graph, to be run without its code.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
) -> None:
    """Write a coded file, model.cgz: every zero, shared value and small integer becomes bytes that are not there."""
    from compression_gate.stages import encode as stage_encode

    request = stage_encode.Request(
        source=source, output=output, fast=profile is Profile.fast, embed_graph=embed_graph, workers=workers
    )
    written = stage_encode.run(suite, request)
    typer.echo(f"wrote {written}: {written.stat().st_size:,} bytes")


@app.command()
def decode(
    file: Annotated[Path, typer.Argument(help="A coded file.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file or folder to write.")] = None,
    suite: Suite = HERE,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
) -> None:
    """Write what a coded file was made from: tensors, an ONNX graph, or a model's folder."""
    from compression_gate.stages import decode as stage_decode

    written = stage_decode.run(suite, stage_decode.Request(file=file, output=output, workers=workers))
    typer.echo(f"wrote {written}")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A coded file.")], suite: Suite = HERE, json: Json = False
) -> None:
    """Say where the bytes of a coded file are: each tensor's form, bytes and entropy."""
    from compression_gate.reporters.coded import show
    from compression_gate.stages import inspect as stage_inspect

    found = stage_inspect.run(suite, file)
    if json:
        tell(found, "", as_json=True)
    else:
        show(found)


@app.command()
def post(
    suite: Suite = HERE,
    policy: PolicyOption = Policy.pull_request,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="PATH", help="Post what --to wrote: a folder, or a zip archive.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Post what the run uploaded that this workflow_run job follows.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Write what another job needs to post; send nothing.")
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option("--suite", metavar="NAME", help="With --from, --follow, --open: expect this one."),
    ] = None,
    sha: Annotated[str | None, typer.Option("--head-sha", help="The commit that was judged, if not the job's.")] = None,
    opening: Annotated[bool, typer.Option("--open", help="Only open the check run, in progress.")] = False,
    comment: Annotated[When, typer.Option(help="When a first comment is written.")] = When.always,
    chat: Annotated[bool, typer.Option("--chat", help="Tell the chat too: COMPRESSION_GATE_CHAT_WEBHOOK.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent.")] = False,
    json: Json = False,
) -> None:
    """Tell the verdict on GitHub or GitLab; ends with 0 whatever the verdict is and whatever the forge answers."""
    from compression_gate.forge.jobs import unheeded
    from compression_gate.stages import post as stage_post

    request = stage_post.Request(
        suite=suite,
        policy=policy.value,
        source=source,
        follow=follow,
        to=to,
        opening=opening,
        suites=tuple(suites or ()),
        comment=comment.value,
        sha=sha,
        chat=chat,
        dry=dry_run,
    )
    outcome = stage_post.run(request)
    with unheeded():
        if json or dry_run:
            typer.echo(json_module.dumps([one.model_dump(mode="json") for one in outcome.posted], indent=2))
        else:
            for one in outcome.posted:
                typer.echo(f"{one.suite}: {one.status}: comment {one.comment}, check run {one.check_run}")
    raise typer.Exit(outcome.exit_code)


@app.command()
def waive(
    rule: Annotated[str, typer.Argument(help="The rule of params.yaml that may be broken for a while.")],
    ceiling: Annotated[str, typer.Option(help="How far, in the metric's unit, or as a share like 8% where it is one.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    expires: Annotated[str, typer.Option(help="The last day, 2026-12-31, or the release with which it ends.")],
    suite: Suite = HERE,
    part: Annotated[str | None, typer.Option("--slice", help="One slice of the rule; every one if not said.")] = None,
    owner: Annotated[str | None, typer.Option(help="Who answers for it; git's user.name if not said.")] = None,
    release: Annotated[bool, typer.Option("--release", help="It also covers in a release.")] = False,
) -> None:
    """Write a waiver into waivers.yaml: a limit that may be broken up to a ceiling, for a while, by somebody's name."""
    from compression_gate.stages import waive as stage_waive

    request = stage_waive.Request(
        rule=rule, ceiling=ceiling, reason=reason, expires=expires, slice=part, owner=owner, release=release
    )
    typer.echo(f"wrote {stage_waive.run(suite, request)}")


@app.command()
def selftest(
    context: typer.Context,
    suite: Suite = HERE,
    gate: Annotated[bool, typer.Option("--gate", help="The judge: its error rates; nothing is silent.")] = False,
    timing: Annotated[bool, typer.Option("--timing", help="Live decisions on models of known speed.")] = False,
    full: Annotated[bool, typer.Option("--full", help="So many that the claims are proven; resumable.")] = False,
    load: Annotated[int, typer.Option(help="Busy processes beside the timing.")] = 0,
    runtime: Annotated[str, typer.Option(help="Runtimes to time in, by commas.")] = "onnxruntime",
    size: Annotated[str, typer.Option(help="small (under 1 ms), large (10 to 30 ms), or both by a comma.")] = "small",
    slowed: Annotated[str, typer.Option(help="How much slower candidates are made [%], by commas.")] = "5",
    minutes: Annotated[float, typer.Option(help="No new decision is begun after so long.")] = 5.0,
    json: Json = False,
) -> None:
    """Hold the gate to its own numbers, on this machine, and end with 1 where one does not hold."""
    from compression_gate.reporters import selftest as reporter

    if timing:  # what is asked is checked before anything is measured
        stage = importlib.import_module("compression_gate.stages.selftest_timing")
        kept = suite / ".compression_gate/selftest_timing.jsonl" if full else None
        asked = {"runtimes": runtime.split(","), "sizes": size.split(","), "load": load, "minutes": minutes}
        plan = stage.plan_of(full=full, kept=kept, slowed=stage.shares_of(slowed), **asked)
    elif given := given_of(context, "load", "runtime", "size", "slowed", "minutes"):
        raise ParamsError(f"selftest: {given}: expected --timing too, got none: add it, or leave them out")
    judged = importlib.import_module("compression_gate.stages.selftest").run(full=full) if gate or not timing else None
    if judged and not json:
        reporter.show(judged)
    timed = stage.run(plan) if timing else None
    if timed and not json:
        reporter.show_timing(timed)
    if json:
        typer.echo(reporter.as_json(judged, timed))
    raise typer.Exit(max(half.exit_code for half in (judged, timed) if half))


def given_of(context: typer.Context, *names: str) -> str:
    """Those options of a command that stand on its command line, by commas."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return ", ".join(f"--{name}" for name, source in sources.items() if source and source.name == "COMMANDLINE")


def checked(suite: Path, policy: Policy, *, as_json: bool) -> int:
    """Check the verdict, print it, and return the exit code."""
    from compression_gate.reporters import terminal
    from compression_gate.stages import check as stage_check
    from compression_gate.stages.report import read_findings

    outcome = stage_check.check(suite, policy.value)
    if as_json:
        text = terminal.as_json(outcome.verdict, outcome.status, outcome.exit_code, outcome.policy, outcome.problems)
        typer.echo(text)
    else:
        findings = replace(read_findings(suite), verdict=outcome.verdict) if outcome.verdict else None
        terminal.show(findings, outcome.status, outcome.exit_code, outcome.problems)
    return outcome.exit_code


def main() -> None:
    """Entry point: errors of ours are told without a traceback and set the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("compression_gate").setLevel(logging.INFO)
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is ended, no child survives
    try:
        app()
    except CompressionGateError as error:
        typer.echo(f"compression-gate: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception:  # noqa: BLE001  # a fault of ours must not end with 1, which says that a limit is proven broken
        traceback.print_exc()
        sys.exit(CRASHED)
