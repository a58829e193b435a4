"""Real files, and runtimes that misbehave, found by fresh processes as a third party's are: by entry point."""

from __future__ import annotations

import shutil
import uuid

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from compression_gate.measurers.fresh import Conditions
from compression_gate.runtimes.onnx_runtime import OnnxRuntime

STRANGE = '''"""Runtimes that open ONNX files and then go wrong."""

import os
import subprocess
import sys
import time

import numpy as np

from compression_gate.runtimes.onnx_runtime import OnnxRuntime


class Strange:
    """The session's answer, changed or prevented from the second call on."""

    calls = 0

    def load(self, path, threads):
        session = OnnxRuntime().load(path, threads)

        def call(inputs):
            self.calls += 1
            output = session(inputs)
            return output if self.calls == 1 else self.spoil(output)

        return call


class Crashing(Strange):
    def spoil(self, output):
        os.kill(os.getpid(), 11)


class Killed(Strange):
    def spoil(self, output):
        os.kill(os.getpid(), 9)


class Raising(Strange):
    def spoil(self, output):
        raise RuntimeError("the model's own words")


class Hanging(Strange):
    def spoil(self, output):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        time.sleep(600)


class Shifting(Strange):
    def spoil(self, output):
        return output[:, :1]


class Flat(Strange):
    def load(self, path, threads):
        session = OnnxRuntime().load(path, threads)
        return lambda inputs: session(inputs).reshape(-1)


class Starved(Strange):
    """No more memory than the process has by now and a little: what a container's limit does, told politely."""

    def load(self, path, threads):
        import resource

        session = OnnxRuntime().load(path, threads)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
        return lambda inputs: session(inputs) + np.ones(1 << 27).sum()
'''
NAMES = ("Crashing", "Killed", "Raising", "Hanging", "Shifting", "Flat", "Starved")


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """Make the runtimes above findable for processes that this one starts."""
    place = tmp_path / "plugins"
    information = place / "strange-1.0.dist-info"
    information.mkdir(parents=True)
    (place / "strange_runtimes.py").write_text(STRANGE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    rows = "\n".join(f"{name.lower()} = strange_runtimes:{name}" for name in NAMES)
    (information / "entry_points.txt").write_text(f"[compression_gate.runtimes]\n{rows}\n")
    monkeypatch.setenv("PYTHONPATH", str(place))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A narrow and a wide network, exported once."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    for name, width in (("narrow", 8), ("wide", 512)):
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 2)).eval()
        OnnxRuntime().export(model, torch.randn(2, 64), folder / f"{name}.onnx", {})
    return folder


@pytest.fixture
def files(exported, tmp_path):
    """The two networks by name, to be spoilt at will."""
    return {path.stem: shutil.copy(path, tmp_path / path.name) for path in sorted(exported.glob("*.onnx"))}


@pytest.fixture
def conditions():
    """Return a callable(runtime) -> conditions for these files, four examples a call."""

    def make(runtime="onnxruntime", *, patience_s=60.0):
        inputs = {"input": np.zeros((4, 64), np.float32)}
        return Conditions(runtime=runtime, threads=1, inputs=inputs, patience_s=patience_s)

    return make


@pytest.fixture
def nothing_left(monkeypatch):
    """Fail if a process outlives the test that started it, or whose descendant did: all inherit a mark."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("STARTED_BY_TEST", mark)
    yield
    assert not [process for process in psutil.process_iter() if mark_of(process) == mark]


def mark_of(process):
    """The mark that a living process carries."""
    try:
        return process.environ().get("STARTED_BY_TEST") if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:  # it ended meanwhile, or is somebody else's
        return None
