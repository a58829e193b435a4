"""A file leaves the page cache for certain, or it is said that it does not."""

from __future__ import annotations

import mmap
import os
import sys

import pytest

from compression_gate.errors import MeasurementError
from compression_gate.measurers import page_cache

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="posix_fadvise and mincore as Linux has them")
PAGES = 50


@pytest.fixture
def file(tmp_path):
    """A file of 50 pages on a file system that drops them."""
    path = tmp_path / "model.onnx"
    path.write_bytes(os.urandom(PAGES * mmap.PAGESIZE))
    try:
        page_cache.drop(path)
    except MeasurementError as error:
        pytest.skip(f"{tmp_path}: {error}")
    return path


def test_a_dropped_file_has_no_page_in_the_cache_and_a_warmed_one_all(file):
    assert page_cache.cached_pages(file) == 0
    page_cache.warm(file)
    assert page_cache.cached_pages(file) == PAGES


def test_weights_beside_the_file_are_dropped_with_it(file):
    weights = file.with_name("model.onnx.data")
    weights.write_bytes(os.urandom(3 * mmap.PAGESIZE + 1))
    assert page_cache.cached_pages(weights) == 4
    page_cache.drop(file)
    assert page_cache.cached_pages(weights) == 0
    page_cache.warm(file)
    assert page_cache.cached_pages(weights) == 4


def test_pages_that_another_process_maps_are_not_called_cold(file):
    page_cache.warm(file)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[0] + mapped[-1] >= 0
        with pytest.raises(MeasurementError, match=r"model\.onnx: expected no page of it in the cache, got \d+"):
            page_cache.drop(file)


def test_a_system_without_the_call_is_named(file, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise")
    with pytest.raises(MeasurementError, match="posix_fadvise"):
        page_cache.drop(file)


def test_an_empty_file_has_no_pages(tmp_path):
    (tmp_path / "empty").touch()
    assert page_cache.cached_pages(tmp_path / "empty") == 0
