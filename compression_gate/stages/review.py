"""`review`: look over the recorded runs of a range of commits. No torch, no DVC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compression_gate.errors import ParamsError
from compression_gate.history import git, lineage, store
from compression_gate.history.trends import changes_of, drift_of, reviewed, trends_of
from compression_gate.pipeline.dvc import git_root
from compression_gate.records.base import refuse_folder, write_text
from compression_gate.records.history import RunRecord
from compression_gate.records.review import Review
from compression_gate.reporters import review as reporter

SHALLOW = "this clone is shallow, and earlier runs and releases are not seen: git fetch --unshallow"


def run(suite: Path, *, since: str | None = None, output: Path | None = None) -> tuple[Review, str]:
    """Review the runs from ``since`` up to the commit checked out; returns what was found, and its Markdown.

    Args:
        suite: its folder.
        since: the first commit to look at; None for all.
        output: a file to write: HTML where it ends in `.html`, else Markdown.

    Raises:
        ParamsError: the output cannot be written; no git, no commit, a revision that is none or does not lie before
            this commit.
        HistoryError: the records cannot be read.
    """
    refuse_folder(output)
    root = git_root(suite)
    head = git.commit_of("HEAD", root) if root else None
    if root is None or head is None:
        raise ParamsError(
            f"{suite}: expected a git checkout with a commit, whose runs are recorded, got none: git init"
        )
    begin = started(since, head, root)
    every, main = lineage.ways_back(head, root)
    commits = commits_of(begin, head, main, root)
    name = suite.resolve().relative_to(root.resolve()).as_posix()
    runs = store.read(name, root)
    records = ordered(runs.by_commit, commits)
    shown = reviewed(records, subjects_of([record.commit for record in records], root))
    released = last_release(runs.by_commit, every)
    short = not lineage.shallow_commits(root).isdisjoint(commits if released else every)
    earlier = reviewed([*([released] if released else []), *records[-1:]], {})
    found = Review(
        suite=suite.resolve().name,
        since=begin,
        head=head,
        runs=tuple(shown),
        trends=tuple(trends_of(shown, records)),
        changes=tuple(changes_of(records)),
        release=released.release if released else None,
        drift=tuple(drift_of(earlier[0], earlier[-1])) if released and records else (),
        unrecorded=sum(commit not in runs.by_commit for commit in commits),
        notices=(*([SHALLOW] if short else []), *runs.notices, *runs.damaged.values()),
    )
    text = reporter.rendered(found)
    if output is not None:
        try:
            write_text(output, reporter.rendered_page(found) if output.suffix == ".html" else text)
        except OSError as error:
            raise ParamsError(f"-o: {output}: cannot be written: {error}: name another file") from error
    return found, text


def started(since: str | None, head: str, root: Path) -> str | None:
    """The commit that ``since`` names.

    Raises:
        ParamsError: it names none, or one that this commit does not rest on.
    """
    if since is None:
        return None
    begin = git.commit_of(since, root)
    if begin is None:
        raise ParamsError(
            f"--since: expected a commit that this clone has, got {since!r}: git fetch --unshallow, or name another"
        )
    if not git.is_ancestor(begin, head, root):
        mend = "git fetch --unshallow, or " if lineage.shallow_commits(root) else ""
        raise ParamsError(
            f"--since: expected a commit before {head[:12]}, got {since!r} ({begin[:12]}): {mend}name another"
        )
    return begin


def commits_of(begin: str | None, head: str, main: Sequence[str], root: Path) -> list[str]:
    """The commits of the range along first parents, oldest first, ``begin`` among them.

    Args:
        main: the commits from ``head`` back along first parents.
    """
    if begin is None:
        return [*reversed(main)]
    inside = set(git.output(["rev-list", f"{begin}..{head}", "--"], root).split())
    return [begin, *(commit for commit in reversed(main) if commit in inside)]


def ordered(by_commit: dict[str, RunRecord], commits: list[str]) -> list[RunRecord]:
    """The records of a row of commits, in their order."""
    return [by_commit[commit] for commit in commits if commit in by_commit]


def subjects_of(commits: list[str], root: Path) -> dict[str, str]:
    """The first line of each commit."""
    if not commits:
        return {}
    words = ["log", "--no-walk=unsorted", "--encoding=UTF-8", "--format=%H%x09%s", "--stdin"]
    lines = git.output(words, root, text="\n".join(commits)).split("\n")
    return {commit: subject for commit, _, subject in (line.partition("\t") for line in lines)}


def last_release(by_commit: dict[str, RunRecord], every: Sequence[str]) -> RunRecord | None:
    """The first release among commits, which lead from the one checked out back."""
    return next((by_commit[commit] for commit in every if commit in by_commit and by_commit[commit].release), None)
