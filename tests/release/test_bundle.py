"""The archive: the same files give the same bytes, and nothing that was changed reads back."""

from __future__ import annotations

import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from archives import unpacked

from compression_gate.errors import ReleaseError
from compression_gate.records.artifact import FileEntry
from compression_gate.records.base import digest_of_file
from compression_gate.release import bundle
from compression_gate.release.manifest import SUMS, entry_of, sums_of

FILES = {"model/model.onnx": b"weights", "verdict.json": b"{}\n", "a name.txt": b""}


def whole(files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return files | {SUMS: sums_of({name: entry_of(content) for name, content in files.items()}).encode()}


def test_order_of_files_does_not_matter_to_the_bytes(tmp_path: Path) -> None:
    bundle.write(tmp_path / "a.tar", whole(), "shop-1.0")
    bundle.write(tmp_path / "b.tar", dict(reversed(list(whole().items()))), "shop-1.0")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


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
    assert unpacked(tmp_path / "a.tar") == whole()


def test_a_large_file_is_never_held_whole(tmp_path: Path) -> None:
    """As the archive is written, and as it is compared with the one that lies there."""
    size = 20_000_000
    (tmp_path / "model").write_bytes(b"\0" * size)
    files = {"model": FileEntry(bytes=size, sha256=digest_of_file(tmp_path / "model"))}
    contents = {"model": tmp_path / "model", SUMS: sums_of(files).encode()}
    for _ in range(2):
        tracemalloc.start()
        bundle.write(tmp_path / "a.tar", contents, "shop-1.0")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < size / 10


def test_archive_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"a\.tar: cannot be written: "):
        bundle.write(tmp_path / "file" / "a.tar", whole(), "shop-1.0")


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
    bundle.archive(path, contents, "shop-1.0")
    with pytest.raises(ReleaseError, match=r"a\.tar: SHA256SUMS: expected the digests"):
        bundle.check(path, path)
    path.unlink()
    with pytest.raises(ReleaseError, match=r"a\.tar: SHA256SUMS: expected the digests"):
        bundle.write(path, contents, "shop-1.0")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("data", [b"", b"no archive at all"])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ReleaseError, match=r"a\.tar"):
        bundle.check(tmp_path / "a.tar", tmp_path / "a.tar")


def test_archive_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    bundle.archive(tmp_path / "a.tar", whole(), "shop-1.0")
    os.truncate(tmp_path / "a.tar", 700)
    with pytest.raises(ReleaseError, match=r"a\.tar"):
        bundle.check(tmp_path / "a.tar", tmp_path / "a.tar")


def test_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", mode="w") as archive:
        entry = tarfile.TarInfo("shop-1.0/model")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(ReleaseError, match=r"a\.tar: shop-1\.0/model: expected plain files"):
        bundle.check(tmp_path / "a.tar", tmp_path / "a.tar")
