"""What is sent to a machine that sees no suite: what trials read, as it lies to each other, and nothing else."""

import pytest

from compression_gate.search.executors import package
from compression_gate.search.executors.base import Place
from compression_gate.tasks.sources import import_roots


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A suite below its repository's root, whose sources lie beside it."""
    monkeypatch.setattr(package.tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
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


def test_a_package_is_unpacked_once_and_removed_whole(place, tmp_path):
    archive = package.packed(place)
    there = package.unpacked(archive, "key", place)
    (there.folder / "kept").touch()
    assert (package.unpacked(b"not looked at", "key", place).folder / "kept").exists()
    package.removed("key")
    assert not list((tmp_path / "elsewhere").iterdir())
