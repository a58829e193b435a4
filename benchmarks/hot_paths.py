"""The package's own hot paths, timed by pytest-benchmark: what runs in every gate, every trial, or every proposal.

    make hot-paths
    .venv/bin/pytest-benchmark compare     # what it stored in .benchmarks, run by run

Figures of this machine, now: nothing here fails for being slow.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compression_gate.codec.coded_model import decode_model, encode_model
from compression_gate.gate.judge import judge
from compression_gate.methods.base import Context
from compression_gate.methods.chain import built
from compression_gate.records.params import Step, TrainParams, read_params
from compression_gate.search.space import space_of
from compression_gate.selftest import finished_run
from compression_gate.selftest.timing_traces import read_traces, status_of
from compression_gate.stages import gate

RULES = 40
SPACE = (
    {"method": "structured_pruning", "pruning_ratio": {"low": 0.1, "high": 0.8}, "optional": True},
    {"method": "low_rank", "energy": {"low": 0.5, "high": 0.99}, "optional": True},
    {
        "any_of": [
            {"method": "static_quantization", "calibration": ["minmax", "mse"]},
            {"method": "weight_only_quantization", "bits": [8, 4]},
        ],
        "optional": True,
    },
)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A suite with a baseline whose run ended well; of its rules many are on slices."""
    suite = finished_run.write_recorded(tmp_path / "suite")
    params = suite / "params.yaml"
    rules = (f"    r{n}: {{metric: recall, slice: class, max_drop: {0.1 + n / 100}}}\n" for n in range(RULES))
    params.write_text(params.read_text(encoding="utf-8") + "".join(rules), encoding="utf-8")
    return suite


@pytest.fixture(scope="module")
def models() -> tuple[nn.Module, nn.Module]:
    """A small network, and the same with its weights on 8 bits."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 26 * 26, 16)).eval()
    (step,) = built([Step(method="weight_only_quantization", bits=8)], "the step")
    return plain, step.apply(plain, Context(task=None, reference=plain, train=TrainParams()))


def test_decide(benchmark: Any) -> None:
    """One timing's blocks, those of its control too: the longest of those that come with the package."""
    longest = max(read_traces(), key=lambda one: sum(map(len, one.blocks)))
    assert benchmark(status_of, longest.blocks, longest.control_blocks, longest.case.limit) != "untrusted"


def test_judge(benchmark: Any, finished: Path) -> None:
    """A finished run's checks, 4 slices for each of 40 rules; what facts remember of an earlier call does not help."""
    params = read_params(finished)
    checks = benchmark.pedantic(judge, setup=lambda: ((gate.read_facts(finished, params),), {}), rounds=10)
    assert len(checks) > 4 * RULES


def test_check(benchmark: Any, finished: Path) -> None:
    """The command, from the start of Python to its exit code."""
    gate.run(finished)
    words = [sys.executable, "-m", "compression_gate", "check", "-C", str(finished)]
    done = benchmark.pedantic(subprocess.run, (words,), {"capture_output": True}, rounds=5, warmup_rounds=1)
    assert done.returncode == 0, done.stdout


def test_encode(benchmark: Any, models: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    """A model of 350,000 weights."""
    plain, quantized = models
    assert benchmark.pedantic(encode_model, (quantized, plain, tmp_path / "model.cgz"), rounds=5) < 400_000


def test_decode(benchmark: Any, models: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    plain, quantized = models
    encode_model(quantized, plain, tmp_path / "model.cgz")
    decoded = benchmark.pedantic(decode_model, (plain, tmp_path / "model.cgz"), rounds=5)
    assert all(torch.equal(one, decoded.state_dict()[name]) for name, one in quantized.state_dict().items())


def test_steps_of(benchmark: Any) -> None:
    """One genome read as a chain, in an order that makes sense."""
    space = space_of(SPACE, free_order=True, units=None)
    genomes = [space.sample(random.Random(seed)) for seed in range(20)]
    chains = benchmark(lambda: [space.steps_of(genome) for genome in genomes])
    assert any(chains)
