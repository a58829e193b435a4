"""No silent green: every mutation of docs/gate.md's list, done to a real run, ends non-zero with its own reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compression_gate.selftest.mutations import ENTRIES, MUTATIONS
from compression_gate.stages import selftest

# The list of docs/gate.md: who adds an entry there adds rows to `selftest/mutations.py`.
LIST = (
    "a metric deleted",
    "a slice deleted",
    "a stage's output deleted",
    "the baseline deleted, once recorded",
    "the history deleted where a rule needs it",
    "NaN or infinity anywhere",
    "duplicate or unmatched example ids",
    "a shallow clone",
    "a stale lock",
    "a crash in any stage with an old verdict lying there",
    "a renamed rule",
    "truncated JSON",
    "an artifact, predictions or params changed after the verdict",
    "weights moved to a side file",
    "a changed user source",
    "a changed user source that is not in deps",
    "a record of another machine",
    "a clock that goes backwards",
)
MODEL = """
import torch

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(),
                         torch.nn.Linear(64, 3))
"""
DATA = """
import torch

SIZES = {"train": 3000, "test": 2000}

class Blobs(torch.utils.data.Dataset):
    def __init__(self, split):
        generator = torch.Generator().manual_seed(len(split))
        centres = torch.randn(3, 16, generator=torch.Generator().manual_seed(7)) * 0.8
        self.targets = torch.randint(0, 3, (SIZES[split],), generator=generator)
        self.inputs = centres[self.targets] + torch.randn(SIZES[split], 16, generator=generator)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.inputs[index], int(self.targets[index])

def load(split):
    return Blobs(split)
"""
PARAMS = """\
task: {model: "shop.net:Net", data: "shop.blobs:load"}
train: {epochs: 3, batch_size: 64}
compress: {steps: [{method: static_quantization}]}
evaluate: {metrics: [accuracy, f1, recall]}
benchmark: {budget_s: 3}
gate:
  rules:
    accuracy: {metric: accuracy, max_drop: 0.1}
    f1: {metric: f1, max_drop: 0.1}
    classes: {metric: recall, slice: class, max_drop: 0.2, level: warn}
    size: {metric: size_bytes, max: 100000}
    speed: {metric: speedup, min: 0.01}
    latency: {metric: latency_ms, max: 1000}
    drift: {metric: accuracy, max_drop: 0.1, against: baseline}
"""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Type a command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "compression_gate", *words],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )


def git(folder: Path, *words: str) -> None:
    """Run git as somebody."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def well(folder: Path, *words: str) -> None:
    """Type a command that must end with 0."""
    done = command(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr


def passing_run(folder: Path) -> None:
    """Run until it passes: on a busy machine a timing may be too unsteady to be trusted, and says so."""
    done = command(folder, "run")
    for _ in range(2):
        if done.returncode == 4 and "untrusted_timing" in (folder / "reports/verdict.json").read_text():
            done = command(folder, "run", "--from", "benchmark")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite whose first run was recorded on the target branch, and whose second, on a branch, passed."""
    folder = tmp_path_factory.mktemp("recorded") / "suite"
    (folder / "shop").mkdir(parents=True)
    for name, text in {"__init__": "", "net": MODEL, "blobs": DATA}.items():
        (folder / "shop" / f"{name}.py").write_text(text)
    (folder / "params.yaml").write_text(PARAMS)
    git(folder, "init", "-q", "-b", "main")
    well(folder, "init")
    passing_run(folder)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    well(folder, "record")
    git(folder, "checkout", "-qb", "change")
    git(folder, "commit", "-qm", "second", "--allow-empty")
    passing_run(folder)
    assert json.loads((folder / ".compression_gate/history.json").read_text())["baseline_commit"]
    return folder


@pytest.fixture
def copy(recorded: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy to damage; git and DVC's cache only where a mutation needs them."""
    needed = MUTATIONS[request.node.callspec.params["name"]].needs
    without = () if needed else (".git", "cache", "tmp")
    return Path(shutil.copytree(recorded, tmp_path / "suite", symlinks=True, ignore=shutil.ignore_patterns(*without)))


def call(word: str, suite: Path) -> tuple[int, str]:
    """Call any word: `gate` and `check` in this process, the others as a user does."""
    if word in ("gate", "check"):
        return selftest.called(word, suite)
    done = command(suite, word)
    why = selftest.called("check", suite)[1] if word == "run" else ""
    return done.returncode, f"{done.stdout}\n{done.stderr}\n{why}"


def test_every_entry_of_the_list_has_a_mutation() -> None:
    assert ENTRIES == LIST
    assert {one.entry for one in MUTATIONS.values()} == set(LIST)


def test_what_is_damaged_passes_to_begin_with(recorded: Path) -> None:
    assert selftest.called("check", recorded) == (0, "")


ROWS = [  # those that take the whole road once more are slow
    pytest.param(name, marks=[pytest.mark.slow] if "DVC" in one.needs else []) for name, one in MUTATIONS.items()
]


@pytest.mark.parametrize("name", ROWS)
def test_no_mutation_is_silent(name: str, copy: Path) -> None:
    found = selftest.damaged(name, MUTATIONS[name], copy, call)
    assert found.exit_code == found.expected_code != 0, found.said
    assert found.expected in found.said
    assert found.stale_code != 0, "`check` alone believed the old verdict"
    assert found.held
