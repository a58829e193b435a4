"""Files of named tensors: piece by piece, in threads, and on behind a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gate.codec import coded_tensors, container
from compression_gate.codec.coded_tensors import decode_tensors, encode_tensors
from compression_gate.errors import CodecError, ParamsError


def mixed(seed=0):
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(600, 300, generator=random)
    return {
        "weights": weights,
        "half": weights.to(torch.bfloat16),
        "integers": (weights * 20).round().to(torch.int8),
        "few": (weights * 2).round() * 0.125,
        "scale": torch.rand(600, generator=random),
        "empty": torch.zeros(0, 4),
        "one": torch.tensor(3.5),
        "flags": weights[:5] > 0,
    }


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A file whose tensors are cut into many pieces."""
    monkeypatch.setattr(container, "SEGMENT_NUMBERS", 1 << 14)
    save_file(mixed(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("fast", [False, True], ids=["small", "fast"])
def test_tensors_come_back_and_threads_change_no_byte(source, tmp_path, fast, workers):
    size = encode_tensors(source, tmp_path / "a.cgz", fast=fast, workers=workers)
    assert size == (tmp_path / "a.cgz").stat().st_size < 0.8 * source.stat().st_size
    encode_tensors(source, tmp_path / "b.cgz", fast=fast)
    assert (tmp_path / "a.cgz").read_bytes() == (tmp_path / "b.cgz").read_bytes()
    decode_tensors(tmp_path / "a.cgz", tmp_path / "again.safetensors", workers=workers)
    again, before = load_file(tmp_path / "again.safetensors"), mixed()
    assert list(again) == list(load_file(source))
    for name, tensor in before.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor), name
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.cgz", "again.safetensors", "b.cgz", "model.safetensors",
    ]  # fmt: skip


def interrupted_after(pieces, monkeypatch):
    real, done = coded_tensors.coded_part, []

    def coded(part, patterns, *, fast):
        if len(done) == pieces:
            raise KeyboardInterrupt
        done.append(part)
        return real(part, patterns, fast=fast)

    monkeypatch.setattr(coded_tensors, "coded_part", coded)
    return done


@pytest.mark.parametrize("damage", [None, "journal", "segments"])
def test_what_was_coded_before_an_interruption_is_not_coded_again(source, tmp_path, monkeypatch, damage):
    encode_tensors(source, tmp_path / "whole.cgz")
    out = tmp_path / "model.cgz"
    with monkeypatch.context() as patch:
        interrupted_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            encode_tensors(source, out)
    assert not out.exists()
    kept = 5
    if damage is not None:
        path = tmp_path / f".model.cgz.{damage}"
        path.write_bytes(path.read_bytes()[:-3])
        kept = 4
    with monkeypatch.context() as patch:
        done = interrupted_after(10**6, patch)
        encode_tensors(source, out)
    assert out.read_bytes() == (tmp_path / "whole.cgz").read_bytes()
    assert len(done) == len(coded_tensors.parts_of(coded_tensors.Source.of(source).entries)) - kept
    assert not list(tmp_path.glob(".model*"))


def test_what_was_coded_of_another_file_is_left(source, tmp_path, monkeypatch):
    out = tmp_path / "model.cgz"
    with monkeypatch.context() as patch:
        interrupted_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            encode_tensors(source, out)
    save_file(mixed(1), source)
    os.utime(source, ns=(1, 1))
    encode_tensors(source, out)
    decode_tensors(out, tmp_path / "again.safetensors")
    assert torch.equal(load_file(tmp_path / "again.safetensors")["weights"], mixed(1)["weights"])


def test_a_second_encoder_of_one_file_is_told_who_writes_it(source, tmp_path, monkeypatch):
    out, real, refused = tmp_path / "model.cgz", coded_tensors.coded_part, []

    def meanwhile(part, patterns, *, fast):
        with pytest.raises(ParamsError, match=rf"model\.cgz: being written since .*process {os.getpid()} on .*: wait"):
            encode_tensors(source, out)
        refused.append(part)
        return real(part, patterns, fast=fast)

    monkeypatch.setattr(coded_tensors, "coded_part", meanwhile)
    encode_tensors(source, out)
    assert refused
    decode_tensors(out, tmp_path / "again.safetensors")
    assert not list(tmp_path.glob(".model*"))


def test_segments_that_something_else_wrote_to_become_no_file(source, tmp_path, monkeypatch):
    def longer(path):
        with path.open("ab") as file:
            file.write(b"more")

    real = coded_tensors.head_bytes
    monkeypatch.setattr(
        coded_tensors, "head_bytes", lambda **given: longer(tmp_path / ".model.cgz.segments") or real(**given)
    )
    with pytest.raises(CodecError, match=r"model\.cgz: expected \d+ bytes, got \d+: something else wrote to"):
        encode_tensors(source, tmp_path / "model.cgz")
    assert not (tmp_path / "model.cgz").exists()


@pytest.mark.parametrize("damage", [None, "journal", "decoding"])
def test_what_was_decoded_before_an_interruption_is_not_decoded_again(source, tmp_path, monkeypatch, damage):
    encode_tensors(source, tmp_path / "a.cgz", fast=True)
    out, real, read = tmp_path / "again.safetensors", coded_tensors.read_pieces, []

    def pieces(*given, **how):
        for piece in real(*given, **how):
            if len(read) == 5:
                raise KeyboardInterrupt
            read.append(piece)
            yield piece

    with monkeypatch.context() as patch:
        patch.setattr(coded_tensors, "read_pieces", pieces)
        with pytest.raises(KeyboardInterrupt):
            decode_tensors(tmp_path / "a.cgz", out)
    assert not out.exists()
    if damage is not None:
        path = tmp_path / f".again.safetensors.{damage}"
        path.write_bytes(path.read_bytes()[:-3])
    before = len(read)
    with monkeypatch.context() as patch:
        patch.setattr(
            coded_tensors, "read_pieces", lambda *given, **how: (read.append(one) or one for one in real(*given, **how))
        )
        decode_tensors(tmp_path / "a.cgz", out)
    count = len(coded_tensors.parts_of(coded_tensors.Source.of(source).entries))
    assert len(read) - before == count - (5 if damage is None else 4)
    again = load_file(out)
    for name, tensor in mixed().items():
        assert torch.equal(again[name], tensor), name
    assert not list(tmp_path.glob(".again*"))


CODE = """
import sys
from pathlib import Path
from compression_gate.codec import coded_tensors
getattr(coded_tensors, sys.argv[1])(*map(Path, sys.argv[2:]))
"""


def killed_once_then_run(words, journal):
    """Kill a run when it has written a piece; the next one goes on behind it."""
    command = [sys.executable, "-c", CODE, *map(str, words)]
    process = subprocess.Popen(command)
    end = time.monotonic() + 120
    while time.monotonic() < end and not (journal.exists() and len(journal.read_text().splitlines()) > 1):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not words[-1].exists()
    subprocess.run(command, check=True)


@pytest.mark.skipif(os.name != "posix", reason="kills a process by a signal")
def test_a_killed_encoder_and_a_killed_decoder_are_taken_up_where_they_were(tmp_path):
    save_file(
        {"weights": torch.randn(3000, 1000, generator=torch.Generator().manual_seed(0))}, tmp_path / "x.safetensors"
    )
    source, coded, decoded = (tmp_path / name for name in ("x.safetensors", "x.cgz", "y.safetensors"))
    killed_once_then_run(["encode_tensors", source, coded], tmp_path / ".x.cgz.journal")
    killed_once_then_run(["decode_tensors", coded, decoded], tmp_path / ".y.safetensors.journal")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.cgz", "x.safetensors", "y.safetensors"]
    assert torch.equal(
        load_file(tmp_path / "y.safetensors")["weights"], load_file(tmp_path / "x.safetensors")["weights"]
    )


def with_header(text, numbers=b""):
    return len(text).to_bytes(8, "little") + text + numbers


def with_tensors(numbers=b"", **tensors):
    keys = ("dtype", "shape", "data_offsets")
    lines = {name: dict(zip(keys, one, strict=True)) for name, one in tensors.items()}
    return with_header(json.dumps(lines).encode(), numbers)


# Files that are no safetensors file, and what is said of them.
BAD_SOURCES = {
    "empty": (b"", "expected a safetensors file"),
    "header of terabytes": (b"\xff" * 8 + b"{}", "got a header of"),
    "no json": (with_header(b"xx"), "expected a safetensors file"),
    "numbers missing": (with_tensors(a=("F32", [2], [0, 8])), "expected 8 bytes behind its header, got 0"),
    "more behind": (with_tensors(bytes(9), a=("F32", [2], [0, 8])), "expected 8 bytes behind its header, got 9"),
    "sizes below zero": (with_tensors(bytes(8), a=("F32", [-1, -2], [0, 8])), r"expected \[name, .*\['a', 'F32', \[-1"),
    "unknown type": (
        with_tensors(bytes(8), a=("C64", [1], [0, 8])),
        r"one of F32, .*, sizes\], got \['a', 'C64', \[1\]\]",
    ),
    "numbers in the header": (
        with_tensors(bytes(8), a=("F32", [2], [-8, 0])),
        "a: data_offsets: expected 0, .* got -8",
    ),
    "a place that is no whole number": (
        with_tensors(bytes(8), a=("F32", [2], [0.0, 8])),
        r"a: .* 8 apart, got \[0.0, 8\]",
    ),
    "a place in words": (with_tensors(bytes(8), a=("F32", [2], ["0", 8])), "a: data_offsets: .* 8 apart, got "),
    "more place than numbers": (with_tensors(bytes(9), a=("F32", [2], [0, 9])), r"8 apart, got \[0, 9\]"),
    "one inside another": (
        with_tensors(bytes(12), a=("F32", [2], [0, 8]), b=("F32", [2], [4, 12])),
        "b: data_offsets: expected 8, where the tensor before it ends, got 4",
    ),
    "bytes of nothing": (with_tensors(bytes(9), a=("F32", [2], [1, 9])), "a: data_offsets: expected 0, .* got 1"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_bad_source_is_refused(tmp_path, case):
    data, expected = BAD_SOURCES[case]
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CodecError, match=expected):
        encode_tensors(tmp_path / "x.safetensors", tmp_path / "x.cgz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_places_that_cannot_be_written_to_are_named(source, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CodecError, match=r"file/x\.cgz: cannot be written: "):
        encode_tensors(source, tmp_path / "file" / "x.cgz")
    encode_tensors(source, tmp_path / "a.cgz", fast=True)
    with pytest.raises(CodecError, match=r"file/x\.safetensors: cannot be written: "):
        decode_tensors(tmp_path / "a.cgz", tmp_path / "file" / "x.safetensors")


def test_nothing_is_written_where_a_disk_has_no_room_for_all_of_it(tmp_path, monkeypatch):
    save_file({"zeros": torch.zeros(1 << 20)}, tmp_path / "x.safetensors")
    encode_tensors(tmp_path / "x.safetensors", tmp_path / "x.cgz")
    assert (tmp_path / "x.cgz").stat().st_size < 100
    free = 4 << 20
    monkeypatch.setattr(coded_tensors.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(
        CodecError, match=r"y\.safetensors: expected 4,194,\d+ bytes of room on its disk, got 4,194,304"
    ):
        decode_tensors(tmp_path / "x.cgz", tmp_path / "y.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.cgz", "x.safetensors"]


@pytest.mark.parametrize("count", [20, 1 << 16])
def test_a_truth_that_is_none_is_named(tmp_path, count):
    data = with_tensors(bytes(range(16)) * (count // 16) + bytes(count % 16), flags=("BOOL", [count], [0, count]))
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CodecError, match=r"^flags: integers: expected symbols of 0 to 1, got 0 to 15$"):
        encode_tensors(tmp_path / "x.safetensors", tmp_path / "x.cgz")


def test_a_damaged_piece_is_found_and_nothing_is_written(source, tmp_path):
    encode_tensors(source, tmp_path / "a.cgz")
    data = bytearray((tmp_path / "a.cgz").read_bytes())
    data[-10] ^= 4
    with pytest.raises(CodecError, match=r"segment \d+: checksum"):
        decode_tensors(bytes(data), tmp_path / "again.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cgz", "model.safetensors"]
