"""Commits that never were, judged by the real judge and policy: how often a good one fails and a bad one is caught.

Every replay draws the answers of three models on a test set, by role: the reference, and from it the candidate and the
baseline by flipping labels. What is true of the models is known, so that each decision is right or wrong.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from compression_gate.gate.facts import Facts, Outcomes
from compression_gate.gate.judge import judge
from compression_gate.gate.policy import DEFAULT_POLICY, Decision, decide
from compression_gate.gate.proportions import clopper_pearson
from compression_gate.progress import tracked
from compression_gate.records.artifact import Artifact, FileEntry, Role
from compression_gate.records.metrics import DataRecord, DataSplit, PairedTiming
from compression_gate.records.params import Params
from compression_gate.records.selftest import Claim
from compression_gate.selftest.finished_run import (
    SIZES,
    artifact_of,
    benchmark_of,
    compression_of,
    evaluation_of,
    pair_of,
)

SEED = 20_250_601
BOUND_ALPHA = 0.01
CLASSES, ACCURACY = 10, 0.9
# Of a repository that takes its gate seriously: everything blocks, each class by itself too.
RULES: Mapping[str, Mapping[str, Any]] = {
    "accuracy": {"metric": "accuracy", "max_drop": 0.01},
    "drift": {"metric": "accuracy", "max_drop": 0.01, "against": "baseline"},
    "floor": {"metric": "accuracy", "min": 0.85},
    "f1": {"metric": "f1", "max_drop": 0.01},
    "classes": {"metric": "recall", "slice": "class", "max_drop": 0.03},
    "agreement": {"metric": "agreement", "min": 0.88},
    "flips": {"metric": "flips", "max": 0.12},
    "size": {"metric": "size_bytes", "max": 2000},
    "rate": {"metric": "compression_ratio", "min": 4},
    "latency": {"metric": "latency_ms", "max_increase": "5%", "against": "baseline"},
    "cost": {"metric": "latency_ms", "max_increase": "5%"},
    "speed": {"metric": "speedup", "min": 0.95},
}
NOISE = (0.005, 0.01, 0.02)  # standard deviations of the logarithm of a ratio of times
EQUAL_SIZES, EQUAL_DISCORDANCES = (1_000, 5_000), (0.0, 0.01, 0.03, 0.08)
DROP, DROP_DISCORDANCE, DROP_SIZE = 0.02, 0.03, 5_000
SETTING = "n = 5,000, 3 % discordance"
MIXED = "n = 1,000 and 5,000, 0 to 8 % discordance"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is true of one replay.

    Args:
        n: examples. drop: by how much the candidate is truly worse than the other two. discordance: share of examples
            on which it is right and they are not, or the other way round. noise: of the timing.
    """

    n: int
    drop: float
    discordance: float
    noise: float = 0.01


def equal_scene(number: int) -> Scene:
    """The candidate is as good as the others; in one replay of four it is the very same model."""
    return Scene(
        n=EQUAL_SIZES[number % 2],
        drop=0.0,
        discordance=EQUAL_DISCORDANCES[number // 2 % 4],
        noise=NOISE[number % len(NOISE)],
    )


def worse_scene(number: int) -> Scene:
    """The candidate has lost twice the margin."""
    return Scene(n=DROP_SIZE, drop=DROP, discordance=DROP_DISCORDANCE, noise=NOISE[number % len(NOISE)])


def facts_of(scene: Scene, params: Params, random: np.random.Generator) -> Facts:
    """Draw the answers and timings of one commit."""
    target = random.permutation(np.arange(scene.n) % CLASSES)
    reference = np.where(random.random(scene.n) < ACCURACY, target, another_label(target, random))
    predicted: dict[Role, np.ndarray] = {
        "reference": reference,
        "baseline": flipped(reference, target, 0.0, scene.discordance, random),
        "candidate": flipped(reference, target, scene.drop, scene.discordance, random),
    }
    models = models_held()
    pairs = {role: timing(scene.noise, random) for role in ("reference", "baseline")}
    split = DataSplit(n=scene.n, digest="d", input_shapes={"input": (4,)}, value_range=(0, 1))
    return Facts(
        params=params,
        alpha=params.gate.alpha,
        data=DataRecord(digest="d", splits={"test": split}, leaks={}),
        compression=compression_of(models),
        evaluation=evaluation_of(target, predicted, models, {}, "held in memory"),
        outcomes=Outcomes(
            ids=np.arange(scene.n), target=target, predicted={str(role): answers for role, answers in predicted.items()}
        ),
        benchmark=benchmark_of(models, pairs, "m"),
        machine_digest="m",
        artifacts={str(role): model for role, model in models.items()},
    )


def flipped(
    labels: np.ndarray, target: np.ndarray, drop: float, discordance: float, random: np.random.Generator
) -> np.ndarray:
    """Answers (N,) of a model that truly loses ``drop``: right ones turned wrong and wrong ones right, by chance."""
    right = labels == target
    lost = random.random(len(labels)) < (discordance + drop) / 2 / ACCURACY
    won = random.random(len(labels)) < (discordance - drop) / 2 / (1 - ACCURACY)
    answers = np.where(right & lost, another_label(target, random), labels)
    return np.where(~right & won, target, answers)


def another_label(target: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """For each example a class that it is not of, (N,)."""
    return (target + random.integers(1, CLASSES, len(target))) % CLASSES


def timing(noise: float, random: np.random.Generator) -> PairedTiming:
    """A paired timing of two models that take equally long; the places in memory shift it by ``noise`` [log]."""
    return pair_of(math.exp(random.normal(0.0, noise)), random=random)


@cache
def models_held() -> dict[Role, Artifact]:
    """The records of models of which nothing but their bytes is looked at."""
    models = {
        role: artifact_of(
            role,
            size,
            {name: FileEntry(bytes=size, sha256=f"{role} {name}") for name in ("model.safetensors", "model.onnx")},
        )
        for role, size in SIZES.items()
    }
    made = {"parent_digest": models["reference"].digest, "recipe_digest": "r"}
    models["candidate"] = models["candidate"].model_copy(update=made)
    return models


def params_of(*rules: str) -> Params:
    """The params of a suite with some of the rules; all where none is named."""
    chosen = {name: RULES[name] for name in rules or RULES}
    task = {"model": "shop:Net", "data": "shop:load"}
    return Params.model_validate_json(json.dumps({"task": task, "gate": {"rules": chosen}}))


def decided(scene: Scene, params: Params, seed: list[int]) -> Decision:
    """One replay, through the judge and the policy of a pull request.

    Raises:
        RuntimeError: the replay could not be judged, and says nothing.
    """
    decision = decide(judge(facts_of(scene, params, np.random.default_rng(seed))), DEFAULT_POLICY)
    broken = [one for one in decision.checks if one.status == "error" and one.reason != "underpowered"]
    if broken:
        raise RuntimeError(f"{broken[0].rule}: expected a check that can be judged, got {broken[0].message}")
    return decision


def failed(decision: Decision) -> bool:
    """Whether any check of a commit says that a limit is proven broken."""
    return any(one.status == "fail" for one in decision.checks)


def unproven(decision: Decision) -> bool:
    """Whether a commit was stopped without a proof of anything: its examples were too few for a rule."""
    return not failed(decision) and decision.status != "pass"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A claim on how often commits of one kind fail.

    Args:
        scene: number of the replay -> what is true of it. setting: the same in words.
        rules: of which the params are made; none: all.
        few, many: replays by default, and for ``full``.
        direction, limit: as in :class:`Claim`.
    """

    text: str
    scene: Callable[[int], Scene]
    rules: tuple[str, ...] = ()
    setting: str = SETTING
    few: int
    many: int
    limit: float | None
    direction: str = "at most"


EQUAL = "equally good models: commits of which any check fails"
CAUGHT = "2 points lost at a limit of 1: commits that fail"
TRIALS = (
    # 500 without a failure bound the rate under 1 % with 99 % confidence: fewer than 459 cannot.
    Trial(text=EQUAL, setting=MIXED, scene=equal_scene, few=160, many=1_000, limit=0.01),
    Trial(text=CAUGHT, scene=worse_scene, few=100, many=1_000, limit=0.9, direction="at least"),
    Trial(
        text=f"{CAUGHT}, accuracy alone",
        scene=worse_scene,
        rules=("accuracy",),
        few=1_000,
        many=10_000,
        limit=0.9,
        direction="at least",
    ),
    Trial(
        text=f"{CAUGHT}, macro F1 alone",
        scene=worse_scene,
        rules=("f1",),
        few=60,
        many=500,
        limit=None,
        direction="at least",
    ),
)


def claims(*, full: bool = False, trials: tuple[Trial, ...] = TRIALS) -> Iterator[Claim]:
    """Replay every trial."""
    for place, trial in enumerate(trials):
        yield replayed(trial, place, trial.many if full else trial.few)


def replayed(trial: Trial, place: int, count: int) -> Claim:
    """Judge ``count`` commits, the same ones in every run, and hold the rate of those that failed against the claim."""
    start = time.perf_counter()
    params = params_of(*trial.rules)
    found = [
        decided(trial.scene(number), params, [SEED, place, number])
        for number in tracked(range(count), count, trial.text)
    ]
    events, weak = sum(map(failed, found)), sum(map(unproven, found))
    low, high = clopper_pearson(events, count, BOUND_ALPHA)
    notes = [trial.setting, f"{len(params.gate.rules)} rules", proof(trial, low, high)]
    notes += [f"{weak} more stopped as underpowered"] if weak else []
    return Claim.model_validate(
        {
            "text": trial.text,
            "direction": trial.direction,
            "limit": trial.limit,
            "observed": events / count,
            "low": low,
            "high": high,
            "n": count,
            "events": events,
            "note": "; ".join(notes),
            "seconds": time.perf_counter() - start,
        }
    )


def proof(trial: Trial, low: float, high: float) -> str:
    """Whether so many replays prove the claim, or only do not refute it."""
    if trial.limit is None:
        return "for information"
    proven = high <= trial.limit if trial.direction == "at most" else low >= trial.limit
    return "proven at 99 %" if proven else "not refuted at 99 %"
