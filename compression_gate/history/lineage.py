"""Which recorded commit a commit is held against: the target branch, the point of departure, the way back from it."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from compression_gate.history import git

# Where the forges' jobs say which branch a change is for; empty on a push.
NAMED_BY = ("COMPRESSION_GATE_TARGET", "GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
USUAL = ("main", "master")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The branch that a change is for: its name, who named it, its commit (None: not known in this clone)."""

    name: str
    named_by: str
    commit: str | None


def target_of(named: str | None, remote: str | None, repository: Path) -> Target | None:
    """The target branch: as named, else as the job's environment says, else the remote's or this clone's main branch.

    Raises:
        HistoryError: git cannot read this repository.
    """
    wanted = {"--target": named} | {name: os.environ.get(name) for name in NAMED_BY}
    for named_by, name in wanted.items():
        if name:
            return Target(name=name, named_by=named_by, commit=branch_commit(name, remote, repository))
    usual = [*([f"{remote}/HEAD", *(f"{remote}/{name}" for name in USUAL)] if remote else []), *USUAL]
    for name in usual:
        if commit := branch_commit(name, None, repository):
            return Target(name=name, named_by="the usual name", commit=commit)
    return None


def branch_commit(name: str, remote: str | None, repository: Path) -> str | None:
    """The commit of a branch: the remote's own view of it first, then the local branch, then any revision."""
    places = [
        *([f"refs/remotes/{remote}/{name}"] if remote else []),
        f"refs/remotes/{name}",
        f"refs/heads/{name}",
        name,
    ]
    return next((commit for place in places if (commit := git.commit_of(place, repository))), None)


def start_of(head: str, target: str, repository: Path) -> str | None:
    """Where the search begins: the merge base, or the first parent of a commit that is on the target branch itself.

    None where there is no such commit, in this clone at least.
    """
    done = git.call(["merge-base", head, target], repository)
    base = done.stdout.decode().strip() if done.returncode == 0 else None
    return git.commit_of(f"{head}^1", repository) if base == head else base


def ways_back(start: str, repository: Path) -> tuple[list[str], list[str]]:
    """Commits from ``start`` back, children before parents: all of them, and those along first parents."""
    every = git.output(["rev-list", "--topo-order", start, "--"], repository).split()
    main = git.output(["rev-list", "--first-parent", start, "--"], repository).split()
    return every, main


def nearest(wanted: Collection[str], every: Sequence[str], main: Sequence[str], repository: Path) -> str | None:
    """The wanted commit next to the start. Of two that do not know each other, that of the first parents' line."""
    first = next((commit for commit in every if commit in wanted), None)
    own = next((commit for commit in main if commit in wanted), None)
    if first is None or own is None or own == first or git.is_ancestor(own, first, repository):
        return first
    return own


def shallow_commits(repository: Path) -> frozenset[str]:
    """The commits behind which a shallow clone knows nothing; empty for a whole clone."""
    path = Path(git.output(["rev-parse", "--git-path", "shallow"], repository).strip())
    file = path if path.is_absolute() else repository / path
    return frozenset(file.read_text(encoding="utf-8").split()) if file.is_file() else frozenset()
