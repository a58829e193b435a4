"""How long judging takes: 100,000 examples, 20 rules, 50 slices, and ten times fewer and three times more of them.

    python benchmarks/gate_scale.py [--examples 100000] [--write]

One process, one thread. Times are the best of three, memory the peak of a fresh process over one that only imports.
Invented outcomes: 10 classes, 92 % right, 4 % of the answers changed; a score is a skewed number an example.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from compression_gate.gate.facts import Facts, Outcomes
from compression_gate.gate.judge import judge
from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import Benchmark, Evaluation, Measurement, ModelCost, ModelQuality, Value
from compression_gate.records.params import Params

RESULTS = Path(__file__).parent / "results" / "gate_scale.json"
RULES, SLICES, CLASSES, REPEATS = 20, 50, 10, 3
ROLES = ("reference", "candidate")
KINDS = {
    "exact and paired proportions, 20 rules × 50 slices": ("accuracy", True),
    "macro F1, one slice of 50": ("f1", True),
    "custom score, all examples": ("score", False),
}


def outcomes_of(examples: int) -> Outcomes:
    """Answers and scores of both models, and a column of 50 values."""
    random = np.random.default_rng(0)
    target = random.integers(0, CLASSES, examples)
    wrong = (target + 1 + random.integers(0, CLASSES - 1, examples)) % CLASSES
    reference = np.where(random.random(examples) < 0.92, target, wrong)
    changed = random.random(examples) < 0.04
    candidate = np.where(changed, np.where(random.random(examples) < 0.5, target, wrong), reference)
    score = random.lognormal(size=examples)
    return Outcomes(
        ids=np.arange(examples).astype(str),
        target=target,
        predicted={"reference": reference, "candidate": candidate},
        scores={role: {"score": score * factor} for role, factor in (("reference", 1.0), ("candidate", 0.99))},
        columns={"place": random.integers(0, SLICES, examples).astype(str)},
    )


def rules_of(kind: str) -> dict[str, dict]:
    """Nineteen proportions over every slice and one exact figure, or one rule of a composite metric."""
    metric, sliced = KINDS[kind]
    if metric != "accuracy":
        return {"one": {"metric": metric, "max_drop": 0.05, **({"slice": "place=7"} if sliced else {})}}
    limits = np.linspace(0.01, 0.2, RULES - 1)
    rules = {
        f"rule{number}": {"metric": "accuracy", "max_drop": float(limit), "slice": "place"}
        for number, limit in enumerate(limits)
    }
    return {**rules, "size": {"metric": "size_bytes", "max": 10_000}}


def figure_of(metric: str, outcomes: Outcomes, role: str, inside: np.ndarray) -> Value:
    """A model's figure, as evaluate would have written it."""
    if metric == "score":
        return Value(value=float(outcomes.scores[role]["score"][inside].mean()), n=int(inside.sum()))
    target, predicted = outcomes.target[inside], outcomes.predicted[role][inside]
    if metric == "accuracy":
        return Value(value=float((target == predicted).mean()), n=int(inside.sum()))
    parts = [
        2 * ((target == label) & (predicted == label)).sum() / ((target == label).sum() + (predicted == label).sum())
        for label in range(CLASSES)
    ]
    return Value(value=float(np.mean(parts)), n=int(inside.sum()))


def facts_of(kind: str, examples: int) -> Facts:
    """Everything a verdict needs, in memory."""
    metric, _ = KINDS[kind]
    outcomes = outcomes_of(examples)
    if metric == "score":
        outcomes = Outcomes(ids=outcomes.ids, target=outcomes.target, scores=outcomes.scores)
    params = Params.model_validate_json(
        json.dumps(
            {
                "task": {
                    "model": "a:b",
                    "data": "a:b",
                    **({"kind": "custom", "scorer": "a:c"} if metric == "score" else {}),
                },
                "gate": {"rules": {name: with_limits(rule) for name, rule in rules_of(kind).items()}},
            }
        )
    )
    everywhere = np.ones(examples, dtype=bool)
    column = outcomes.columns.get("place")
    places = np.unique(column) if column is not None else []
    models = {
        role: ModelQuality(
            digest=role,
            metrics={metric: figure_of(metric, outcomes, role, everywhere)},
            slices={metric: {f"place={place}": figure_of(metric, outcomes, role, column == place) for place in places}},
        )
        for role in ROLES
    }
    kind_of_task = "custom" if metric == "score" else "classification"
    evaluation = Evaluation(
        kind=kind_of_task,
        n=examples,
        data_digest="d",
        predictions_digest="p",
        runtime="onnxruntime",
        models=models,
    )
    artifacts = {
        role: Artifact(
            role=role,
            format="onnx",
            runtime="onnxruntime",
            files={name: {"bytes": 1000, "sha256": ""} for name in ("model.onnx", "model.safetensors")},
            shipped=("model.onnx",),
            digest=role,
            parameters=1,
            nonzeros=1,
            macs=1,
            parent_digest="reference",
        )
        for role in ROLES
    }
    benchmark = Benchmark(
        runtime="onnxruntime",
        threads=1,
        batch_sizes=(1,),
        models={
            role: ModelCost(digest=role, figures={"size_bytes": Measurement(value=1000, unit="bytes")})
            for role in ROLES
        },
        pairs={},
        environment={},
        machine_digest="m",
    )
    return Facts(
        params=params,
        alpha=params.gate.alpha,
        evaluation=evaluation,
        outcomes=outcomes,
        benchmark=benchmark,
        artifacts=artifacts,
    )


def with_limits(rule: dict) -> dict:
    """A rule as the params hold it once read."""
    return {name: {"value": value} if name in ("max", "max_drop") else value for name, value in rule.items()}


def measured(kind: str, examples: int) -> dict[str, float | int | str]:
    """Judge once in this process, three times, and return the best."""
    seconds = []
    for _ in range(REPEATS):
        facts = facts_of(kind, examples)
        start = time.perf_counter()
        checks = judge(facts)
        seconds.append(time.perf_counter() - start)
    assert all(check.status in ("pass", "fail", "undecided") for check in checks), {c.reason for c in checks}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"kind": kind, "examples": examples, "checks": len(checks), "seconds": min(seconds), "peak_mb": peak}


def in_a_fresh_process(kind: str, examples: int) -> dict:
    """Measure where nothing else has taken memory before."""
    code = f"import gate_scale, json; print(json.dumps(gate_scale.measured({kind!r}, {examples})))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help=f"store the figures in {RESULTS.name}")
    given = parser.parse_args()
    rows = []
    for kind in KINDS:
        for examples in (given.examples // 10, given.examples, given.examples * 3):
            rows.append(in_a_fresh_process(kind, examples))
            row = rows[-1]
            print(
                f"{kind}: {examples:,} examples, {row['checks']:,} checks: "
                f"{row['seconds']:.2f} s, peak {row['peak_mb']:.0f} MB"
            )
    if given.write:
        record = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "repeats": REPEATS,
            "rows": rows,
        }
        RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
