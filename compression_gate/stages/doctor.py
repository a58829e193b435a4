"""`doctor`: what is missing on this machine or in this suite, and the line that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compression_gate.errors import CompressionGateError
from compression_gate.pipeline.definition import FILE_NAME, check_definition
from compression_gate.pipeline.dvc import dvc_root, git_root, has_remote
from compression_gate.records.params import Params, read_params
from compression_gate.runtimes import RUNTIMES

OLDEST_PYTHON = (3, 11)
LIBRARIES = {
    "torch": "pip install torch",
    "dvc": "pip install dvc",
    "onnx": "pip install onnx",
    "onnxscript": "pip install onnxscript",
    "onnxruntime": "pip install onnxruntime",
    "torch-pruning": "pip install torch-pruning",
    "pytest-benchmark": "pip install pytest-benchmark",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at. ``needed`` ones that are not fine fail the command."""

    name: str
    fine: bool
    found: str
    mend: str = ""
    needed: bool = True


def findings(suite: Path) -> Iterator[Finding]:
    """Look at the interpreter, the libraries, git, DVC and the suite, in the order a newcomer would meet them."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        name="python", fine=sys.version_info >= OLDEST_PYTHON, found=version, mend="install Python 3.11 or newer"
    )
    for name, mend in LIBRARIES.items():
        found = installed_version(name)
        yield Finding(name=name, fine=found is not None, found=found or "not installed", mend=mend)
    git = shutil.which("git")
    yield Finding(name="git", fine=git is not None, found=git or "not found", mend="install git", needed=False)
    yield from repository_findings(suite)
    yield from suite_findings(suite)


def installed_version(name: str) -> str | None:
    """The version of an installed library."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def repository_findings(suite: Path) -> Iterator[Finding]:
    """Look at git and DVC around the suite."""
    git, root = git_root(suite), dvc_root(suite)
    yield Finding(
        name="git checkout",
        fine=git is not None,
        found=str(git or "none"),
        mend="git init: without it no baseline",
        needed=False,
    )
    yield Finding(
        name="DVC repository", fine=root is not None, found=str(root or "none"), mend="`run` sets it up", needed=False
    )
    yield Finding(
        name="DVC remote",
        fine=has_remote(suite),
        found="set" if has_remote(suite) else "none",
        mend="dvc remote add -d NAME URL: without it models are rebuilt on every fresh machine",
        needed=False,
    )


def asked(params: Params) -> str:
    """What is done to the model, in a word."""
    if params.compress.target is not None:
        return "a target"
    return f"the recipe {params.compress.recipe}" if params.compress.recipe else f"{len(params.compress.steps)} steps"


def suite_findings(suite: Path) -> Iterator[Finding]:
    """Look at the suite's own files."""
    try:
        params = read_params(suite)
    except CompressionGateError as error:
        yield Finding(
            name="params.yaml", fine=False, found=str(error), mend="mend the lines above, or `compression-gate init`"
        )
        return
    yield Finding(name="params.yaml", fine=True, found=f"{asked(params)}, {len(params.gate.rules)} rules")
    yield from runtime_findings(params.compress.runtime)
    try:
        check_definition(params, suite)
    except CompressionGateError as error:
        yield Finding(name=FILE_NAME, fine=False, found=str(error), mend="compression-gate init --refresh")
        return
    yield Finding(name=FILE_NAME, fine=True, found="declares every source")


def runtime_findings(chosen: str) -> Iterator[Finding]:
    """Look at the libraries of runtimes that come as extras; only the suite's own is needed."""
    for name, row in RUNTIMES.items():
        if row.needs is None:
            continue
        found = installed_version(row.needs)
        yield Finding(
            name=f"runtime {name}",
            fine=found is not None,
            found=found or "not installed",
            mend=f"pip install 'compression-gate[{row.needs}]'",
            needed=name == chosen,
        )
