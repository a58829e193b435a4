"""Which of the user's own files a task is made of, found by reading imports, not by running them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compression_gate.errors import ParamsError
from compression_gate.records.params import TaskParams

DOTTED_FIELDS = ("model", "data", "collate", "loss", "scorer", "trainer")
NAMED_UNDER = ("teacher", "student")  # options of steps that may name a model by dotted path


@cache
def repository_root(folder: Path) -> Path:
    """The top of the git checkout around ``folder``, or ``folder`` itself."""
    for parent in (folder.resolve(), *folder.resolve().parents):
        if (parent / ".git").exists():
            return parent
    return folder.resolve()


def import_roots(suite: Path) -> list[Path]:
    """Folders a dotted path may start at: the suite, its parents up to the repository's root, and ``src`` there."""
    suite, top = suite.resolve(), repository_root(suite)
    between = [parent for parent in suite.parents if parent == top or top in parent.parents]
    return [suite, *between, *([top / "src"] if (top / "src").is_dir() else [])]


def module_files(module: str, roots: Iterable[Path]) -> list[Path]:
    """Files that importing ``module`` runs: the packages' ``__init__`` on the way and its own; empty if foreign."""
    parts = module.split(".")
    for root in roots:
        own = root.joinpath(*parts)
        last = own.with_suffix(".py") if own.with_suffix(".py").is_file() else own / "__init__.py"
        if last.is_file():
            packages = [root.joinpath(*parts[:depth]) / "__init__.py" for depth in range(1, len(parts))]
            return [*(path for path in packages if path.is_file()), last]
        # A folder without __init__ is a namespace package: no file of its own, and a module further on goes before it.
    return []


def imports_of(path: Path, roots: list[Path]) -> Iterator[str]:
    """Names of the modules that a file imports, anywhere in it; relative ones made absolute."""
    package = package_of(path, roots)
    for node in import_nodes(path, path.stat().st_mtime_ns):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            base = node.module or ""
            if node.level:
                up = package[: len(package) - node.level + 1]
                base = ".".join([*up, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if base)


@cache
def import_nodes(path: Path, changed_ns: int) -> list[ast.Import | ast.ImportFrom]:
    """The import statements of a file as it was at ``changed_ns``: every stage asks for the same few files."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid Python: {error}: mend it before the pipeline runs it") from error
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def package_of(path: Path, roots: list[Path]) -> list[str]:
    """The package a file lies in, as parts of its dotted name."""
    for root in roots:
        if root in path.parents:
            return list(path.parent.relative_to(root).parts)
    return []


def first_party_sources(task: TaskParams, suite: Path) -> list[Path]:
    """Every file of the user's that the task's dotted paths lead to, sorted, absolute.

    Raises:
        ParamsError: a dotted path that leads nowhere: neither a file here nor an installed module.
    """
    paths = {f"task.{field}": path for field in DOTTED_FIELDS if (path := getattr(task, field)) is not None}
    return sources_at(paths, import_roots(suite))


def sources_at(paths: Mapping[str, str], roots: Iterable[Path]) -> list[Path]:
    """Every file under ``roots`` that dotted paths lead to, sorted, absolute.

    Args:
        paths: the dotted paths, each under the key of the params that it is named for in errors.

    Raises:
        ParamsError: a dotted path that leads nowhere: neither a file here nor an installed module.
    """
    roots = [root.resolve() for root in roots]
    found: set[Path] = set()
    problems: list[str] = []
    for key, path in paths.items():
        module = path.partition(":")[0]
        files = module_files(module, roots)
        if not files and not installed(module):
            problems.append(
                f"params.yaml: {key}: no module {module!r} in {', '.join(map(str, roots))} nor installed: "
                "dotted paths start at the suite's folder or the repository's root"
            )
        follow(files, roots, found)
    if problems:
        raise ParamsError(problems)
    return sorted(found)


def named_in_steps(value: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the models that steps name beside the task's own, wherever in their options, each with its key.

    These are mappings under ``teacher`` and ``student`` (or in a list there), with ``model`` and ``weights``.
    """
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from named_in_steps(item, f"{key}.{index}")
    elif isinstance(value, dict):
        if key.rstrip(".0123456789").rpartition(".")[2] in NAMED_UNDER:
            yield key, value
        for name, item in value.items():
            yield from named_in_steps(item, f"{key}.{name}")


def follow(files: list[Path], roots: list[Path], found: set[Path]) -> None:
    """Add ``files`` and what they import, and so on, to ``found``."""
    queue = [path.resolve() for path in files]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found.add(path)
        for module in imports_of(path, roots):
            queue.extend(file.resolve() for file in module_files(module, roots))


def installed(module: str) -> bool:
    """Whether a module is there, without importing more than its parents; what fails in these is told when needed."""
    import importlib.util

    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as error:  # one of the parents, or something that they want
        return not f"{module}.".startswith(f"{error.name}.")
    except ValueError:
        return False
    except Exception:  # noqa: BLE001  # a package may raise anything while it is imported
        return True


def head_commit(folder: Path) -> str | None:
    """The commit checked out, with ``+`` where tracked files differ from it, or None outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
