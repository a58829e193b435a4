"""Seven commits and three references: which of them tells what.

    python benchmarks/three_references.py [--write]

A scratch repository is made in a temporary folder, with a remote, a classifier whose accuracy is set by one number in
its code, and 20,000 test examples. Every commit takes the road of a real one: `compression-gate run`, and `record
--push` where it is merged. Commits: a first release; a harmless one; three that cost 0.3 points each, which every
comparison with the commit before lets pass; and on a branch one that costs as much and loosens its limit as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "three_references.json"
NET = '''"""A classifier that is wrong on a share of its examples."""

import torch

WRONG = {wrong}


class Net(torch.nn.Module):
    """Takes (N, 2): the side an example is on, and a place that says whether it is one of the wrong ones."""

    def __init__(self):
        super().__init__()
        self.side = torch.nn.Linear(1, 2, bias=False)
        self.side.weight.data = torch.tensor([[-1.0], [1.0]])

    def forward(self, inputs):
        turned = torch.where(inputs[:, 1:] < WRONG, -1.0, 1.0)
        return self.side(inputs[:, :1] * turned)
'''
DATA = '''"""Examples on two sides, a place each."""

import torch

SIZES = {"train": 400, "test": 20_000}


class Sides(torch.utils.data.Dataset):
    def __init__(self, split):
        count = SIZES[split]
        self.targets = torch.arange(count) % 2
        # Evenly spread, so that the share of wrong answers is exactly what the code says; no place in two splits.
        place = (torch.arange(count) + 0.5) / count + (split != "test")
        self.inputs = torch.stack([self.targets * 2.0 - 1.0, place], dim=1)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.inputs[index], int(self.targets[index])


def load(split):
    return Sides(split)
'''
PARAMS = """task: {{model: "shop.net:Net", data: "shop.sides:load", weights: from_model}}
benchmark: {{budget_s: 1}}
gate:
  rules:
    compression: {{metric: accuracy, max_drop: 0.005}}
    change: {{metric: accuracy, max_drop: 0.005, against: baseline}}
    drift: {{metric: accuracy, max_drop: {drift}, against: release}}
"""
# What is committed, the share of wrong answers, the limit on drift, and whether it is merged and recorded.
COMMITS = (
    ("first release", 0.050, 0.0075, True),
    ("harmless: a comment", 0.050, 0.0075, True),
    ("costs 0.3 points", 0.053, 0.0075, True),
    ("costs 0.3 points again", 0.056, 0.0075, True),
    ("costs 0.3 points a third time", 0.059, 0.0075, False),
    ("the same, and loosens its own limit", 0.059, 0.02, False),
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the gate said of one commit."""

    commit: str
    exit_code: int
    checks: dict[str, str]
    text: str


def ask(folder: Path, *words: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run a program and insist on its exit code."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "COLUMNS": "150",
    }
    done = subprocess.run(words, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def gate(folder: Path, *words: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run one of the package's commands."""
    return ask(folder, sys.executable, "-m", "compression_gate", *words, codes=codes)


def scratch(folder: Path) -> Path:
    """A repository with a remote, before its first commit."""
    remote, suite = folder / "remote.git", folder / "shop"
    ask(folder, "git", "init", "-q", "--bare", "-b", "main", str(remote))
    ask(folder, "git", "clone", "-q", str(remote), str(suite))
    ask(suite, "git", "checkout", "-q", "-B", "main")
    (suite / "shop").mkdir()
    (suite / "shop/__init__.py").write_text("")
    (suite / "shop/sides.py").write_text(DATA)
    return suite


def commit(suite: Path, message: str, wrong: float, drift: float, number: int) -> None:
    """Write one commit's files and commit them."""
    (suite / "shop/net.py").write_text(NET.format(wrong=wrong) + f"\n# {number}\n")
    (suite / "params.yaml").write_text(PARAMS.format(drift=drift))
    if not (suite / "dvc.yaml").exists():
        gate(suite, "init")
        ask(suite, sys.executable, "-m", "dvc", "init", "-q")
    ask(suite, "git", "add", "-A", "--", ".", ":!dvc.lock")
    ask(suite, "git", "commit", "-q", "-m", message)


def answers(folder: Path) -> list[Answer]:
    """Take every commit its road."""
    suite = scratch(folder)
    found = []
    for number, (message, wrong, drift, merged) in enumerate(COMMITS):
        if not merged:
            ask(suite, "git", "checkout", "-q", "-B", f"change-{number}", "main")
        commit(suite, message, wrong, drift, number)
        done = gate(suite, "run", "--target", "main", codes=(0, 1, 4))
        verdict = json.loads((suite / "reports/verdict.json").read_text())
        checks = {check["rule"]: described(check) for check in verdict["checks"]}
        found.append(Answer(commit=message, exit_code=done.returncode, checks=checks, text=done.stdout))
        if merged:
            ask(suite, "git", "push", "-q", "origin", "main")
            gate(suite, "record", "--push", *(["--release", "v1.0"] if number == 0 else []))
    return found


def described(check: dict) -> str:
    """A check in a few words."""
    if check["change"] is None:
        return f"{check['status']}{', ' + check['reason'] if check['reason'] else ''}"
    low, high = (100 * end for end in check["interval"])
    return f"{check['status']}, {100 * check['change']:+.2f} points ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"store what was said in {RESULTS.name}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = answers(Path(temporary))
    for answer in found:
        print(f"{answer.commit}: exit code {answer.exit_code}")
        for rule, told in answer.checks.items():
            print(f"    {rule}: {told}")
        print(f"    {answer.text.splitlines()[0]}")
    if given.write:
        rows = [asdict(answer) for answer in found]
        RESULTS.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
