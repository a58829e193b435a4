"""Searches that ran for the same time, and what their recipes come to: `python benchmarks/search_live.py`.

    python benchmarks/search_live.py SUITE --names live_random live_genetic … [--write]
    python benchmarks/search_live.py SUITE --judge recipes/live_genetic.yaml … [--write]
    python benchmarks/search_live.py --markdown

Each search was made by `compression-gate search --name NAME --searcher … --minutes 20` in SUITE. `--judge` carries out
the hand-written steps of SUITE's `params.yaml` and each recipe by `compression-gate run`: all of the training data, the
test data, the gate, both candidates timed in pairs against the reference. `params.yaml` is as before afterwards.
Hypervolume is that of `search_replay.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import yaml
from search_replay import POINTS, Recorded, Row, plain_row, read_journal, worth_of

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import write_text
from compression_gate.records.metrics import Benchmark, Evaluation
from compression_gate.records.params import read_params
from compression_gate.records.recipe import Recipe
from compression_gate.records.verdict import Verdict
from compression_gate.search.space import Space
from compression_gate.stages.search import FOLDER as SEARCHES
from compression_gate.stages.search import JOURNAL, goal_of

RESULTS = Path(__file__).parent / "results" / "search_live.json"
CONTROL = "live_random"


def searched(suite: Path, name: str) -> dict[str, Any]:
    """What a search came to, from its journal."""
    params = read_params(suite)
    path = suite / SEARCHES / name / JOURNAL
    genomes, reference, answers = read_journal(path, params.search.train_share)
    goal = goal_of(params, reference)
    rows = [
        Row(genome={}, score=goal.score(answer), lost=row.get("lost"), size_bytes=row.get("size_bytes"))
        for number, answer in sorted(answers.items())
        for row in [plain_row(genomes[number], answer, goal)]
    ]
    table = Recorded(space=Space(slots=()), rows=[], values=0, reference_bytes=reference.figures["size_bytes"])
    feasible = [row.size_bytes for row in rows if row.score.complete and not row.score.violation]
    return {
        "search": name,
        "asked": len(genomes),
        "carried_out": len(rows),
        "feasible": len(feasible),
        "smallest_feasible": min((size for size in feasible if size is not None), default=None),
        **worth_of(rows, table),
    }


def judged(suite: Path, recipe: str | None) -> dict[str, Any]:
    """Carry out a recipe, or the steps of the params, on all data; return what the gate judged."""
    path = suite / "params.yaml"
    before = {one: one.read_text(encoding="utf-8") for one in (path, suite / "dvc.yaml")}
    command = [sys.executable, "-m", "compression_gate"]
    try:
        if recipe is not None:
            values = yaml.safe_load(before[path])
            values["compress"] = {"recipe": recipe}
            write_text(path, yaml.safe_dump(values, sort_keys=False))
            subprocess.run([*command, "init", "--refresh", "-C", str(suite)], check=True, stdout=subprocess.DEVNULL)
        code = subprocess.run([*command, "run", "-C", str(suite)], check=False).returncode
        if code not in (0, 1, 3):
            raise SystemExit(f"{recipe}: compression-gate run: expected a verdict, got exit code {code}")
        steps = Recipe.read(suite / recipe).steps if recipe else read_params(suite).compress.steps
    finally:
        for one, text in before.items():
            write_text(one, text)
    reports = suite / "reports"
    verdict, evaluation = Verdict.read(reports / "verdict.json"), Evaluation.read(reports / "evaluation.json")
    speed = Benchmark.read(reports / "benchmark.json").models["candidate"].figures["speedup"]
    correct = {role: one.metrics["accuracy"].value for role, one in evaluation.models.items()}
    return {
        "recipe": recipe or "by hand",
        "steps": [step.model_dump(mode="json") for step in steps],
        "bytes": Artifact.open(suite / "models/candidate").size_bytes,
        "accuracy": correct["candidate"],
        "reference_accuracy": correct["reference"],
        "n": next(check.n for check in verdict.checks if check.rule == "accuracy"),
        "speedup": speed.value,
        "verdict": verdict.status,
        "exit_code": code,
        "load": round(os.getloadavg()[0], 2),
    }


def markdown(results: dict[str, Any]) -> Iterator[str]:
    """The tables of the documents; p: Fisher's exact test of passing trials against the control's, two-sided."""
    from scipy.stats import fisher_exact

    lines = [
        "| search | trials | pass | p of so many | hypervolume | bytes at ≤ 0.5 points | at ≤ 1 point | "
        "smallest that passes |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    counts = {row["search"]: (row["feasible"], row["carried_out"] - row["feasible"]) for row in results["searches"]}
    for row in results["searches"]:
        name = row["search"]
        chance = "" if name == CONTROL else f"{fisher_exact([counts[name], counts[CONTROL]]).pvalue:.2g}"
        sizes = [row[f"bytes at {most:g}"] for most in POINTS] + [row["smallest_feasible"]]
        cells = " | ".join("none" if size is None else f"{size:,.0f}" for size in sizes)
        lines.append(
            f"| {name} | {row['carried_out']} | {row['feasible']} | {chance} | {row['hypervolume']:.4f} | {cells} |"
        )
    yield "\n".join(lines)
    lines = ["| recipe | bytes | test accuracy | faster | verdict |", "|---|---|---|---|---|"]
    for row in results["judged"]:
        quality = f"{100 * row['accuracy']:.2f} % | {row['speedup']:.2f}× | {row['verdict']} |"
        lines.append(f"| {row['recipe']} | {row['bytes']:,} | {quality}")
    yield "\n".join(lines)


def main() -> None:
    """Read, judge, show."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", type=Path, nargs="?")
    parser.add_argument("--names", nargs="+", default=[])
    parser.add_argument("--judge", nargs="+", metavar="RECIPE")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print what is stored")
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"searches": [], "judged": []}
    results["machine"] = machine_fingerprint()
    if asked.names:
        results["searches"] = [searched(asked.suite, name) for name in asked.names]
    if asked.judge:
        results["judged"] = [judged(asked.suite, recipe) for recipe in (None, *asked.judge)]
    print("\n\n".join(markdown(results)))
    if asked.write:
        write_text(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
