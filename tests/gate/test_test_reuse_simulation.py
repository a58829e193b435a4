"""An adversary who climbs on the gate's answers, live: the benchmark's own histories, fewer of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from compression_gate.gate.proportions import clopper_pearson

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "test_reuse.py"
HISTORIES, SEED = 600, 3
DOUBT = 0.001  # how often a test may fail though the gate keeps its word


@pytest.fixture(scope="module")
def benchmark_script() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("benchmarks/ is in the repository only")
    spec = importlib.util.spec_from_file_location("benchmark_of_test_reuse", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def wrong_passes(script: ModuleType, **setting: object) -> tuple[float, float]:
    """Exact bounds of how many histories hold a wrong pass."""
    found = script.replay(script.Setting(**setting), HISTORIES, SEED)
    return clopper_pearson(int(np.sum(found["wrong"])), HISTORIES, DOUBT)


KEPT = [  # what the mode promises, its premise kept: at most 1 − confidence of all histories hold a wrong pass
    {"n": 2_000, "family": "limit", "adversary": "none", "mode": "non_adaptive"},
    {"n": 10_000, "family": "limit", "adversary": "none", "mode": "non_adaptive", "uses": 50},
    {"n": 10_000, "family": "falling", "adversary": "answers", "mode": "adaptive", "uses": 5},
    {"n": 10_000, "family": "limit", "adversary": "answers", "mode": "adaptive", "uses": 5},
]
BROKEN = [  # no promise was made, and none would have been kept
    {"n": 2_000, "family": "limit", "adversary": "none"},
    {"n": 2_000, "family": "level", "adversary": "figures"},
    {"n": 2_000, "family": "level", "adversary": "figures", "mode": "non_adaptive"},
]


@pytest.mark.parametrize("setting", KEPT, ids=str)
def test_a_mode_keeps_its_promise_over_a_whole_history(benchmark_script: ModuleType, setting: dict) -> None:
    low, _ = wrong_passes(benchmark_script, **setting)
    assert low <= 1 - benchmark_script.CONFIDENCE


@pytest.mark.parametrize("setting", BROKEN, ids=str)
def test_without_protection_or_with_its_premise_broken_most_histories_hold_a_wrong_pass(
    benchmark_script: ModuleType, setting: dict
) -> None:
    low, _ = wrong_passes(benchmark_script, **setting)
    assert low > 0.9


def test_figures_that_steer_climb_over_the_truth(benchmark_script: ModuleType) -> None:
    setting = benchmark_script.Setting(n=2_000, family="same", adversary="figures")
    climb = benchmark_script.replay(setting, HISTORIES, SEED)["climb"]
    assert climb.mean() - 3.3 * climb.std() / np.sqrt(HISTORIES) > 0.02


def test_the_script_decides_as_the_interval_does(benchmark_script: ModuleType) -> None:
    for mode in (None, "non_adaptive", "adaptive"):
        benchmark_script.agree(benchmark_script.Setting(n=2_000, family="limit", adversary="none", mode=mode))
