"""What a release says of itself: which model, judged how, and the digest of every file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from compression_gate.errors import ReleaseError
from compression_gate.records.artifact import FileEntry
from compression_gate.records.base import Record

MANIFEST, SUMS = "MANIFEST.json", "SHA256SUMS"
SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


class Manifest(Record):
    """`MANIFEST.json` of an archive.

    Args:
        suite: the folder that was judged. name: of the release.
        commit: that was checked out; None where there was no git.
        candidate_digest: of the whole artifact; ``shipped`` names those of its files that are in the archive.
        verdict: the status under the policy `release`, which is `pass`.
        files: path inside the archive -> bytes and SHA-256, the manifest itself and `SHA256SUMS` left out.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    suite: str
    name: str
    commit: str | None
    package_version: str
    candidate_digest: str
    recipe_digest: str | None
    shipped: tuple[str, ...]
    runtime: str
    verdict: Literal["pass"]
    files: dict[str, FileEntry]


def entry_of(content: bytes) -> FileEntry:
    """How many bytes, and which."""
    return FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def sums_of(files: Mapping[str, FileEntry]) -> str:
    """`SHA256SUMS`, as `sha256sum --check` reads it."""
    return "".join(f"{entry.sha256}  {path}\n" for path, entry in sorted(files.items()))


def check_sums(sums: bytes, digests: Mapping[str, str], where: str) -> None:
    """Make sure that `SHA256SUMS` lists every other file, and that each has the bytes that it says.

    Args:
        sums: its content. digests: of the files beside it. where: begins the message.

    Raises:
        ReleaseError: a line is none, or a file is missing, added or changed.
    """
    matches = [SUM_LINE.fullmatch(line) for line in sums.decode(errors="replace").splitlines()]
    listed = {match[2]: match[1] for match in matches if match}
    odd = sorted(path for path in listed.keys() | digests.keys() if listed.get(path) != digests.get(path))
    if odd or not all(matches) or not listed:
        raise ReleaseError(
            f"{where}: {SUMS}: expected the digests of the files beside it, got others for "
            f"{', '.join(odd) or 'some lines'}: the archive is damaged; make it again"
        )
