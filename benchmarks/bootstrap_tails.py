"""How often a regression metric just at its limit passes or fails, for errors of light and heavy tails.

    python benchmarks/bootstrap_tails.py [--replays 1000] [--write]

The reference's errors are drawn, the candidate's are the same times a factor and with noise of their own; the limit is
the true increase, found from a million examples. Each bound should be wrong in 5 %. One process, seed 0.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compression_gate.gate.intervals import of_scores
from compression_gate.gate.proportions import clopper_pearson

RESULTS = Path(__file__).parent / "results" / "bootstrap_tails.json"
ALPHA, MANY = 0.05, 1_000_000
Draw = Callable[[np.random.Generator, int], np.ndarray]
TAILS: dict[str, Draw] = {
    "normal": lambda random, n: random.normal(size=n),
    "t, 5 degrees": lambda random, n: random.standard_t(5, n),
    "t, 3 degrees": lambda random, n: random.standard_t(3, n),
}


def errors(draw: Draw, random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Signed errors of the candidate and of the reference on the same examples."""
    reference = draw(random, n)
    return 1.05 * reference + 0.2 * draw(random, n), reference


def figure(metric: str, values: np.ndarray) -> float:
    """Mean absolute error, or root mean square."""
    return float(np.abs(values).mean() if metric == "mae" else math.sqrt((values**2).mean()))


def rates(metric: str, draw: Draw, n: int, replays: int) -> dict[str, int]:
    """How many replays pass, and how many fail, where the truth is the limit."""
    random = np.random.default_rng(0)
    candidate, reference = errors(draw, random, MANY)
    limit = figure(metric, candidate) - figure(metric, reference)
    passed = failed = 0
    for _ in range(replays):
        found = of_scores(metric, np.zeros(n), list(errors(draw, random, n)), ALPHA)
        passed += found.interval[1] <= limit
        failed += found.interval[0] > limit
    return {"passed": int(passed), "failed": int(failed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replays", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help=f"store the rows in {RESULTS.name}")
    given = parser.parse_args()
    rows = []
    for metric in ("mae", "rmse"):
        for name, draw in TAILS.items():
            for n in (60, 100, 500):
                found = rates(metric, draw, n, given.replays)
                rows.append({"metric": metric, "errors": name, "n": n, "replays": given.replays, **found})
                low, high = clopper_pearson(found["passed"], given.replays, 0.025)
                passed, failed = (found[word] / given.replays for word in ("passed", "failed"))
                print(f"{metric}, {name}, n = {n}: passes {passed:.1%} ({low:.1%} to {high:.1%}), fails {failed:.1%}")
    if given.write:
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
