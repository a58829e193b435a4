"""What is around the streams; and what a reader does not believe."""

from __future__ import annotations

import io
import json
import lzma
import os
import tracemalloc
import zlib
from contextlib import contextmanager

import pytest
from coded_files import sealed
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.codec import container
from compression_gate.codec.container import (
    FAST,
    GRAPH,
    LARGE_BYTES,
    MODEL,
    SEGMENT_NUMBERS,
    SEGMENTS,
    Entry,
    head_bytes,
    opened,
    packed_directory,
    packed_graph,
    read_head,
    read_segment,
    varint,
    write_file,
)
from compression_gate.codec.number_types import BY_NAME
from compression_gate.errors import CodecError

ENTRIES = (
    Entry("läyer.weight", BY_NAME["F32"], (3, 4)),
    Entry("", BY_NAME["BOOL"], ()),
    Entry("n", BY_NAME["U64"], (0,)),
)
CHECKED = {"signature": 0xABCD, "directory": None, "graph": None, "frames": (), "pool": b"pool", "fast": False}


@contextmanager
def little_memory(most):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def read(data):
    return read_head(io.BytesIO(data), "model.cgz")


def refused(data, match, most=1 << 23):
    with little_memory(most), pytest.raises(CodecError, match=match) as caught:
        read(data)
    assert str(caught.value).startswith("model.cgz: ")


def directory(text):
    packed = zlib.compress(text if isinstance(text, bytes) else json.dumps(text).encode())
    return sealed(varint(len(packed)) + packed, 0)


@given(st.integers(0, 2**63 - 1))
def test_varints_take_seven_bits_a_byte(number):
    data = varint(number)
    assert len(data) == max(1, (number.bit_length() + 6) // 7)
    assert container.Reader(io.BytesIO(data), "").number("it") == number


HEADS = [
    {},
    {"pool": b""},
    {"pool": bytes(300)},
    {"fast": True},
    {"frames": ((3, 7), (0, 0), (300, 2**32 - 1))},
    {"signature": None, "directory": ENTRIES},
    {"signature": None, "directory": ENTRIES, "graph": b"graph" * 99, "frames": ((1, 1),), "fast": True},
]


@pytest.mark.parametrize("changed", HEADS)
def test_a_head_comes_back(changed):
    given_ = CHECKED | changed
    data = head_bytes(**given_)
    head = read(data + bytes(sum(length for length, _ in given_["frames"])))
    assert (head.signature, head.directory, head.graph) == (
        given_["signature"], given_["directory"], given_["graph"])  # fmt: skip
    assert (head.pool, head.fast) == (given_["pool"], given_["fast"])
    assert [(segment.length, segment.checksum) for segment in head.segments] == list(given_["frames"])
    position = len(data)
    for segment in head.segments:
        assert segment.offset == position
        position += segment.length


@pytest.mark.parametrize("length", [0, 110, 114, 115, 116, 117, 118, 119, 130, 16_370, 16_376, 16_377, 16_378, 16_380])
def test_the_length_counts_itself(length):
    data = head_bytes(**CHECKED | {"pool": bytes(length)})
    assert read(data).total == len(data)


def test_a_model_of_nothing_takes_twelve_bytes():
    assert len(head_bytes(**CHECKED | {"pool": b""})) == 3 + 1 + 1 + 1 + 4 + 2


def test_any_source_is_read(tmp_path):
    data = head_bytes(**CHECKED)
    (tmp_path / "model.cgz").write_bytes(data)
    with (tmp_path / "model.cgz").open("rb") as file:
        for source in (tmp_path / "model.cgz", str(tmp_path / "model.cgz"), data, bytearray(data), file):
            with opened(source) as (one, name):
                assert read_head(one, name).pool == b"pool"
    ends = os.pipe()
    os.write(ends[1], data)
    os.close(ends[1])
    with open(ends[0], "rb") as pipe, opened(pipe) as (one, name):  # noqa: PTH123  (a pipe has no path)
        assert read_head(one, name).pool == b"pool"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CodecError, match=r"none\.cgz: cannot be read: No such file"), opened(tmp_path / "none.cgz"):
        pass


def test_what_goes_wrong_while_a_file_is_open_is_not_put_down_to_it(tmp_path):
    (tmp_path / "model.cgz").write_bytes(b"")
    with pytest.raises(PermissionError), opened(tmp_path / "model.cgz"):
        raise PermissionError


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    place = tmp_path / "file" / "model.cgz"
    with pytest.raises(CodecError, match=r"file/model\.cgz: cannot be written: .*file"):
        write_file(place, **{key: value for key, value in CHECKED.items() if key != "frames"}, segments=[])


GOOD = head_bytes(**CHECKED | {"frames": ((4, zlib.crc32(b"abcd")),)}) + b"abcd"


def test_every_bit_counts():
    """In the head a flipped bit is found when it is read; in a segment when that is."""
    for bit in range(8 * len(GOOD)):
        data = bytearray(GOOD)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            read_segment(io.BytesIO(data), read(bytes(data)).segments[0], "model.cgz", 0)


def test_every_byte_counts():
    for length in range(len(GOOD)):
        with pytest.raises(CodecError):
            read(GOOD[:length])
    with pytest.raises(CodecError, match="cut short or added to"):
        read(GOOD + b"\0")


def test_a_damaged_segment_says_which():
    head = read(GOOD)
    with pytest.raises(CodecError, match=r"model\.cgz: segment 7: checksum: expected 0x\w{8}, got 0x\w{8}"):
        read_segment(io.BytesIO(GOOD[:-1] + b"x"), head.segments[0], "model.cgz", 7)
    with pytest.raises(CodecError, match="segment 7: expected 4 bytes"):
        read_segment(io.BytesIO(GOOD[:-1]), head.segments[0], "model.cgz", 7)


REFUSED = {
    "an empty file": (b"", r"magic: expected 3 bytes from byte 0 on, got 0"),
    "another file": (b"PK\3\4 and so on", r"expected a coded file, which begins with b'CGZ', got b'PK\\x03'"),
    "a newer schema": (sealed(b"", MODEL, schema=3), "schema: expected 1 to 2, got 3: written by a newer "),
    "no schema": (sealed(b"", MODEL, schema=0), "schema: expected 1 to 2, got 0: .* that is not supported"),
    "an unknown flag": (sealed(b"ab", MODEL | 16), "flags: expected some of 0xf, got 0x11"),
    "a length that is too small": (sealed(b"ab", MODEL, missing=1), "expected 11 bytes, got 12"),
    "a length without an end": (b"CGZ\1\1" + b"\xff" * 40, "length: expected a number of at most nine bytes"),
    "a wrong checksum": (sealed(b"ab", MODEL)[:-1] + b"c", "checksum of the head: expected 0x"),
    "no signature": (sealed(b"", MODEL), "signature: expected 2 bytes"),
    "a directory of terabytes": (sealed(varint(1 << 42), 0), "directory: expected 4398046511104 bytes"),
    "a graph of terabytes": (sealed(varint(1 << 42), GRAPH | MODEL), "graph: expected"),
    "a pool of terabytes": (sealed(b"ab\0" + varint(1 << 42), MODEL | SEGMENTS), "pool: expected 4398046511104 bytes"),
    "more segments than fit": (sealed(b"ab" + varint(99), MODEL | SEGMENTS), "segments: expected at most 2, got 99"),
    "segments of terabytes": (
        sealed(b"ab\1" + varint(1 << 42) + bytes(4) + b"\0", MODEL | SEGMENTS),
        "segments: expected 0 bytes in all, by their lengths 4398046511104",
    ),
    "bytes of no segment": (sealed(b"ab\0\0", MODEL | SEGMENTS, behind=b"xyz"), "segments: expected 3 bytes in all"),
    "no deflated directory": (sealed(b"\3abc", FAST), "directory: expected deflated JSON: Error -3"),
    "a directory that is cut": (sealed(b"\7" + zlib.compress(b"[]" * 9)[:7], 0), "directory: expected at most"),
    "a directory with more behind": (
        sealed(varint(len(zlib.compress(b"[]")) + 1) + zlib.compress(b"[]") + b"x", 0), "no more behind them"
    ),
    "no JSON": (directory(b"{"), "directory: expected deflated JSON: Expecting"),
    "no text": (directory(b"\xff\xfe"), "directory: expected deflated JSON"),
    "a number of 5,000 digits": (directory(b"[" + b"1" * 5000 + b"]"), "directory: expected deflated JSON"),
    "lists in lists": (directory(b"[" * 100_000), "directory: expected deflated JSON"),
    "no list": (directory({"a": 1}), "directory: expected a list of tensors, got dict"),
    "the deflated bomb": (directory(bytes(1 << 24)), "directory: expected at most"),
    "no graph": (sealed(b"ab\30" + b"xyz" * 8, MODEL | GRAPH), "graph: expected an xz stream"),
    "a graph with more behind": (
        sealed(b"ab" + varint(len(packed_graph(b"g")) + 1) + packed_graph(b"g") + b"x", MODEL | GRAPH),
        "graph: expected at most .* and no more behind",
    ),
    "the xz bomb": (
        sealed(b"ab" + varint(len(lzma.compress(bytes(1 << 24)))) + lzma.compress(bytes(1 << 24)), MODEL | GRAPH),
        "graph: expected at most",
    ),
    "an xz stream of large memory": (
        sealed(b"ab" + varint(60) + lzma.compress(b"", preset=9).ljust(60, b"\0"), MODEL | GRAPH), "graph: expected"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_little_memory(case):
    data, complaint = REFUSED[case]
    refused(data, complaint, most=1 << 27 if data[4:5] == bytes([MODEL | GRAPH]) else 1 << 23)  # xz takes 64 MiB


LINES = {  # a line of a directory -> none of these
    "no line": 7,
    "too short": ["a", "F32"],
    "no name": [1, "F32", []],
    "no type": ["a", "F128", []],
    "no shape": ["a", "F32", 3],
    "sizes below zero": ["a", "F32", [-1]],
    "no whole size": ["a", "F32", [1.0]],
    "a truth for a size": ["a", "F32", [True]],
    "too many axes": ["a", "F32", [1] * 17],
    "an axis beyond all bounds": ["a", "F32", [1 << 40, 0]],
    "axes beyond all bounds beside a zero": ["a", "F32", [0, 1 << 39, 1 << 39]],
    "half of a character": ["\ud800", "F32", []],
    "the name that safetensors keeps to itself": ["__metadata__", "F32", []],
}


@pytest.mark.parametrize("case", LINES)
def test_a_line_of_a_directory_that_cannot_be_is_refused(case):
    refused(directory([["b", "U8", [2]], LINES[case]]), r"directory: expected \[name, one of F32, .*, sizes\], got ")


def test_a_tensor_is_named_once():
    refused(directory([["a", "U8", [2]], ["a", "U8", [3]]]), "directory: expected each name once")


def test_a_directory_cannot_ask_for_a_terabyte():
    refused(
        directory([["a", "F32", [1 << 38]]]), r"directory: expected at most \d+ numbers in \d+ bytes, got 274877906944"
    )
    refused(directory([[str(number), "F32", [1 << 20]] for number in range(99)]), "expected at most .* got 103809024")


SHAPES = [  # a shape -> how many segments
    ((), 0),
    ((16_383,), 0),
    ((16_384,), 1),
    ((1024, 1024), 1),
    ((1025, 1024), 2),
    ((3, SEGMENT_NUMBERS + 1), 4),
    ((2**20 + 1,), 2),
    ((0, 2**30), 0),
    ((70_000, 1), 1),
    ((1, 70_000), 1),
    ((5, 700_000, 2), 7),
]


@pytest.mark.parametrize(("shape", "count"), SHAPES)
def test_large_tensors_are_cut_into_whole_rows(shape, count):
    entry = Entry("a", BY_NAME["F32"], shape)
    assert entry.large == (4 * entry.size >= LARGE_BYTES)
    assert entry.segments == count
    position = 0
    for start, part in entry.parts if entry.large else ():
        assert start == position
        size = Entry("", entry.type, part).size
        assert 0 < size <= SEGMENT_NUMBERS
        position += size
    assert position == (entry.size if entry.large else 0)


def test_a_directory_is_small():
    entries = [Entry(f"encoder.layers.{n}.attention.weight", BY_NAME["F32"], (64, 64)) for n in range(100)]
    assert len(packed_directory(entries)) < 500


def test_a_directory_that_no_reader_would_take_is_not_written():
    entries = [Entry(f"{number:04}{'a' * 1000}", BY_NAME["F32"], ()) for number in range(2000)]
    with pytest.raises(CodecError, match=r"directory: expected at most .* shorter names"):
        packed_directory(entries)


def test_a_graph_that_no_reader_would_take_is_not_written():
    with pytest.raises(CodecError, match=r"graph: expected at most .* got 16777216: make its large constants"):
        packed_graph(bytes(1 << 24))
