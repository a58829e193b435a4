"""Tiny suites of a foreign user, written to disk: own model, own data, a few lines of params."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

settings.register_profile("house", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("house")
NUMBERS = itertools.count()
MODULE = '''"""Three gratings of different direction under noise: 8×8 images that a small network learns in seconds."""

import torch
from torch import nn

SIDE, CLASSES = 8, 3
EXAMPLES = {"train": 240, "test": 90}


class Net(nn.Module):
    """A convolution, a normalisation and two linear layers."""

    def __init__(self, width: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.hidden = nn.Linear(width * 9, 24)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(24, CLASSES)

    def forward(self, images):
        maps = torch.relu(self.norm(self.conv(images)))
        maps = nn.functional.max_pool2d(maps, 2)
        return self.out(self.drop(torch.relu(self.hidden(maps.flatten(1)))))


class Gratings(torch.utils.data.Dataset):
    """Stripes across, down and aslant, in random phase."""

    classes = ("across", "down", "aslant")

    def __init__(self, count: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(count) % CLASSES
        rows = torch.arange(SIDE).view(1, SIDE, 1).expand(count, SIDE, SIDE)
        columns = rows.transpose(1, 2)
        phase = torch.rand(count, 1, 1, generator=random) * 6.28
        which = self.targets.view(-1, 1, 1)
        along = torch.where(which == 0, rows, torch.where(which == 1, columns, rows + columns))
        noise = torch.randn(count, SIDE, SIDE, generator=random) * 0.3
        self.images = ((along * 1.6 + phase).sin() + noise).unsqueeze(1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return self.images[index], int(self.targets[index])


def load(split: str, scale: int = 1):
    """Return train or test; the others are cut."""
    return Gratings(EXAMPLES[split] * scale, seed=len(split))
'''
PARAMS = """\
task:
  model: {module}:Net
  data: {module}:load
train: {{epochs: 2, batch_size: 32, learning_rate: 0.01, precision: float32, seed: 1}}
compress:
  steps:
    - {{method: structured_pruning, pruning_ratio: 0.25}}
    - {{method: static_quantization, bits: 8}}
benchmark: {{budget_s: 1}}
gate:
  max_accuracy_drop: 0.2
  max_size_bytes: 100000
"""


@dataclass(frozen=True)
class Suite:
    """A suite on disk and the name of its user's module, which no other suite of this process shares."""

    path: Path
    module: str

    @property
    def source(self) -> Path:
        """The user's module."""
        return self.path / f"{self.module}.py"

    def read(self) -> dict[str, Any]:
        """The params as plain values."""
        return yaml.safe_load((self.path / "params.yaml").read_text(encoding="utf-8"))

    def edit(self, key: str, value: Any) -> None:
        """Set ``key``, a path with dots; what is missing on the way is made."""
        values = self.read()
        *parents, last = key.split(".")
        place = values
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[int(last) if isinstance(place, list) else last] = value
        (self.path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def write(self, text: str) -> None:
        """Write the whole of `params.yaml`."""
        (self.path / "params.yaml").write_text(text, encoding="utf-8")

    def replace(self, old: str, new: str) -> None:
        """Change the user's module."""
        text = self.source.read_text(encoding="utf-8")
        assert old in text, f"{self.source}: no {old!r} to replace"
        self.source.write_text(text.replace(old, new), encoding="utf-8")
        sys.modules.pop(self.module, None)

    def append(self, text: str) -> None:
        """Add to the user's module."""
        self.source.write_text(self.source.read_text(encoding="utf-8") + text, encoding="utf-8")
        sys.modules.pop(self.module, None)


@pytest.fixture
def suite_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Suite]]:
    """Return a callable(folder) that writes one more suite; what importing its module changes is undone after."""
    made: list[str] = []
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file changed twice in a second must be read twice
    monkeypatch.setitem(os.environ, "COMPRESSION_GATE_SUITE", "")

    def write(folder: str = "suite", *, source: str = MODULE, definition: bool = True) -> Suite:
        from compression_gate.pipeline.definition import as_dvc_yaml
        from compression_gate.records.params import read_params

        suite = Suite(path=tmp_path / folder, module=f"gratings_{next(NUMBERS)}")
        made.append(suite.module)
        suite.path.mkdir(parents=True, exist_ok=True)
        suite.source.write_text(source, encoding="utf-8")
        suite.write(PARAMS.format(module=suite.module))
        if definition:
            (suite.path / "dvc.yaml").write_text(as_dvc_yaml(read_params(suite.path), suite.path), encoding="utf-8")
        return suite

    yield write
    for module in made:
        sys.modules.pop(module, None)


@pytest.fixture
def suite(suite_factory: Callable[..., Suite]) -> Suite:
    """One suite in a folder of its own."""
    return suite_factory()
