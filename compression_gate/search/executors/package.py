"""A suite on its way to a machine that does not see it: the files that trials read, in one archive."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
import tempfile
from pathlib import Path

from compression_gate.search.executors.base import Place
from compression_gate.search.executors.guard import held
from compression_gate.tasks.sources import repository_root

PREFIX = "compression-gate-search-"


def packed(place: Place) -> bytes:
    """The files of a place, as they lie to each other, and the mark of the repository they are in."""
    root, repository = root_of(place), repository_root(place.suite)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in sorted({path.resolve() for path in place.files if path.exists()}):
            archive.add(path, path.relative_to(root).as_posix())
        if (repository / ".git").exists() and repository.is_relative_to(root):  # modules are looked for up to there
            archive.addfile(tarfile.TarInfo((repository.relative_to(root) / ".git").as_posix()))
    return buffer.getvalue()


def root_of(place: Place) -> Path:
    """The folder that holds all that is packed."""
    paths = [place.suite.resolve(), place.folder.resolve(), *(path.resolve() for path in place.files)]
    return Path(os.path.commonpath(paths))


def folder_of(key: str) -> Path:
    """Where a package lies on a machine: the same place for all who unpack it there."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}{key}"


def unpacked(archive: bytes, key: str, place: Place) -> Place:
    """Unpack an archive, unless another did, hold it while this process lives, and return the place as it is here."""
    folder, root = folder_of(key), root_of(place)
    unpack(archive, folder)
    while not held(folder):  # the last who held it went meanwhile, and took it along
        unpack(archive, folder)
    return dataclasses.replace(
        place,
        suite=folder / place.suite.resolve().relative_to(root),
        folder=folder / place.folder.resolve().relative_to(root),
    )


def unpack(archive: bytes, folder: Path) -> None:
    """Unpack an archive into a folder, whole; who comes second finds it there."""
    if folder.is_dir():
        return
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        fresh = Path(beside) / folder.name
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
            files.extractall(fresh, filter="data")
        try:
            fresh.rename(folder)
        except OSError:  # it is there, and not empty
            if not folder.is_dir():
                raise
