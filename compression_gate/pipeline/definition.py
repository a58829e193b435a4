"""The stages of a suite as `dvc.yaml` holds them, and whether it names everything they read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml
from pydantic import TypeAdapter, ValidationError

from compression_gate.errors import ParamsError
from compression_gate.records.artifact import MODELS
from compression_gate.records.document import parsed
from compression_gate.records.params import Params
from compression_gate.records.provenance import READ_BY
from compression_gate.records.recipe import Recipe
from compression_gate.records.section import dotted
from compression_gate.records.state_files import HISTORY, MACHINE, PACKAGE, PARAMS, REFERENCES, SOURCES, WAIVERS
from compression_gate.tasks.sources import first_party_sources, import_roots, named_in_steps, sources_at

FILE_NAME = "dvc.yaml"
STAGES = ("prepare", "train", "compress", "evaluate", "benchmark", "gate", "report")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage reads and writes.

    Args:
        fields: dotted paths of ``task`` whose source files it runs; None where it runs none of the user's code.
    """

    params: tuple[str, ...] = ()
    fields: tuple[str, ...] | None = None
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    plots: tuple[dict[str, Any], ...] = ()


DATA_FIELDS = ("data", "collate")
ALL_FIELDS = ("model", "data", "collate", "loss", "scorer", "trainer")
DEFINITION: Mapping[str, Stage] = {
    "prepare": Stage(params=READ_BY["prepare"], fields=DATA_FIELDS, outs=("reports/data.json",)),
    "train": Stage(
        params=READ_BY["train"],
        fields=ALL_FIELDS,
        deps=("reports/data.json",),
        outs=("models/reference",),
        plots=({"reports/training.csv": {"x": "epoch", "y": "validation_quality"}},),
    ),
    "compress": Stage(
        params=READ_BY["compress"],
        fields=ALL_FIELDS,
        deps=("models/reference",),
        outs=("models/candidate", "reports/compression.json"),
    ),
    "evaluate": Stage(
        params=READ_BY["evaluate"],
        fields=("data", "collate", "loss", "scorer"),
        deps=(*MODELS, "reports/data.json", REFERENCES),
        outs=("reports/evaluation.json", "reports/predictions.npz"),
        plots=({"reports/confusion.csv": {"template": "confusion", "x": "predicted", "y": "actual"}},),
    ),
    "benchmark": Stage(
        params=READ_BY["benchmark"],
        fields=DATA_FIELDS,
        deps=(*MODELS, REFERENCES, MACHINE),
        outs=("reports/benchmark.json", "reports/pytest_benchmark.json", "reports/timings.npz"),
    ),
    "gate": Stage(
        params=READ_BY["gate"],
        deps=(
            *MODELS,
            "reports/data.json",
            "reports/compression.json",
            "reports/evaluation.json",
            "reports/predictions.npz",
            "reports/benchmark.json",
            "reports/timings.npz",
            REFERENCES,
            SOURCES,
            HISTORY,
            WAIVERS,
        ),
        outs=("reports/verdict.json",),
        metrics=("reports/metrics.json",),
    ),
    "report": Stage(
        deps=(
            "reports/verdict.json",
            "reports/data.json",
            "reports/training.csv",
            "reports/compression.json",
            "reports/evaluation.json",
            "reports/predictions.npz",
            "reports/benchmark.json",
            "reports/timings.npz",
        ),
        outs=("reports/report.md", "reports/report.html", "reports/junit.xml"),
        plots=(
            {"reports/plots/steps.csv": {"template": "bar_horizontal", "x": "state_bytes", "y": "step"}},
            {"reports/plots/layers.csv": {"template": "bar_horizontal", "x": "bytes", "y": "layer"}},
            {"reports/plots/trade_off.csv": {"template": "scatter", "x": "size_bytes", "y": "quality"}},
            {"reports/plots/latency.csv": {"template": "scatter", "x": "latency_ms", "y": "share"}},
        ),
    ),
}


def outputs_of(stage: Stage) -> list[str]:
    """Everything a stage writes, relative to the suite."""
    return [*stage.outs, *stage.metrics, *(path for plot in stage.plots for path in plot)]


def sources_of(stage: Stage, params: Params, suite: Path) -> list[str]:
    """The user's own files that a stage runs or reads, relative to the suite, with forward slashes."""
    if stage.fields is None:
        return []
    task = params.task.model_copy(update={name: None for name in ALL_FIELDS if name not in stage.fields})
    files = {relative(path, suite) for path in first_party_sources(task, suite)}
    files.update(params.task.files)
    if "model" in stage.fields and params.task.weights not in (None, "from_model"):
        files.add(str(params.task.weights))
    if "compress" in stage.params:
        files.update([params.compress.recipe] if params.compress.recipe else [])
        files.update(sources_of_steps(params, suite))
    return sorted(files)


def sources_of_steps(params: Params, suite: Path) -> set[str]:
    """Code and weights of the teachers and students that the recipe names, relative to the suite."""
    where, steps = "compress.steps", params.compress.steps
    if params.compress.recipe is not None:
        if not (suite / params.compress.recipe).is_file():  # a dep that is not there is told by name elsewhere
            return set()
        where, steps = "compress.recipe", Recipe.read(suite / params.compress.recipe).steps
    named = dict(named_in_steps([step.options for step in steps], where))
    paths = {f"{key}.model": path for key, value in named.items() if is_dotted(path := value.get("model"))}
    files = {relative(path, suite) for path in sources_at(paths, import_roots(suite))}
    weights = [value.get("weights") for value in named.values()]
    return files | {path for path in weights if isinstance(path, str) and path != "from_model"}


def is_dotted(path: object) -> TypeGuard[str]:
    """Whether this can be a dotted path; what else stands there the method refuses by name."""
    try:
        return isinstance(path, str) and bool(dotted(path))
    except ValueError:
        return False


def relative(path: Path, suite: Path) -> str:
    """``path`` as seen from the suite, also where it lies above."""
    return Path(os.path.relpath(path, suite.resolve())).as_posix()


def all_sources(params: Params, suite: Path) -> list[str]:
    """Every source file of the suite, relative to it."""
    return sorted({file for stage in DEFINITION.values() for file in sources_of(stage, params, suite)})


def as_dvc_yaml(params: Params, suite: Path) -> str:
    """Render the whole `dvc.yaml` of a suite."""
    stages = {}
    for name, stage in DEFINITION.items():
        entry: dict[str, Any] = {"cmd": f"compression-gate {name}"}
        entry["deps"] = [*sources_of(stage, params, suite), *stage.deps, PACKAGE]
        if stage.params:
            entry["params"] = [{PARAMS: list(stage.params)}]
        entry |= {
            key: list(value)
            for key, value in (("outs", stage.outs), ("metrics", stage.metrics), ("plots", stage.plots))
            if value
        }
        stages[name] = entry
    head = (
        "# Stages of compression-gate. `compression-gate run` writes the files under .compression_gate first;\n"
        "# `compression-gate init --refresh` renews the deps when the model or the data import other files.\n"
    )
    return head + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120)


PLAIN_OR_OPTIONS = ("a list of paths, each plain or with options", TypeAdapter(list[str | dict[str, Any]]))
# What DVC takes as the lists of a stage.
LISTS: Mapping[str, tuple[str, TypeAdapter[Any]]] = {
    "deps": ("a list of paths", TypeAdapter(list[str])),
    "params": (
        "a list of keys, or of files with a list of keys each",
        TypeAdapter(list[str | dict[str, list[Any] | None]]),
    ),
    "outs": PLAIN_OR_OPTIONS,
    "metrics": PLAIN_OR_OPTIONS,
    "plots": PLAIN_OR_OPTIONS,
}


def read_definition(suite: Path) -> dict[str, Any]:
    """Read `dvc.yaml` as plain values.

    Raises:
        ParamsError: it is missing, not YAML, lacks a stage, or a list of a stage is none.
    """
    path = suite / FILE_NAME
    try:
        _, values = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: missing: `compression-gate init` writes it from params.yaml") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read as text: {error}") from error
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    stages = values.get("stages") if isinstance(values, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        raise ParamsError(f"{path}: expected a mapping `stages`: is this the dvc.yaml of a suite?")
    if missing := [name for name in STAGES if name not in stages]:
        raise ParamsError(
            f"{path}: stages: expected {', '.join(STAGES)}, got none named {', '.join(missing)}: "
            "`compression-gate init` in a folder of its own (-C compression) writes them"
        )
    if problems := [
        f"{path}: stages.{name}.{key}: expected {words}, got {stages[name][key]!r:.80}: mend it, or take the key out "
        "and call `compression-gate init --refresh`"
        for name in STAGES
        for key, (words, form) in LISTS.items()
        if key in stages[name] and not fits(stages[name][key], form)
    ]:
        raise ParamsError(problems)
    return stages


def fits(value: object, form: TypeAdapter[Any]) -> bool:
    """Whether a value is of a form."""
    try:
        form.validate_python(value)
    except ValidationError:
        return False
    return True


def missing_deps(params: Params, suite: Path) -> dict[str, list[str]]:
    """For each stage of the suite's `dvc.yaml`, what it reads and does not declare."""
    stages = read_definition(suite)
    missing: dict[str, list[str]] = {}
    for name, stage in DEFINITION.items():
        declared = [Path(os.path.normpath(dep)) for dep in stages[name].get("deps", [])]
        wanted = [*sources_of(stage, params, suite), *stage.deps]
        absent = [path for path in wanted if not covered(Path(os.path.normpath(path)), declared)]
        if absent:
            missing[name] = absent
    return missing


def missing_params(suite: Path) -> dict[str, list[str]]:
    """For each stage of the suite's `dvc.yaml`, the params it reads and does not declare.

    They may be declared of the resolved file, or of `params.yaml` itself where that holds every section.
    """
    stages = read_definition(suite)
    missing: dict[str, list[str]] = {}
    for name, stage in DEFINITION.items():
        declared = {key for entry in stages[name].get("params", []) for key in declared_keys(entry)}
        absent = [key for key in stage.params if not declared & {key, key.partition(".")[0], "*"}]
        if absent:
            missing[name] = absent
    return missing


def undeclared_outputs(suite: Path) -> dict[str, list[str]]:
    """For each stage of the suite's `dvc.yaml`, what it writes and does not declare: DVC would leave old ones there."""
    stages = read_definition(suite)
    missing: dict[str, list[str]] = {}
    for name, stage in DEFINITION.items():
        declared = [Path(os.path.normpath(path)) for path in declared_outputs(stages[name])]
        absent = [path for path in outputs_of(stage) if not covered(Path(os.path.normpath(path)), declared)]
        if absent:
            missing[name] = absent
    return missing


def declared_keys(entry: str | dict[str, list[Any] | None]) -> list[str]:
    """The keys of one entry of a stage's `params`: a key of `params.yaml`, or a file with keys (none: all of them)."""
    if not isinstance(entry, dict):
        return [entry]
    keys = [key for file, keys in entry.items() if file in (PARAMS, "params.yaml") for key in keys or ["*"]]
    return [str(key) for key in keys]


def declared_outputs(stage: Mapping[str, Any]) -> list[str]:
    """The paths of everything that a stage of `dvc.yaml` declares to write, written plainly or with options."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])]


def covered(path: Path, declared: list[Path]) -> bool:
    """Whether a path or a folder it lies in is declared."""
    return any(path == dep or dep in path.parents for dep in declared)


def check_definition(params: Params, suite: Path) -> None:
    """Refuse a `dvc.yaml` under which a change of a source or of a param would go unseen.

    Raises:
        ParamsError: a stage does not declare a file or a param it reads, calls something else than its word, or is
            frozen.
    """
    problems = [
        f"{FILE_NAME}: stages.{name}.deps: expected {', '.join(files)}, which the stage reads, got no such line: "
        "`compression-gate init --refresh` adds it"
        for name, files in missing_deps(params, suite).items()
    ]
    problems += [
        f"{FILE_NAME}: stages.{name}.params: expected {', '.join(keys)} of {PARAMS}, which the stage reads, got no "
        "such line: `compression-gate init --refresh` adds it"
        for name, keys in missing_params(suite).items()
    ]
    problems += [
        f"{FILE_NAME}: stages.{name}: expected {', '.join(files)} among its outs, metrics or plots, got no such line: "
        "`compression-gate init --refresh` adds it"
        for name, files in undeclared_outputs(suite).items()
    ]
    own = {name: stage for name, stage in read_definition(suite).items() if name in STAGES}
    problems += [
        f"{FILE_NAME}: stages.{name}.frozen: expected no such line, since DVC would never run the stage again, got "
        f"{stage['frozen']!r}: take it out, or `dvc unfreeze {name}`"
        for name, stage in own.items()
        if stage.get("frozen")
    ]
    problems += [
        f"{FILE_NAME}: stages.{name}.cmd: expected 'compression-gate {name}', got {stage.get('cmd')!r}"
        for name, stage in own.items()
        if f"compression-gate {name}" not in str(stage.get("cmd"))
        and f"compression_gate {name}" not in str(stage.get("cmd"))
    ]
    if problems:
        raise ParamsError(problems)
