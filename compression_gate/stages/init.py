"""`init`: the files a suite needs, written where there are none."""

from __future__ import annotations

import difflib
import io
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compression_gate.errors import HistoryError, ParamsError
from compression_gate.history import git
from compression_gate.pipeline.definition import (
    DEFINITION,
    FILE_NAME,
    Stage,
    as_dvc_yaml,
    missing_deps,
    missing_params,
    undeclared_outputs,
)
from compression_gate.pipeline.dvc import git_root
from compression_gate.records.base import write_text
from compression_gate.records.params import read_params
from compression_gate.records.state_files import PARAMS
from compression_gate.stages.templates import IGNORED, JUDGING, PARAMS_TEXT, TELLING

if TYPE_CHECKING:
    from ruamel.yaml import YAML

log = logging.getLogger("compression_gate")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user said on the command line."""

    model: str | None = None
    data: str | None = None
    weights: str | None = None
    kind: str | None = None
    scorer: str | None = None
    loss: str | None = None


def run(suite: Path, request: Request) -> list[Path]:
    """Write `params.yaml`, `dvc.yaml`, two workflows and `.gitignore` where they are missing; returns those written.

    A `params.yaml` that is already there, and no option that contradicts it, is taken as it is.

    Raises:
        ParamsError: a file is there and differs (the message is the diff), or neither a file nor options name a model.
    """
    try:
        suite.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParamsError(f"-C: expected a folder, or a place for one, got {suite}: {error.strerror}") from error
    written: list[Path] = []
    params_path = suite / "params.yaml"
    fresh = not params_path.exists()
    if not fresh and not any(vars(request).values()):
        read_params(suite)
    else:
        offer(params_path, params_text(request), written)
    try:
        params = read_params(suite)
        files = {suite / FILE_NAME: as_dvc_yaml(params, suite), **workflows(suite)}
        problems = [problem for path, text in files.items() if (problem := difference(path, text))]
        if problems:
            raise ParamsError(problems)
    except ParamsError:
        if fresh:
            params_path.unlink(missing_ok=True)
        raise
    for path, text in files.items():
        offer(path, text, written)
    ignore(suite, written)
    if any(path.suffix == ".yml" for path in written):
        log.info("the workflow records runs of the branch %s", target_branch(git_root(suite) or suite))
    return written


def offer(path: Path, text: str, written: list[Path]) -> None:
    """Write ``text`` where nothing lies; refuse with the diff where something else does."""
    if problem := difference(path, text):
        raise ParamsError(problem)
    if not path.exists():
        write_text(path, text)
        written.append(path)


def difference(path: Path, text: str) -> str | None:
    """The unified diff from what lies at ``path`` to ``text``, under a line that says what to do."""
    if not path.exists():
        return None
    old = text_of(path)
    if old == text:
        return None
    lines = difflib.unified_diff(old.splitlines(), text.splitlines(), str(path), "init would write", lineterm="")
    return (
        f"{path}: is there and differs; init overwrites nothing: move it away, or give the suite a folder of its own "
        "(-C compression)\n" + "\n".join(lines)
    )


def text_of(path: Path) -> str:
    """A file's text.

    Raises:
        ParamsError: it is none.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: expected a file of UTF-8 text, got {error}: move it away") from error


def params_text(request: Request) -> str:
    """The `params.yaml` of a new suite."""
    if not request.model or not request.data:
        raise ParamsError(
            "init: expected --model package.module:Net and --data package.module:load (there is no params.yaml that "
            "names them), got " + (", ".join(f"--{k} {v}" for k, v in vars(request).items() if v) or "neither")
        )
    if request.kind == "custom" and not request.scorer:
        raise ParamsError(
            "init: expected --scorer package.module:score, a callable(outputs, targets) -> {name: scores (N,)}, "
            "with --kind custom, got none (and --loss where something is to be trained)"
        )
    named = ((name, getattr(request, name)) for name in ("kind", "loss", "scorer", "weights"))
    optional = "".join(f"  {name}: {value}\n" for name, value in named if value)
    kind = request.kind or "classification"
    limit = {"classification": "max_accuracy_drop: 0.01", "regression": 'max_rmse_increase: "5%"'}.get(kind)
    quality = f"  {limit}\n" if limit else "  # max_<score>_drop: 0.01           # a name your scorer returns\n"
    return PARAMS_TEXT.format(
        model=request.model,
        data=request.data,
        optional=optional,
        quality=quality,
    )


def workflows(suite: Path) -> dict[Path, str]:
    """The workflow that judges a suite and the one that tells what it judged, where the forge looks for them."""
    root, own = git_root(suite) or suite, suite.resolve().name
    folder = suite.resolve().relative_to(root.resolve()).as_posix()
    at_root = folder == "."
    name = "compression-gate" if at_root else f"compression-gate-{own}"
    expected = "${{ github.event.repository.name }}" if at_root else own  # a clone may be called anything
    place = root / ".github" / "workflows"
    judging = JUDGING.replace("<workflow>", name).replace("<folder>", folder).replace("<branch>", target_branch(root))
    return {
        place / f"{name}.yml": judging,
        place / f"{name}-post.yml": TELLING.replace("<workflow>", name).replace("<suite>", expected),
    }


def target_branch(root: Path) -> str:
    """The branch whose runs are recorded: the remote's default one, else the one that is checked out, else main."""
    for place, name in (("refs/remotes/origin/", "refs/remotes/origin/HEAD"), ("refs/heads/", "HEAD")):
        try:
            found = git.call(["symbolic-ref", "-q", name], root)
        except HistoryError:  # there is no git
            break
        if found.returncode == 0:
            return found.stdout.decode().strip().removeprefix(place)
    return "main"


def ignore(suite: Path, written: list[Path]) -> None:
    """Keep outputs and state out of git, adding to an existing `.gitignore` only what it lacks."""
    path = suite / ".gitignore"
    old = text_of(path) if path.exists() else ""
    lacking = [line for line in IGNORED if line not in old.splitlines()]
    if lacking:
        write_text(path, old + ("" if not old or old.endswith("\n") else "\n") + "\n".join(lacking) + "\n")
        written.append(path)


def refresh(suite: Path) -> str:
    """Add what `dvc.yaml` lacks, drop sources that are gone, keep all else; returns the diff.

    Raises:
        ParamsError: there is no `dvc.yaml` of a suite here.
    """
    from ruamel.yaml import YAML

    params = read_params(suite)
    missing, unread, unwritten = missing_deps(params, suite), missing_params(suite), undeclared_outputs(suite)
    path = suite / FILE_NAME
    old, dropped = text_of(path), False
    yaml = YAML()
    yaml.width = 120
    keep_indentation(yaml, old)
    document = yaml.load(old)
    for name in DEFINITION:
        stage = document["stages"][name]
        deps: list[Any] = stage.setdefault("deps", [])
        for index in reversed(range(len(deps))):
            if deps[index].endswith(".py") and not (suite / deps[index]).exists():
                del deps[index]
                dropped = True
        for file in reversed(missing.get(name, [])):
            deps.insert(0, file)
        if keys := unread.get(name):
            stage.setdefault("params", []).append({PARAMS: keys})
        for kind, entry in outputs_to_add(DEFINITION[name], unwritten.get(name, [])):
            stage.setdefault(kind, []).append(entry)
    if not (missing or unread or unwritten or dropped):
        return ""
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    new = buffer.getvalue()
    write_text(path, new)
    return "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), FILE_NAME, FILE_NAME, lineterm=""))


def keep_indentation(yaml: YAML, text: str) -> None:
    """Have keys and lists written as far to the right as the stages and the first list of a text are."""
    stages, lists = re.search(r"^stages:.*\n(?:\s*#.*\n)*( +)", text, re.M), re.search(r"^( *)\w+:\n( *)- ", text, re.M)
    offset = len(lists[2]) - len(lists[1]) if lists else 0
    yaml.indent(mapping=len(stages[1]) if stages else 2, sequence=offset + 2, offset=offset)


def outputs_to_add(stage: Stage, paths: Collection[str]) -> list[tuple[str, Any]]:
    """The entries of outputs that a stage lacks, each with the key of the list that it belongs to."""
    plain = [(kind, path) for kind in ("outs", "metrics") for path in getattr(stage, kind) if path in paths]
    return [*plain, *(("plots", dict(plot)) for plot in stage.plots if any(path in paths for path in plot))]
