"""Reading what another job uploaded, as if an enemy had written it.

Nothing is unpacked: files are read from the folder or the archive into memory, up to a size each and together, and what
is not a plain JSON file of the right form is refused. What a verdict says of itself must follow from its checks.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import ValidationError

from compression_gate.errors import UploadError
from compression_gate.forge.disarming import line
from compression_gate.gate.policy import decide_again
from compression_gate.gate.test_reuse import unjudged
from compression_gate.records.upload import LONGEST_ADOPTION, MOST_ADOPTIONS, Upload
from compression_gate.reporters.base import Findings

LARGEST_BYTES = 4_000_000  # of one file; a verdict of 20 rules and 50 slices with all its records takes 0.3 million
LARGEST_ARCHIVE_BYTES = 8_000_000
MOST_FILES = 32
MENDING = "upload what `compression-gate post --to FOLDER` wrote, with the version that reads it"


def read_uploads(source: Path | bytes, expected: Sequence[str] = ()) -> list[Upload]:
    """Read every upload of a folder, or of a zip archive (a path or its bytes), ordered by suite.

    Args:
        expected: names of the suites that may be in it; any, if none are named.

    Raises:
        UploadError: something in it may not be believed; the message names no more than one thing.
    """
    files = list(archived(source) if is_archive(source) else lying(Path(str(source))))
    if not files:
        raise UploadError(f"expected one JSON file for each suite, got none: {MENDING}")
    uploads = sorted((parsed(name, content) for name, content in files), key=lambda one: one.suite)
    names = [one.suite for one in uploads]
    if len(set(names)) < len(names):
        raise UploadError(f"expected each suite once, got {', '.join(names)}: {MENDING}")
    if strange := sorted(set(names) - set(expected)) if expected else []:
        raise UploadError(f"expected {' or '.join(expected)}, got suite {strange[0]!r}: {MENDING}")
    return uploads


def is_archive(source: Path | bytes) -> bool:
    """Whether it is bytes or a file, and so an archive."""
    return isinstance(source, bytes) or source.is_file()


def lying(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The JSON files of a folder; links are refused, not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda one: one.name)
    except OSError as error:
        raise UploadError(f"{folder}: cannot be read: {error.strerror}: {MENDING}") from error
    if len(entries) > MOST_FILES:
        raise UploadError(f"expected at most {MOST_FILES} files, got {len(entries)}: {MENDING}")
    for entry in entries:
        if entry.is_symlink() or not entry.is_file(follow_symlinks=False):
            raise UploadError(f"expected plain files, got {line(entry.name, 80)!r}: {MENDING}")
        if entry.name.endswith(".json"):
            yield entry.name, plain_bytes(Path(entry.path))


def plain_bytes(path: Path) -> bytes:
    """A file's content, if it is a plain one of a bearable size."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        raise UploadError(f"{line(path.name, 80)}: cannot be read: {error.strerror}: {MENDING}") from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UploadError(f"expected plain files, got {line(path.name, 80)!r}: {MENDING}")
        return bounded(path.name, file)


def archived(source: Path | bytes) -> Iterator[tuple[str, bytes]]:
    """The JSON files of a zip archive. Nothing else may be in it: no folder, no link, no name that leads elsewhere."""
    content = source if isinstance(source, bytes) else whole_archive(source)
    if len(content) > LARGEST_ARCHIVE_BYTES:
        raise UploadError(f"expected at most {LARGEST_ARCHIVE_BYTES:,} bytes, got {len(content):,}: {MENDING}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > MOST_FILES:
                raise UploadError(f"expected at most {MOST_FILES} files, got {len(members)}: {MENDING}")
            for member in members:
                refuse_member(member)
                with archive.open(member) as file:
                    yield member.filename, bounded(member.filename, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise UploadError(f"expected a zip archive, got one that cannot be read: {line(str(error))}") from error


def whole_archive(path: Path) -> bytes:
    """A file's bytes, not many more than may be."""
    with path.open("rb") as file:
        return file.read(LARGEST_ARCHIVE_BYTES + 1)


def refuse_member(member: zipfile.ZipInfo) -> None:
    """Refuse what is not a plain JSON file at the top of the archive."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    name = member.filename
    plain = PurePosixPath(name).name == name and "\\" not in name and name.endswith(".json")
    if not plain or kind not in (0, stat.S_IFREG):
        raise UploadError(f"expected plain JSON files at the top, got {line(name, 80)!r}: {MENDING}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UploadError(f"{line(name, 80)}: expected the common compression, got kind {member.compress_type}")


def bounded(name: str, file: IO[bytes]) -> bytes:
    """Read to the end, or as far as a file may be long, whatever its header says."""
    content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise UploadError(f"{line(name, 80)}: expected at most {LARGEST_BYTES:,} bytes, got more: {MENDING}")
    return content


def parsed(name: str, content: bytes) -> Upload:
    """One upload, its form and its sense checked."""
    where = line(name, 80)
    try:
        upload = Upload.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise UploadError(f"{where}: {line(place, 100)}: {line(first['msg'])}: {MENDING}") from error
    if problem := contradiction(upload):
        raise UploadError(f"{where}: {problem}: it was edited, or written by another version: {MENDING}")
    return upload


def contradiction(upload: Upload) -> str | None:
    """What in an upload cannot be: a verdict that its own checks do not make, or params that it was not judged by.

    A verdict that may not be believed is in error whatever its checks say, and never a pass.
    """
    verdict, params = upload.verdict, upload.read_params()
    if upload.problems:
        said = (verdict.status, verdict.exit_code)
        return None if said == ("error", 4) else f"has problems and still says {said}"
    if params.digest != verdict.params_digest:
        return "its params are not those that the verdict was reached by"
    decision = decide_again(verdict, verdict.policy, params.gate.policies, verdict.waivers)
    said, follows = (verdict.status, verdict.exit_code), (decision.status, decision.exit_code)
    if follows[0] == "error" and not verdict.bindings and verdict.exit_code != 0:
        return None if verdict.status == "error" else f"its checks make {follows}, it says {said}"
    if said != follows:
        return f"its checks make {follows}, it says {said}"
    if lacking := unjudged(params.gate, verdict.checks):
        return f"has no check of gate.rules.{line(lacking[0], 100)}"
    return None


def upload_of(findings: Findings, problems: Sequence[str] = ()) -> Upload:
    """What another job needs in order to post these findings."""
    return Upload(
        suite=findings.suite,
        folder=findings.folder,
        params=findings.params.as_dict(),
        verdict=findings.verdict,
        problems=tuple(problems),
        rule_lines=dict(findings.rule_lines),
        compression=findings.compression,
        evaluation=findings.evaluation,
        benchmark=findings.benchmark,
        training=findings.training,
        sensitivity=findings.sensitivity,
        adoptions=tuple(text[:LONGEST_ADOPTION] for text in findings.adoptions[:MOST_ADOPTIONS]),
    )


def findings_of(upload: Upload) -> Findings:
    """What reporters take, from an upload."""
    return Findings(
        suite=upload.suite,
        folder=upload.folder,
        params=upload.read_params(),
        verdict=upload.verdict,
        compression=upload.compression,
        evaluation=upload.evaluation,
        benchmark=upload.benchmark,
        training=upload.training,
        sensitivity=upload.sensitivity,
        rule_lines=upload.rule_lines,
        adoptions=upload.adoptions,
    )
