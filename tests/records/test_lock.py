"""One holder at a time: another is told who it is, or waits."""

import threading

import pytest

from compression_gate.errors import ParamsError
from compression_gate.records.lock import locked


def test_who_comes_second_is_told_who_holds_the_lock(tmp_path):
    with (
        locked(tmp_path / "lock", held="the record: being written", do="wait"),
        pytest.raises(ParamsError, match=r"the record: being written since .*: process \d+ on .*: wait"),
        locked(tmp_path / "lock", held="the record: being written", do="wait"),
    ):
        pass


def test_who_has_patience_is_next(tmp_path):
    released = threading.Event()
    first = locked(tmp_path / "lock", held="it", do="wait")
    first.__enter__()

    def release():
        released.set()
        first.__exit__(None, None, None)

    threading.Timer(0.3, release).start()
    with locked(tmp_path / "lock", held="it", do="wait", patience_s=60.0):
        assert released.is_set()
