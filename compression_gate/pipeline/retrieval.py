"""An artifact of an earlier run by its hash: out of DVC's cache, from its remote, or built again from its commit."""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from compression_gate.errors import CompressionGateError, HistoryError, ParamsError
from compression_gate.history import git
from compression_gate.pipeline.dvc import configuration, dvc, dvc_root, environment, git_root, has_remote
from compression_gate.records.params import read_params

log = logging.getLogger("compression_gate")
FOLDER_HASH = re.compile(r"[0-9a-f]{32}\.dir")
CANDIDATE = Path("models/candidate")
WORDS = ("prepare", "train", "compress")  # the stages that lead to a candidate


class LostArtifactError(CompressionGateError):
    """An artifact that was recorded is not to be had."""


def retrieve(suite: Path, md5: str, into: Path) -> None:
    """Put the artifact that DVC knows by ``md5`` into an empty folder, every file's hash verified.

    Raises:
        LostArtifactError: neither the cache nor the default remote has it whole.
    """
    if not FOLDER_HASH.fullmatch(md5):
        raise LostArtifactError(f"expected DVC's hash of a folder, got {md5!r}")
    root = dvc_root(suite)
    if root is None:
        raise LostArtifactError("there is no DVC repository here whose cache could hold it")
    places = [f"DVC's cache {cache_of(suite, root)}"]
    with contextlib.suppress(LostArtifactError):
        return copy_from_cache(cache_of(suite, root), md5, into)
    if has_remote(suite):
        places.append("its remote")
        with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
            scratch = scratch_repository(suite, root, Path(folder), md5)
            dvc(["fetch", "--quiet", "artifact.dvc"], scratch)
            with contextlib.suppress(LostArtifactError):
                return copy_from_cache(scratch / "cache", md5, into)
    raise LostArtifactError(f"looked for in {' and '.join(places)}, and not found there whole")


def cache_of(suite: Path, root: Path) -> Path:
    """The folder of DVC's cache; a relative one is seen from the folder of the configuration."""
    return root / ".dvc" / Path(configuration(suite).get("cache", "dir", fallback="cache")).expanduser()


def copy_from_cache(cache: Path, md5: str, into: Path) -> None:
    """Copy the files of a folder out of a DVC cache.

    Raises:
        LostArtifactError: a file is not there, or not the one that its hash names.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    listing = into / ".listing"
    try:
        copy_object(cache, md5, listing)
        for entry in json.loads(listing.read_text(encoding="utf-8")):
            name = PurePosixPath(entry["relpath"])
            if name.is_absolute() or ".." in name.parts:
                raise LostArtifactError(f"{md5}: expected names inside the folder, got {str(name)!r}")
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            copy_object(cache, entry["md5"], into / name)
        listing.unlink()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LostArtifactError(f"{cache}: {error}") from error


def copy_object(cache: Path, md5: str, target: Path) -> None:
    """Copy one object of a DVC cache, and make sure that its bytes are those that its name says.

    Raises:
        LostArtifactError: they are not.
        OSError: it is not there.
    """
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    shutil.copyfile(path, target)
    if md5_of_file(target) != md5.removesuffix(".dir"):
        raise LostArtifactError(f"{path}: damaged: its content has another hash")


def md5_of_file(path: Path) -> str:
    """The hash by which DVC knows a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_of_folder(folder: Path) -> str:
    """The hash by which DVC knows a folder: that of the list of its files."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    listing = [{"md5": md5_of_file(folder / name), "relpath": name.as_posix()} for name in names]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def scratch_repository(suite: Path, root: Path, folder: Path, md5: str) -> Path:
    """A DVC repository of one artifact, with the suite's remotes and a cache of its own.

    The suite's own cache is left alone: an object that is damaged there would be taken for a good one.
    """
    config = configuration(suite)
    own = configparser.RawConfigParser()
    own["core"] = {"no_scm": "True", "analytics": "False", "remote": config.get("core", "remote")}
    own["cache"] = {"dir": str(folder / "cache")}
    for section in config.sections():
        if section.strip("'").startswith("remote "):
            own[section] = {key: absolute(key, value, root / ".dvc") for key, value in config[section].items()}
    (folder / ".dvc").mkdir()
    with (folder / ".dvc" / "config").open("w", encoding="utf-8") as file:
        own.write(file)
    (folder / "artifact.dvc").write_text(f"outs:\n- md5: {md5}\n  hash: md5\n  path: artifact\n", encoding="utf-8")
    return folder


def absolute(key: str, value: str, base: Path) -> str:
    """A remote's option with a path of this machine made absolute: DVC takes them from the configuration's folder."""
    if (key == "url" and "://" not in value) or (key.endswith(("path", "file")) and value):
        return str((base / Path(value).expanduser()).resolve())
    return value


def rebuild(suite: Path, commit: str, into: Path) -> None:
    """Train and compress again from ``commit``, in a worktree of its own, and put the candidate into ``into``.

    Raises:
        LostArtifactError: git or a stage failed; the message has its last words.
    """
    root = git_root(suite)
    assert root is not None  # the commit was found in its history
    log.info("building the candidate of %s again: this trains and compresses", commit[:12])
    try:
        with worktree(root, commit) as tree:
            place = tree / suite.resolve().relative_to(root.resolve())
            lend(suite, place)
            for word in WORDS:
                stage(word, place)
            shutil.rmtree(into, ignore_errors=True)
            shutil.copytree(place / CANDIDATE, into)
    except (OSError, HistoryError, ParamsError) as error:
        raise LostArtifactError(f"building it again from {commit[:12]} failed: {error}") from error


@contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """Yield a checkout of ``commit`` beside the user's own, and remove it whatever happens."""
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
        path = Path(folder) / "tree"
        try:
            git.output(["worktree", "add", "--quiet", "--detach", str(path), commit], root)
            yield path
        finally:
            git.call(["worktree", "remove", "--force", str(path)], root)
            shutil.rmtree(path, ignore_errors=True)  # git leaves what it did not make
            git.call(["worktree", "prune"], root)


def lend(suite: Path, place: Path) -> None:
    """Link into a checkout what git does not hold and its task needs: the task's files, and the folder `data`.

    Raises:
        ParamsError: the commit has no params that can be read.
    """
    task = read_params(place).task
    named = [*task.files, *([task.weights] if task.weights not in (None, "from_model") else []), "data"]
    for name in filter(None, named):
        source, link = suite / name, place / name
        if source.exists() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.resolve(), target_is_directory=source.is_dir())


def stage(word: str, place: Path) -> None:
    """Run one stage of a checkout in a process of its own.

    Raises:
        LostArtifactError: it failed.
    """
    command = [sys.executable, "-m", "compression_gate", word, "-C", str(place)]
    done = subprocess.run(
        command, cwd=place, env=environment(), capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["no word"]
        raise LostArtifactError(f"building it again failed: {word} ended with code {done.returncode}: {words[-1]}")
