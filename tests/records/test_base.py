"""Records: written whole or not at all, and validated when they are read back."""

import json
import math
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from compression_gate.errors import MetricsError
from compression_gate.records.base import (
    Record,
    digest_of,
    digest_of_file,
    finite,
    replacing,
    replacing_folder,
    write_text,
)


class Figure(Record):
    schema_number: Literal[1] = Field(1, alias="schema")
    name: str
    value: float | None
    parts: dict[str, int] = {}


DAMAGED = [
    ("", r"the whole file"),
    ('{"schema": 1, "name": "a", "val', r"the whole file"),
    ('{"schema": 2, "name": "a", "value": 1}', r"schema"),
    ('{"schema": 1, "name": "a", "value": NaN}', r"value.*finite"),
    ('{"schema": 1, "name": "a", "value": 1, "more": 2}', r"more.*not permitted"),
    ('{"schema": 1, "value": 1}', r"name.*required"),
    ("[]", r"the whole file"),
]


@given(name=st.text(), value=st.none() | st.floats(allow_nan=False, allow_infinity=False), count=st.integers())
def test_what_is_written_reads_back_equal(tmp_path_factory, name, value, count):
    path = tmp_path_factory.mktemp("record") / "figure.json"
    record = Figure(name=name, value=value, parts={"n": count})
    record.write(path)
    assert Figure.read(path) == record


@pytest.mark.parametrize(("text", "expected"), DAMAGED)
def test_damaged_file_is_refused_by_name_and_field(tmp_path, text, expected):
    path = tmp_path / "figure.json"
    path.write_text(text)
    with pytest.raises(MetricsError, match=rf"figure\.json: .*{expected}.*delete it and run again"):
        Figure.read(path)


def test_file_cut_anywhere_is_never_read_as_a_record(tmp_path):
    path = tmp_path / "figure.json"
    Figure(name="a", value=1.0).write(path)
    text = path.read_text().rstrip()
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(MetricsError):
            Figure.read(path)


def test_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(MetricsError, match=r"figure\.json: missing: run the stage that writes it"):
        Figure.read(tmp_path / "figure.json")


def test_folder_in_place_of_a_file_is_told(tmp_path):
    with pytest.raises(MetricsError, match="cannot be read"):
        Figure.read(tmp_path)


def test_number_that_is_not_finite_makes_no_record():
    with pytest.raises(ValueError, match="finite"):
        Figure(name="a", value=math.nan)


def test_record_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Figure(name="a", value=1.0).name = "b"


def test_block_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_folder_that_fails_leaves_the_old_one(tmp_path):
    folder = tmp_path / "model"
    with replacing_folder(folder) as temporary:
        (temporary / "a").write_text("old")

    def fail() -> None:
        with replacing_folder(folder) as temporary:
            (temporary / "b").write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folder_is_replaced_with_all_that_was_in_it(tmp_path):
    folder = tmp_path / "model"
    for name in ("a", "b"):
        with replacing_folder(folder) as temporary:
            (temporary / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["b"]


@given(values=st.dictionaries(st.text(), st.integers() | st.text(), min_size=2))
def test_digest_does_not_depend_on_the_order_of_keys(values):
    assert digest_of(values) == digest_of(dict(reversed(values.items())))


def test_digest_of_a_file_is_sha256(tmp_path):
    path = Path(tmp_path / "abc")
    path.write_bytes(b"abc")
    assert digest_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_numbers_that_json_lacks_become_null(tmp_path):
    assert [finite(value) for value in (1.5, math.nan, math.inf, -math.inf)] == [1.5, None, None, None]
    record = Figure(name="a", value=finite(math.nan))
    record.write(tmp_path / "figure.json")
    assert json.loads((tmp_path / "figure.json").read_text())["value"] is None
