"""Scratch git repositories with recorded runs in them: real git, a real DVC cache, artifacts of a few bytes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression_gate.history import store
from compression_gate.pipeline.references import resolve
from compression_gate.pipeline.retrieval import md5_of_file, md5_of_folder
from compression_gate.records.artifact import Artifact, entries
from compression_gate.records.history import History, RunRecord
from compression_gate.records.params import read_params

PARAMS = """\
task: {model: "shop:Net", data: "shop:load"}
gate:
  rules:
    size: {metric: size_bytes, max: 2000}
"""
SECONDS = itertools.count()
WHO = {f"GIT_{role}_{key}": "x@y" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}


def git(folder: Path, *arguments: str) -> str:
    """One git command, as a person of this machine types it."""
    environment = os.environ | WHO | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_artifact(folder: Path, name: str) -> Artifact:
    """A candidate whose bytes follow from ``name``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_text(f"onnx of {name}")
    (folder / "model.safetensors").write_text(f"weights of {name}")
    files = entries(folder)
    made = Artifact(
        role="candidate",
        format="onnx",
        runtime="onnxruntime",
        files=files,
        shipped=("model.onnx",),
        digest="",
        parameters=10,
        nonzeros=10,
        macs=10,
    ).sealed()
    made.write(folder / "artifact.json")
    return made


def put_in_cache(folder: Path, cache: Path) -> str:
    """Put a folder into a DVC cache as DVC does, and return its hash."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    listing = [{"md5": md5_of_file(folder / name), "relpath": name.as_posix()} for name in names]
    for entry in listing:
        target = cache / "files/md5" / entry["md5"][:2] / entry["md5"][2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / entry["relpath"], target)
    md5 = md5_of_folder(folder)
    target = cache / "files/md5" / md5[:2] / md5[2:]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(listing, sort_keys=True))
    return md5


@dataclass(frozen=True)
class Shop:
    """A repository with one suite, which may lie in a folder below its root."""

    root: Path
    folder: str = "."

    @property
    def suite(self) -> Path:
        """The suite's folder."""
        return self.root / self.folder

    @property
    def cache(self) -> Path:
        """DVC's cache."""
        return self.root / ".dvc/cache"

    def git(self, *arguments: str) -> str:
        """One git command."""
        return git(self.root, *arguments)

    def commit(self, text: str = "change") -> str:
        """Commit a change of one file, and return the commit."""
        path = self.root / "notes.txt"
        path.write_text((path.read_text() if path.exists() else "") + text + "\n")
        self.git("add", "notes.txt")
        self.git("commit", "-q", "-m", text)
        return self.git("rev-parse", "HEAD")

    def record(self, commit: str | None = None, *, name: str = "small", **values: Any) -> RunRecord:
        """Record a run of a commit, whose candidate is put into DVC's cache."""
        commit = commit or self.git("rev-parse", "HEAD")
        folder = self.root / ".dvc/tmp/made"
        shutil.rmtree(folder, ignore_errors=True)
        artifact = write_artifact(folder, name)
        status = values.setdefault("status", "pass")
        facts: dict[str, Any] = {
            "suite": self.folder,
            "commit": commit,
            "recorded_at": f"2030-01-01T00:00:{next(SECONDS):07.3f}+00:00",
            "exit_code": 0 if status == "pass" else 1,
            "policy": "pull_request",
            "package_version": "0",
            "candidate_digest": artifact.digest,
            "candidate_md5": put_in_cache(folder, self.cache),
            "test_digest": "t",
            "gate": {"rules": {"size": {"max": len(name)}}},
        }
        record = RunRecord.model_validate(facts | values)
        store.append(record, self.root)
        return record

    def resolve(self, **options: Any) -> History:
        """Resolve the references, and return what history was written."""
        resolve(self.suite, read_params(self.suite), **options)
        return History.read(self.suite / ".compression_gate/history.json")

    def absent(self, role: str = "baseline") -> str:
        """Why there is no reference of a role."""
        return (self.suite / f".compression_gate/references/{role}/absent").read_text().strip()

    def reference(self, role: str = "baseline") -> tuple[Artifact, RunRecord]:
        """The reference of a role and its record."""
        folder = self.suite / f".compression_gate/references/{role}"
        assert not (folder / "absent").exists(), (folder / "absent").read_text()
        return Artifact.open(folder), RunRecord.read(folder / "run.json")

    def clone(self, name: str, *flags: str) -> Shop:
        """A clone with the same DVC cache."""
        path = self.root.parent / name
        git(self.root.parent, "clone", "-q", *flags, self.root.as_uri(), str(path))
        (path / ".dvc").mkdir(exist_ok=True)
        (path / ".dvc/config").write_text(f"[cache]\n    dir = {self.cache}\n")
        return Shop(path, self.folder)


def new_shop(path: Path, folder: str = ".") -> Shop:
    """A repository with one commit on main."""
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    shop = Shop(path, folder)
    (path / ".dvc").mkdir()
    (path / ".dvc/config").write_text("")
    shop.suite.mkdir(exist_ok=True)
    (shop.suite / "params.yaml").write_text(PARAMS)
    (path / ".gitignore").write_text(".compression_gate/\nmodels/\nreports/\n.dvc/\n")
    shop.git("add", ".")
    shop.commit("first")
    return shop
