"""The examples, each copied to a folder of its own and cut down to what seconds can train."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("the examples are in the repository only", allow_module_level=True)


@dataclass(frozen=True)
class Example:
    """A copy of an example."""

    path: Path

    def edit(self, **changes: Any) -> None:
        """Change values of ``params.yaml``; keys are paths with ``__`` for dots."""
        path = self.path / "params.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            *parents, last = key.split("__")
            place = values
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def steps(self, **changes: dict[str, Any]) -> None:
        """Change options of the steps, by method."""
        path = self.path / "params.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for step in values["compress"]["steps"]:
            step.update(changes.pop(step["method"], {}))
        assert not changes, f"no such steps: {changes}"
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def run(self) -> Any:
        """Run the stages from prepare to evaluate here, and return what evaluate found."""
        from compression_gate.stages import compress, evaluate, prepare, train

        for stage in (prepare, train, compress):
            stage.run(self.path)
        return evaluate.run(self.path)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Example]]:
    """Return a callable(name) that copies an example and makes its modules importable until the test ends."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(os.environ, "COMPRESSION_GATE_SUITE", "")
    copies: list[Path] = []

    def copied(name: str) -> Example:
        folder = tmp_path / name
        copies.append(folder)
        folder.mkdir()
        for path in (*(EXAMPLES / name).glob("*.py"), EXAMPLES / name / "params.yaml"):
            shutil.copy(path, folder)
        sys.path.insert(0, str(folder))
        return Example(folder)

    yield copied
    for folder in copies:
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)


@pytest.fixture
def clothing() -> None:
    """Skip where Fashion-MNIST is not."""
    from compression_gate.errors import DataError
    from compression_gate.tasks.fashion_mnist_files import locate

    try:
        locate()
    except DataError as error:
        pytest.skip(str(error))
