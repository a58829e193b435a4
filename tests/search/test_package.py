"""What is sent to a machine that sees no suite: what trials read, as it lies to each other, and nothing else."""

import os
import subprocess
import sys

import pytest

from compression_gate.search.executors import package
from compression_gate.search.executors.base import Place
from compression_gate.search.executors.guard import held, remove_unheld
from compression_gate.search.executors.room import make_room
from compression_gate.tasks.sources import import_roots


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A suite below its repository's root, whose sources lie beside it."""
    monkeypatch.setattr(package.tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "repository"
    for name in ("src/net.py", "compression/params.yaml", "compression/.search/reference/model", "secret.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, encoding="utf-8")
    (root / ".git").mkdir()
    suite = root / "compression"
    files = (root / "src/net.py", suite / "params.yaml", suite / ".search/reference", suite / "not there")
    return Place(suite=suite, folder=suite / ".search", files=files, timeout_s=7.0)


def test_a_package_holds_what_trials_read_and_where_modules_are_found(place):
    there = package.unpacked(package.packed(place), "key", place)
    assert there.timeout_s == 7.0
    assert (there.suite / "params.yaml").read_text(encoding="utf-8") == "compression/params.yaml"
    assert (there.folder / "reference" / "model").exists()
    root = there.suite.parent
    assert import_roots(there.suite) == [there.suite, root, root / "src"]
    assert (root / "src" / "net.py").exists()
    assert not (root / "secret.txt").exists()


def test_a_package_is_unpacked_once(place, tmp_path):
    there = package.unpacked(package.packed(place), "key", place)
    (there.folder / "kept").touch()
    assert (package.unpacked(b"not looked at", "key", place).folder / "kept").exists()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [package.folder_of("key").name]


HOLDER = """
import sys
from pathlib import Path
from compression_gate.search.executors.guard import held
assert held(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_package_goes_with_the_last_who_holds_it(tmp_path):
    folder = tmp_path / "package"
    (folder / "inside").mkdir(parents=True)
    words = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        remove_unheld(folder)
        assert (folder / "inside").exists()
        holder.kill()
    remove_unheld(folder)
    assert not folder.exists()
    remove_unheld(folder)
    assert not held(folder)


def test_the_steps_that_were_finished_longest_ago_make_room(tmp_path):
    for age, name in enumerate(["new", "middle", "old", ".being written"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_bytes(bytes(100_000))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    make_room(tmp_path, 250_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".being written", "middle", "new"]
    make_room(tmp_path / "nothing", 0)
