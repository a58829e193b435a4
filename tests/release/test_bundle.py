"""The archive: the same files give the same bytes, and nothing that was changed reads back."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from compression_gate.errors import ReleaseError
from compression_gate.release import bundle
from compression_gate.release.manifest import SUMS, sums_of

FILES = {"model/model.onnx": b"weights", "verdict.json": b"{}\n", "a name.txt": b""}


def whole(files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return files | {SUMS: sums_of(files).encode()}


def test_order_of_files_does_not_matter_to_the_bytes() -> None:
    turned = dict(reversed(list(whole().items())))
    assert bundle.archived(whole(), "shop-1.0") == bundle.archived(turned, "shop-1.0")


def test_entries_hold_no_time_and_no_owner(tmp_path: Path) -> None:
    bundle.write(tmp_path / "a.tar", whole(), "shop-1.0")
    with tarfile.open(tmp_path / "a.tar") as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == [f"shop-1.0/{name}" for name in sorted(whole())]
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode) for entry in entries} == {
        (0, 0, 0, "", "", 0o644)
    }


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    bundle.write(tmp_path / "a.tar", whole(), "shop-1.0")
    assert bundle.read(tmp_path / "a.tar") == whole()


def test_same_archive_again_is_no_fault_and_another_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    bundle.write(path, whole(), "shop-1.0")
    bundle.write(path, whole(), "shop-1.0")
    before = path.read_bytes()
    with pytest.raises(ReleaseError, match=r"a\.tar: expected no archive of this name"):
        bundle.write(path, whole({"other": b""}), "shop-1.0")
    assert path.read_bytes() == before


CHANGES = [
    ("changed", {**whole(), "verdict.json": b"{ }\n"}),
    ("missing", {name: content for name, content in whole().items() if name != "verdict.json"}),
    ("added", {**whole(), "more.txt": b""}),
    ("without sums", FILES),
    ("sums of nothing", {SUMS: b""}),
    ("a line that is none", {**whole(), SUMS: whole()[SUMS] + b"junk\n"}),
]


@pytest.mark.parametrize(("what", "contents"), CHANGES, ids=[what for what, _ in CHANGES])
def test_archive_that_is_not_what_its_sums_say_is_refused(tmp_path: Path, what: str, contents: dict) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(bundle.archived(contents, "shop-1.0"))
    with pytest.raises(ReleaseError, match=r"a\.tar: SHA256SUMS: expected the digests"):
        bundle.read(path)


def linked() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("shop-1.0/model")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    return out.getvalue()


@pytest.mark.parametrize("data", [b"", b"no archive at all", linked(), bundle.archived(whole(), "x")[:700]])
def test_file_that_is_no_such_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ReleaseError, match=r"a\.tar"):
        bundle.read(tmp_path / "a.tar")
