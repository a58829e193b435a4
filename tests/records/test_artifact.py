"""An artifact speaks of exactly the files that lie beside it."""

import json

import pytest

from compression_gate.errors import MetricsError, StaleError
from compression_gate.records.artifact import FILE_NAME, Artifact, FileEntry, digest_of_files, entries


@pytest.fixture
def folder(tmp_path):
    """A folder of three files and their record."""
    (tmp_path / "model.safetensors").write_bytes(b"w" * 100)
    (tmp_path / "model.onnx").write_bytes(b"o" * 40)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "part").write_bytes(b"p" * 2)
    files = entries(tmp_path)
    Artifact(
        role="candidate",
        format="onnx",
        runtime="onnxruntime",
        files=files,
        shipped=("model.onnx", "more/part"),
        digest="",
        parameters=3,
        nonzeros=2,
        macs=1,
    ).sealed().write(tmp_path / FILE_NAME)
    return tmp_path


def damaged(folder, **changes):
    """Change fields of the record as somebody else might."""
    values = json.loads((folder / FILE_NAME).read_text())
    (folder / FILE_NAME).write_text(json.dumps(values | changes))


def test_bytes_are_of_every_file_that_ships(folder):
    artifact = Artifact.open(folder)
    assert (artifact.size_bytes, artifact.state_bytes) == (42, 100)


def test_written_and_opened_is_equal(folder):
    artifact = Artifact.open(folder)
    artifact.write(folder / FILE_NAME)
    assert Artifact.open(folder) == artifact


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "more/part"])
def test_one_changed_byte_in_any_file_is_stale(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(StaleError, match=rf"{name}: expected the files that artifact\.json lists"):
        Artifact.open(folder)


def test_removed_and_added_files_are_named(folder):
    (folder / "model.onnx").unlink()
    (folder / "extra").write_text("x")
    with pytest.raises(StaleError, match=r"extra, model\.onnx"):
        Artifact.open(folder)


def test_renamed_file_changes_the_digest():
    entry = FileEntry(bytes=1, sha256="00")
    assert digest_of_files({"a": entry}) != digest_of_files({"b": entry})


@pytest.mark.parametrize(
    "claim", [{"parameters": 2}, {"nonzeros": 1}, {"macs": 0}, {"shipped": ["model.onnx"]}], ids=str
)
def test_counts_that_were_not_counted_are_stale(folder, claim):
    """The benchmark copies them: two records that agree prove nothing of them."""
    damaged(folder, **claim)
    with pytest.raises(StaleError, match=r"artifact\.json: digest: expected"):
        Artifact.open(folder)


def test_a_record_of_before_counts_were_covered_is_read_still(folder):
    """A release of an older version is a reference still."""
    old = Artifact.open(folder)
    damaged(folder, schema=1, digest=digest_of_files(old.files))
    assert Artifact.open(folder).digest == digest_of_files(old.files)


def test_digest_that_is_not_of_the_files_is_stale(folder):
    """The record of a fork may claim the digest of a model that was judged elsewhere."""
    damaged(folder, digest="0" * 64)
    with pytest.raises(StaleError, match=r"artifact\.json: digest: expected .*, got '0{64}'"):
        Artifact.open(folder)


@pytest.mark.parametrize("shipped", [[], ["model.coded"], ["../model.onnx"]])
def test_record_that_ships_what_it_does_not_list_is_refused(folder, shipped):
    damaged(folder, shipped=shipped)
    with pytest.raises(MetricsError, match="shipped"):
        Artifact.open(folder)


def test_folder_without_a_record_says_what_to_run(tmp_path):
    with pytest.raises(MetricsError, match=r"artifact\.json: missing: run the stage"):
        Artifact.open(tmp_path)
