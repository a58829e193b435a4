"""An archive whose bytes follow from its files alone: no times, no owners, no order but the alphabet's.

It is not compressed: models hardly shrink, and what a compressor makes of the same bytes differs between versions.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from compression_gate.errors import ReleaseError
from compression_gate.records.base import digest_of_file, replacing
from compression_gate.release.manifest import SUMS, check_sums

MODE = 0o644
Contents = Mapping[str, bytes | Path]  # by the path below the folder; a file of any size is read as it is written


def write(path: Path, contents: Contents, folder: str) -> None:
    """Write the archive and read it back; one that is there already must be the same.

    Raises:
        ReleaseError: another archive lies there, or what was written cannot be, or does not read back.
    """
    try:
        with replacing(path) as temporary:
            archive(temporary, contents, folder)
            check(temporary, path)
            if path.exists() and digest_of_file(path) != digest_of_file(temporary):
                raise ReleaseError(
                    f"{path}: expected no archive of this name, got another one: a release is not overwritten; choose "
                    "a new name, or delete it"
                )
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be written: {error}") from error


def archive(path: Path, contents: Contents, folder: str) -> None:
    """Write every file below ``folder``, in the order of their names."""
    with tarfile.open(path, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, content in sorted(contents.items()):
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mode, entry.mtime = file.seek(0, os.SEEK_END), MODE, 0
                file.seek(0)
                out.addfile(entry, file)


def check(path: Path, called: Path) -> None:
    """Make sure that an archive is one, and that every file is the one that its sums are of; nothing is unpacked.

    Args:
        path: where it lies. called: what it is to be called in a message.

    Raises:
        ReleaseError: it is no such archive, or a file is another, missing or added.
    """
    sums, digests = b"", {}
    try:
        with tarfile.open(path, mode="r:") as entries:
            for entry in entries:
                file = entries.extractfile(entry) if entry.isreg() else None
                if file is None:
                    raise ReleaseError(
                        f"{called}: {entry.name}: expected plain files, got something else: make it again"
                    )
                name = entry.name.partition("/")[2]
                if name == SUMS:
                    sums = file.read()
                else:
                    digests[name] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ReleaseError(f"{called}: cannot be read as an archive: {error}: make it again") from error
    check_sums(sums, digests, str(called))
