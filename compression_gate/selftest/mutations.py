"""Every way to damage a finished run that must never end green, as functions on its folder.

Adding one: a row in a table below, under an entry of the list in docs/gate.md, with what must be said. `selftest` runs
the rows that need nothing but files, on a run written by hand; the project's tests run all of them on a real one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compression_gate.history import git, store
from compression_gate.records.base import digest_of_file, write_text
from compression_gate.records.state_files import HISTORY, REFERENCES, SOURCES, STATE
from compression_gate.selftest.finished_run import pair_of

Change = Callable[[Path], object]
Values = Any  # what a JSON or YAML file holds: nested dicts and lists

EVALUATION, BENCHMARK = "reports/evaluation.json", "reports/benchmark.json"
PREDICTIONS, VERDICT = "reports/predictions.npz", "reports/verdict.json"
BASELINE = f"{REFERENCES}/baseline"
CANDIDATE, REFERENCE = "models/candidate", "models/reference"

# The list of docs/gate.md, in its order; tests/test_mutations.py holds that every entry has a row.
METRIC = "a metric deleted"
SLICE = "a slice deleted"
OUTPUT = "a stage's output deleted"
NO_BASELINE = "the baseline deleted, once recorded"
NO_HISTORY = "the history deleted where a rule needs it"
NOT_FINITE = "NaN or infinity anywhere"
IDS = "duplicate or unmatched example ids"
SHALLOW = "a shallow clone"
STALE_LOCK = "a stale lock"
CRASH = "a crash in any stage with an old verdict lying there"
RENAMED = "a renamed rule"
TRUNCATED = "truncated JSON"
CHANGED = "an artifact, predictions or params changed after the verdict"
SIDE_FILE = "weights moved to a side file"
SOURCE = "a changed user source"
UNDECLARED = "a changed user source that is not in deps"
MACHINE = "a record of another machine"
CLOCK = "a clock that goes backwards"
ENTRIES = (
    METRIC,
    SLICE,
    OUTPUT,
    NO_BASELINE,
    NO_HISTORY,
    NOT_FINITE,
    IDS,
    SHALLOW,
    STALE_LOCK,
    CRASH,
    RENAMED,
    TRUNCATED,
    CHANGED,
    SIDE_FILE,
    SOURCE,
    UNDECLARED,
    MACHINE,
    CLOCK,
)
JUDGED_ANEW, ONLY_CHECKED = ("gate", "check"), ("check",)


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One way to damage a finished run.

    Args:
        entry: the entry of docs/gate.md. change: what is done to the folder.
        expected: what must be said, word for word. exit_code: how the last word must end.
        words: the commands that are called then, of which all but `gate`, which leaves that to `check`, must end
            non-zero; the old verdict lies there until one of them replaces it.
        bound: whether the old verdict speaks of what was changed, so that `check` alone must refuse it too.
        needs: what of a real run it needs, "" where records written by hand will do.
    """

    entry: str
    change: Change
    expected: str
    exit_code: int = 4
    words: tuple[str, ...] = JUDGED_ANEW
    bound: bool = True
    needs: str = ""


# --- how files are damaged ---------------------------------------------------------------------------------------


def put_bytes(path: Path, content: bytes) -> None:
    """Write a file anew: what lies there may be a link into DVC's cache, which must stay as it is."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def edited(name: str, change: Callable[[Values], object]) -> Change:
    """Change the values of a JSON file."""

    def apply(suite: Path) -> None:
        values = json.loads((suite / name).read_text(encoding="utf-8"))
        change(values)
        write_text(suite / name, json.dumps(values))

    return apply


def literal(name: str, where: str, token: str) -> Change:
    """Write ``token``, which need not be JSON, in the place of a value of a JSON file; ``*`` is the first key."""
    mark = "put the token here"

    def apply(suite: Path) -> None:
        values = json.loads((suite / name).read_text(encoding="utf-8"))
        *parents, last = where.split(".")
        place = values
        for part in parents:
            place = place[key_of(place, part)]
        place[key_of(place, last)] = mark
        write_text(suite / name, json.dumps(values).replace(f'"{mark}"', token))

    return apply


def key_of(place: Values, part: str) -> Any:
    """A part of a path as a key of what it leads into."""
    if isinstance(place, list):
        return int(part)
    return next(iter(place)) if part == "*" else part


def outcomes(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the outcomes of every example, and the evaluation's digest of them, as a run of `evaluate` would."""

    def apply(suite: Path) -> None:
        with np.load(suite / PREDICTIONS) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
        change(arrays)
        (suite / PREDICTIONS).unlink()
        np.savez(suite / PREDICTIONS, **arrays)
        edited(EVALUATION, lambda values: values.update(predictions_digest=digest_of_file(suite / PREDICTIONS)))(suite)

    return apply


def params(change: Callable[[Values], object]) -> Change:
    """Change the values of `params.yaml`."""

    def apply(suite: Path) -> None:
        path = suite / "params.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(values)
        write_text(path, yaml.safe_dump(values, sort_keys=False))

    return apply


def removed(suite: Path, name: str) -> None:
    """Remove a file or a folder."""
    path = suite / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def truncated(suite: Path, name: str) -> None:
    """Cut a file in half."""
    content = (suite / name).read_bytes()
    put_bytes(suite / name, content[: len(content) // 2])


def lengthened(suite: Path, name: str) -> None:
    """Add a byte to a file."""
    put_bytes(suite / name, (suite / name).read_bytes() + b" ")


def all_of(*changes: Change) -> Change:
    """Several changes, one after the other."""

    def apply(suite: Path) -> None:
        for change in changes:
            change(suite)

    return apply


# --- what is done ------------------------------------------------------------------------------------------------


def candidate_of(record: Values) -> Values:
    """The candidate's part of evaluation.json or benchmark.json."""
    return record["models"]["candidate"]


def not_a_number(arrays: dict[str, Any], of: str, value: float) -> None:
    """Let one label be no number: of an example that every model got wrong anyway, so that no accuracy moves."""
    wrong = [answers != arrays["target"] for name, answers in arrays.items() if name.endswith("_predicted")]
    labels = arrays[of].astype(np.float64)
    labels[int(np.argmax(np.logical_and.reduce(wrong)))] = value
    arrays[of] = labels


def repeat_an_id(arrays: dict[str, Any]) -> None:
    """Give the second example the first one's id."""
    arrays["ids"] = arrays["ids"].copy()
    arrays["ids"][1] = arrays["ids"][0]


def drop_an_example(arrays: dict[str, Any], *, of: str | None) -> None:
    """Lose the last example: of one column only, or of all."""
    for name in arrays if of is None else (of,):
        arrays[name] = arrays[name][:-1]


def baseline_lost(reason: str) -> Change:
    """Leave what `run` leaves where a recorded baseline is not to be had: a reason in its place."""

    def forget(record: Values) -> None:
        record["models"].pop("baseline")
        record.get("pairs", {}).pop("baseline", None)
        record["absent"]["baseline"] = reason

    return all_of(partial(removed, name=BASELINE), edited(EVALUATION, forget), edited(BENCHMARK, forget))


def rerun_of_compress(suite: Path) -> None:
    """Put another candidate there, whole and with a record of its own, as a newer run of compress would."""
    from compression_gate.records.artifact import FILE_NAME, Artifact, entries

    folder = suite / CANDIDATE
    lengthened(suite, f"{CANDIDATE}/model.onnx")
    made = Artifact.read(folder / FILE_NAME).model_copy(update={"files": entries(folder)})
    made.sealed().write(folder / FILE_NAME)


def locked_unseen(suite: Path) -> None:
    """Tighten a limit and tell DVC that all was made with it: the lock is new, the verdict is the old one's."""
    from compression_gate.pipeline.dvc import dvc
    from compression_gate.pipeline.state import prepare_state
    from compression_gate.records.params import read_params

    params(lambda v: v["gate"]["rules"]["size"].update(max=1))(suite)
    prepare_state(suite, read_params(suite))
    done = dvc(["commit", "--force", "--quiet"], suite)
    assert done.returncode == 0, done.stderr


def data_file(suite: Path) -> Path:
    """The user's module that `task.data` names."""
    values = yaml.safe_load((suite / "params.yaml").read_text(encoding="utf-8"))
    return suite / Path(*values["task"]["data"].partition(":")[0].split(".")).with_suffix(".py")


CLOSED = "the data store is closed"


def close_the_data(suite: Path) -> None:
    """Let reading the data raise."""
    path = data_file(suite)
    code = f"\n\ndef load(*_, **__):\n    raise RuntimeError({CLOSED!r})\n"
    put_bytes(path, path.read_bytes() + code.encode())


def import_another_file(suite: Path) -> None:
    """Let the data come from a new file, of which `dvc.yaml` knows nothing."""
    path = data_file(suite)
    put_bytes(path.with_name("undeclared.py"), b"SCALE = 1\n")
    package = path.relative_to(suite).with_suffix("").parts[:-1]
    line = f"\nfrom {'.'.join((*package, 'undeclared'))} import SCALE as SCALE\n"
    put_bytes(path, path.read_bytes() + line.encode())


def undeclare(suite: Path) -> None:
    """Take the user's data file out of every stage's deps, and change it."""
    path = suite / "dvc.yaml"
    name = data_file(suite).relative_to(suite).as_posix()
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for stage in values["stages"].values():
        stage["deps"] = [dep for dep in stage.get("deps", []) if dep != name]
    write_text(path, yaml.safe_dump(values, sort_keys=False))
    lengthened(suite, name)


def make_shallow(suite: Path) -> None:
    """Let the clone end at the commit that is checked out, as `git clone --depth 1` does."""
    head = git.commit_of("HEAD", suite)
    assert head is not None  # a real run with a baseline has a commit
    write_text(suite / ".git/shallow", head + "\n")


def forget_history(suite: Path) -> None:
    """Delete the records of earlier runs from git."""
    git.output(["update-ref", "-d", store.REF], suite)


def block(suite: Path, name: str) -> None:
    """Let a stage stumble over a folder where it writes a file."""
    (suite / name).unlink(missing_ok=True)
    (suite / name / "in the way").mkdir(parents=True)


def backwards(low: float, value: float, high: float) -> Change:
    """Let the candidate's time be what a clock that ran backwards would give, the whole spread consistent."""
    spread = {"low": low, "value": value, "high": high}
    return edited(BENCHMARK, lambda v: candidate_of(v)["figures"]["latency_ms"].update(spread))


def control_of(ratio: float) -> dict[str, Any]:
    """The fields of a control that came out at a ratio, consistent in themselves."""
    held = pair_of(ratio)
    return {
        "control_blocks": [list(turn) for turn in held.blocks],
        "control_ratio": held.ratio,
        "control_interval": list(held.interval),
    }


def pair(low: float, ratio: float, high: float) -> Change:
    """Let the paired timing against the reference be other figures."""
    return edited(BENCHMARK, lambda v: v["pairs"]["reference"].update(ratio=ratio, interval=[low, high]))


# --- the table ---------------------------------------------------------------------------------------------------

GONE: Mapping[str, str] = {  # output -> what is said of it
    REFERENCE: "models/reference/artifact.json: missing",
    CANDIDATE: "models/candidate/artifact.json: missing",
    "reports/data.json": "data.json: missing",
    "reports/compression.json": "compression.json: missing",
    EVALUATION: "evaluation.json: missing",
    PREDICTIONS: "predictions.npz: missing",
    BENCHMARK: "benchmark.json: missing",
    "reports/timings.npz": "timings.npz: missing",
}
NUMBERS: Mapping[str, str] = {  # record -> a number in it
    EVALUATION: "models.candidate.metrics.accuracy.value",
    BENCHMARK: "models.candidate.figures.size_bytes.value",
    "reports/data.json": "splits.test.n",
    "reports/compression.json": "steps.0.seconds",
    f"{CANDIDATE}/artifact.json": "parameters",
    f"{REFERENCE}/artifact.json": "macs",
    f"{BASELINE}/artifact.json": "nonzeros",
    HISTORY: "schema",
}
RECORDS = (
    f"{REFERENCE}/artifact.json",
    f"{CANDIDATE}/artifact.json",
    f"{BASELINE}/artifact.json",
    "reports/data.json",
    "reports/compression.json",
    EVALUATION,
    BENCHMARK,
    HISTORY,
)
SIGNED = (
    f"{REFERENCE}/artifact.json",
    f"{CANDIDATE}/artifact.json",
    "reports/data.json",
    "reports/compression.json",
    EVALUATION,
)
ENDLESS_WAIVER = b"- {rule: accuracy, ceiling: .inf, reason: x, owner: x, expires: 2999-01-01}\n"
SET_BACK = "untrusted_timing: latency_ms of candidate: expected over zero"
STAGES = ("prepare", "train", "compress", "evaluate", "benchmark")

DELETED: Mapping[str, Mutation] = {
    "metric deleted from evaluation.json": Mutation(
        entry=METRIC,
        change=edited(EVALUATION, lambda v: candidate_of(v)["metrics"].pop("accuracy")),
        expected="missing_metric: accuracy was not produced",
    ),
    "metric deleted of the reference only": Mutation(
        entry=METRIC,
        change=edited(EVALUATION, lambda v: v["models"]["reference"]["metrics"].pop("accuracy")),
        expected="missing_metric: accuracy was not produced",
    ),
    "candidate deleted from evaluation.json": Mutation(
        entry=METRIC,
        change=edited(EVALUATION, lambda v: v["models"].pop("candidate")),
        expected="missing_metric: candidate is not in evaluation.json",
    ),
    "bytes deleted from benchmark.json": Mutation(
        entry=METRIC,
        change=edited(BENCHMARK, lambda v: candidate_of(v)["figures"].pop("size_bytes")),
        expected="missing_metric: size_bytes of candidate was not measured",
    ),
    "paired timing deleted": Mutation(
        entry=METRIC,
        change=edited(BENCHMARK, lambda v: v["pairs"].clear()),
        expected="missing_metric: the candidate was not timed against the reference",
    ),
    "test split deleted from data.json": Mutation(
        entry=METRIC,
        change=edited("reports/data.json", lambda v: v["splits"].pop("test")),
        expected="data.json: splits: expected test",
    ),
    "one class deleted": Mutation(
        entry=SLICE,
        change=edited(EVALUATION, lambda v: candidate_of(v)["slices"]["recall"].pop("class=1")),
        expected="missing_slice: recall has no slice class=1",
    ),
    "one class deleted of every model": Mutation(
        entry=SLICE,
        change=edited(EVALUATION, lambda v: [m["slices"]["recall"].pop("class=1") for m in v["models"].values()]),
        expected="missing_slice: recall has no slice class=1",
    ),
    "slices of a metric deleted": Mutation(
        entry=SLICE,
        change=edited(EVALUATION, lambda v: [model["slices"].pop("recall") for model in v["models"].values()]),
        expected="missing_metric: recall was not produced by slice",
    ),
    **{
        f"{name} deleted": Mutation(entry=OUTPUT, change=partial(removed, name=name), expected=said)
        for name, said in GONE.items()
    },
    "verdict deleted": Mutation(
        entry=OUTPUT,
        change=partial(removed, name=VERDICT),
        words=ONLY_CHECKED,
        expected="verdict.json: missing",
    ),
    "baseline's files deleted": Mutation(
        entry=NO_BASELINE,
        change=partial(removed, name=BASELINE),
        expected="stale: no baseline: it was measured, and its files are gone since",
    ),
    "baseline's artifact unreachable": Mutation(
        entry=NO_BASELINE,
        change=baseline_lost("not_comparable: the baseline, of bbbb, is gone: compression-gate run --rebuild-baseline"),
        expected="not_comparable: no baseline: the baseline, of bbbb, is gone",
    ),
    "baseline's record deleted": Mutation(
        entry=NO_BASELINE,
        change=baseline_lost("no_baseline: a baseline of bbbb was recorded here before, and the history is gone"),
        expected="no_baseline: no baseline: a baseline of bbbb was recorded here before",
    ),
    "baseline forgotten by the stages": Mutation(
        entry=NO_BASELINE,
        change=baseline_lost("no run of the target branch has been recorded yet"),
        expected="stale: no baseline: the history names",
    ),
    "history.json emptied": Mutation(
        entry=NO_HISTORY,
        change=lambda suite: put_bytes(suite / HISTORY, b'{"schema": 1}'),
        expected="history.json: expected the commit of the baseline",
    ),
    "history.json deleted": Mutation(
        entry=NO_HISTORY, change=partial(removed, name=HISTORY), expected="history.json: missing"
    ),
    "history deleted from git": Mutation(
        entry=NO_HISTORY,
        change=forget_history,
        words=("run",),
        expected="and the history is gone: git fetch",
        needs="git and DVC",
    ),
    "clone of depth one": Mutation(
        entry=SHALLOW,
        change=make_shallow,
        words=("run",),
        expected="this clone is shallow and ends before a recorded baseline",
        needs="git and DVC",
    ),
}

FINITE: Mapping[str, Mutation] = {
    **{
        f"{token} in {name}": Mutation(entry=NOT_FINITE, change=literal(name, where, token), expected=Path(name).name)
        for name, where in NUMBERS.items()
        for token in ("NaN", "-Infinity", "1e999")
    },
    "null without a reason in evaluation.json": Mutation(
        entry=NOT_FINITE,
        change=literal(EVALUATION, "models.candidate.metrics.accuracy.value", "null"),
        expected="not_finite: accuracy of candidate: not a finite number",
    ),
    "null in a slice": Mutation(
        entry=NOT_FINITE,
        change=literal(EVALUATION, "models.candidate.slices.recall.*.value", "null"),
        expected="not_finite: recall of candidate: not a finite number",
    ),
    "null in benchmark.json": Mutation(
        entry=NOT_FINITE,
        change=literal(BENCHMARK, "models.candidate.figures.latency_ms.value", "null"),
        expected="not_finite: latency_ms of candidate",
    ),
    "null in a paired timing": Mutation(
        entry=NOT_FINITE,
        change=literal(BENCHMARK, "pairs.reference.interval", "[null, null]"),
        expected="untrusted_timing: ratio",
    ),
    "NaN among the labels": Mutation(
        entry=NOT_FINITE,
        change=outcomes(partial(not_a_number, of="candidate_predicted", value=np.nan)),
        expected="candidate_predicted: expected finite numbers, got nan",
    ),
    "NaN among the true labels": Mutation(
        entry=NOT_FINITE,
        change=outcomes(partial(not_a_number, of="target", value=np.nan)),
        expected="target: expected finite numbers, got nan",
    ),
    "infinity among the labels": Mutation(
        entry=NOT_FINITE,
        change=outcomes(partial(not_a_number, of="candidate_predicted", value=np.inf)),
        expected="candidate_predicted: expected finite numbers, got inf",
    ),
    **{
        f"{token} in verdict.json": Mutation(
            entry=NOT_FINITE,
            change=literal(VERDICT, "checks.0.observed", token),
            words=ONLY_CHECKED,
            expected="verdict.json",
        )
        for token in ("NaN", "Infinity")
    },
    "NaN as a limit": Mutation(
        entry=NOT_FINITE,
        change=params(lambda v: v["gate"]["rules"]["accuracy"].update(max_drop=float("nan"))),
        exit_code=2,
        expected="gate.rules.accuracy",
    ),
    "NaN as the confidence": Mutation(
        entry=NOT_FINITE,
        change=params(lambda v: v["gate"].update(confidence=float("nan"))),
        exit_code=2,
        expected="gate.confidence",
    ),
    "infinity as a waiver's ceiling": Mutation(
        entry=NOT_FINITE,
        change=lambda suite: put_bytes(suite / "waivers.yaml", ENDLESS_WAIVER),
        exit_code=2,
        expected="[0].ceiling: expected a finite number",
    ),
    "infinity as a limit": Mutation(
        entry=NOT_FINITE,
        change=params(lambda v: v["gate"]["rules"]["accuracy"].update(max_drop=float("inf"))),
        exit_code=2,
        expected="gate.rules.accuracy",
    ),
}

EXAMPLES: Mapping[str, Mutation] = {
    "an id twice": Mutation(entry=IDS, change=outcomes(repeat_an_id), expected="expected unique ids"),
    "an answer of one model missing": Mutation(
        entry=IDS,
        change=outcomes(partial(drop_an_example, of="candidate_predicted")),
        expected="expected columns of one length",
    ),
    "an example missing": Mutation(
        entry=IDS,
        change=outcomes(partial(drop_an_example, of=None)),
        expected="not_comparable: expected one number of test examples",
    ),
    "no answers of the reference": Mutation(
        entry=IDS, change=outcomes(lambda arrays: arrays.pop("reference_predicted")), expected="reference"
    ),
    "ids of another run": Mutation(
        entry=IDS,
        change=all_of(
            outcomes(lambda arrays: arrays.update(ids=np.char.add("other:", arrays["ids"]))),
            edited(EVALUATION, lambda v: v.update(predictions_digest="of the run that evaluation.json is of")),
        ),
        expected="expected the files that evaluation.json speaks of",
    ),
}

STALE: Mapping[str, Mutation] = {
    "another candidate under an old verdict": Mutation(
        entry=STALE_LOCK,
        change=rerun_of_compress,
        words=ONLY_CHECKED,
        expected="models/candidate: changed since",
    ),
    "another candidate under old measurements": Mutation(
        entry=STALE_LOCK,
        change=rerun_of_compress,
        expected="stale: the evaluation measured another candidate than the one on disk",
    ),
    "reference retrained without compress": Mutation(
        entry=STALE_LOCK,
        change=edited(f"{CANDIDATE}/artifact.json", lambda v: v.update(parent_digest="an older reference")),
        expected="stale: the candidate was made of another reference",
    ),
    "recipe of another run": Mutation(
        entry=STALE_LOCK,
        change=edited("reports/compression.json", lambda v: v.update(recipe_digest="an older recipe")),
        expected="stale: the candidate was made by another recipe",
    ),
    **{
        f"{path} changed without running": Mutation(
            entry=STALE_LOCK, change=params(change), expected=f"stale: made with another {path}"
        )
        for path, change in {
            "compress": lambda v: v.setdefault("compress", {}).update(steps=[{"method": "weight_sharing"}]),
            "train": lambda v: v.setdefault("train", {}).update(epochs=9),
            "prepare": lambda v: v.update(prepare={"allow": ["leaks"]}),
            "evaluate": lambda v: v.setdefault("evaluate", {}).update(perturbations=["gaussian_noise"]),
        }.items()
    },
    **{
        f"{name} without the params it was made with": Mutation(
            entry=STALE_LOCK,
            change=edited(name, lambda v: v.pop("params_digests")),
            expected="stale: does not say with which params it was made",
        )
        for name in SIGNED
    },
    "fewer parameters claimed by both records": Mutation(
        entry=STALE_LOCK,
        change=all_of(
            edited(f"{CANDIDATE}/artifact.json", lambda v: v.update(parameters=1)),
            edited(BENCHMARK, lambda v: candidate_of(v)["figures"]["parameters"].update(value=1)),
        ),
        expected="artifact.json: digest: expected",
    ),
    "data of another run": Mutation(
        entry=STALE_LOCK,
        change=edited("reports/data.json", lambda v: v.update(digest="other data")),
        expected="not_comparable: the evaluation was made on other data",
    ),
    "dvc.lock renewed without running": Mutation(
        entry=STALE_LOCK,
        change=locked_unseen,
        words=("run",),
        expected="params.yaml: changed since",
        needs="DVC",
    ),
    "verdict of another version": Mutation(
        entry=STALE_LOCK,
        change=edited(VERDICT, lambda v: v.update(package_version="0.0.1")),
        words=ONLY_CHECKED,
        expected="judged by version 0.0.1",
    ),
    **{
        f"{stage} crashes": Mutation(
            entry=CRASH,
            change=close_the_data,
            words=(stage, "check"),
            expected=CLOSED,
            needs="torch",
        )
        for stage in STAGES
    },
    "run crashes": Mutation(entry=CRASH, change=close_the_data, words=("run",), expected=CLOSED, needs="DVC"),
    "gate crashes": Mutation(
        entry=CRASH,
        change=partial(block, name=f"{STATE}/judged.json"),
        bound=False,
        expected="verdict.json: missing",
    ),
    "report crashes": Mutation(
        entry=CRASH,
        change=partial(block, name="reports/report.md"),
        words=("report",),
        expected="IsADirectoryError",
        needs="the command line",
    ),
    "rule renamed in params.yaml": Mutation(
        entry=RENAMED,
        change=params(lambda v: v["gate"]["rules"].update(renamed=v["gate"]["rules"].pop("accuracy"))),
        words=ONLY_CHECKED,
        expected="params.yaml: changed since",
    ),
    "rule renamed in the verdict": Mutation(
        entry=RENAMED,
        change=edited(VERDICT, lambda v: [c.update(rule="renamed") for c in v["checks"] if c["rule"] == "accuracy"]),
        words=ONLY_CHECKED,
        expected="expected a check of gate.rules.accuracy",
    ),
    "rule's metric is none that is produced": Mutation(
        entry=RENAMED,
        change=params(lambda v: v["gate"]["rules"]["f1"].update(metric="precision")),
        expected="missing_metric: precision was not produced",
    ),
    **{
        f"{name} cut in half": Mutation(entry=TRUNCATED, change=partial(truncated, name=name), expected=Path(name).name)
        for name in RECORDS
    },
    "predictions.npz cut in half": Mutation(
        entry=TRUNCATED, change=partial(truncated, name=PREDICTIONS), expected="predictions.npz"
    ),
    "timings.npz cut in half": Mutation(
        entry=TRUNCATED, change=partial(truncated, name="reports/timings.npz"), expected="timings.npz"
    ),
    "sources.json cut in half": Mutation(
        entry=TRUNCATED, change=partial(truncated, name=SOURCES), bound=False, expected="sources.json"
    ),
    "machine.json cut in half": Mutation(
        entry=TRUNCATED,
        change=partial(truncated, name=f"{STATE}/machine.json"),
        bound=False,
        expected="not_comparable: benchmark.json was measured on another machine",
    ),
    "verdict.json cut in half": Mutation(
        entry=TRUNCATED,
        change=partial(truncated, name=VERDICT),
        words=ONLY_CHECKED,
        expected="verdict.json",
    ),
}

AFTERWARDS: Mapping[str, Mutation] = {
    **{
        f"{name} changed": Mutation(
            entry=CHANGED, change=partial(lengthened, name=name), words=ONLY_CHECKED, expected=said
        )
        for name, said in {
            f"{CANDIDATE}/model.onnx": "models/candidate: model.onnx: expected the files that artifact.json lists",
            f"{REFERENCE}/model.safetensors": "models/reference: model.safetensors: expected the files",
            f"{BASELINE}/model.onnx": "baseline: model.onnx: expected the files that artifact.json lists",
            PREDICTIONS: "reports/predictions.npz: changed since",
            EVALUATION: "reports/evaluation.json: changed since",
            BENCHMARK: "reports/benchmark.json: changed since",
            HISTORY: "history.json: changed since",
        }.items()
    },
    "a limit loosened": Mutation(
        entry=CHANGED,
        change=params(lambda v: v["gate"]["rules"]["accuracy"].update(max_drop=0.5)),
        words=ONLY_CHECKED,
        expected="params.yaml: changed since",
    ),
    "a waiver written": Mutation(
        entry=CHANGED,
        change=lambda suite: put_bytes(suite / "waivers.yaml", b"[]\n"),
        words=ONLY_CHECKED,
        expected="waivers.yaml: changed since",
    ),
    "external data beside model.onnx": Mutation(
        entry=SIDE_FILE,
        change=lambda suite: put_bytes(suite / CANDIDATE / "model.onnx.data", b"weights"),
        expected="model.onnx.data: expected the files that artifact.json lists",
    ),
    "external data in a folder beside model.onnx": Mutation(
        entry=SIDE_FILE,
        change=lambda suite: put_bytes(suite / CANDIDATE / "data" / "weights.bin", b"weights"),
        expected="data/weights.bin: expected the files that artifact.json lists",
    ),
    "weights left out of what ships": Mutation(
        entry=SIDE_FILE,
        change=edited(f"{CANDIDATE}/artifact.json", lambda v: v.update(shipped=["weights.bin"])),
        expected="artifact.json: shipped: expected some of",
    ),
    "user source changed": Mutation(
        entry=SOURCE,
        change=lambda suite: lengthened(suite, data_file(suite).relative_to(suite).as_posix()),
        words=ONLY_CHECKED,
        expected=".py: changed since",
    ),
    "user source deleted": Mutation(
        entry=SOURCE,
        change=lambda suite: data_file(suite).unlink(),
        words=ONLY_CHECKED,
        expected=".py: gone since",
    ),
    "list of user sources deleted": Mutation(
        entry=SOURCE,
        change=partial(removed, name=SOURCES),
        bound=False,
        expected="stale: .compression_gate/sources.json: expected the files",
    ),
    "user source changed and taken out of deps": Mutation(
        entry=UNDECLARED,
        change=undeclare,
        words=("run", "check"),
        expected="init --refresh",
        needs="torch",
    ),
    "user source that is new and not in deps": Mutation(
        entry=UNDECLARED,
        change=import_another_file,
        words=("run", "check"),
        expected="init --refresh",
        needs="torch",
    ),
}

TIMES: Mapping[str, Mutation] = {
    "benchmark.json of another machine": Mutation(
        entry=MACHINE,
        change=edited(BENCHMARK, lambda v: v.update(machine_digest="another")),
        expected="not_comparable: benchmark.json was measured on another machine",
    ),
    "this machine changed": Mutation(
        entry=MACHINE,
        change=edited(f"{STATE}/machine.json", lambda v: v.update(processor="another")),
        bound=False,
        expected="not_comparable: benchmark.json was measured on another machine",
    ),
    "timed with other threads": Mutation(
        entry=MACHINE,
        change=edited(BENCHMARK, lambda v: v.update(threads=7)),
        expected="stale: benchmark.json: threads",
    ),
    "candidate timed on another machine than its copy": Mutation(
        entry=MACHINE,
        change=edited(BENCHMARK, lambda v: v["pairs"]["reference"].update(control_of(1.05))),
        expected="untrusted_timing: a model timed against its own copy",
    ),
    "a time below zero": Mutation(entry=CLOCK, change=backwards(-0.3, -0.2, -0.1), expected=SET_BACK),
    "a time of zero": Mutation(entry=CLOCK, change=backwards(0, 0, 0), expected=SET_BACK),
    "an end before its start": Mutation(
        entry=CLOCK, change=backwards(0.3, 0.2, 0.1), expected="untrusted_timing: latency_ms of candidate"
    ),
    "a ratio below zero": Mutation(entry=CLOCK, change=pair(-0.6, -0.5, -0.4), expected="untrusted_timing: ratio"),
    "a ratio of zero": Mutation(entry=CLOCK, change=pair(0, 0, 0), expected="untrusted_timing: ratio"),
    "an interval of no confidence": Mutation(
        entry=NOT_FINITE,
        change=literal(BENCHMARK, "pairs.reference.confidence", "1"),
        expected="benchmark.json: pairs.reference.confidence",
    ),
    "an interval turned round": Mutation(entry=CLOCK, change=pair(0.52, 0.5, 0.48), expected="untrusted_timing: ratio"),
    "a step that ended before it began": Mutation(
        entry=CLOCK,
        change=edited("reports/compression.json", lambda v: v["steps"][0].update(seconds=-1)),
        expected="compression.json: steps.0.seconds",
    ),
}

MUTATIONS: Mapping[str, Mutation] = {**DELETED, **FINITE, **EXAMPLES, **STALE, **AFTERWARDS, **TIMES}
