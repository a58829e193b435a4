"""What old news costs a search: the same trials with 1 to 256 of them under way at once.

    python benchmarks/search_staleness.py [--seeds 20] [--write]
    python benchmarks/search_staleness.py --markdown      # the table of docs/search_scaling.md

The made-up networks of `search_synthetic.py` (one strength a step), 600 trials each, asked and told asynchronously: as
soon as one trial ends, another is asked for, so that each was asked for without the answers of those under way. Trials
take log-normal times as those of `search_driver.py`, on a clock that nobody waits for. Differences are paired by
network, intervals are bootstraps over networks. `random` goes by no answers, so that one row of it will do.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from search_driver import SIGMA
from search_landscape import Landscape
from search_synthetic import covered, interval, setup_of

from compression_gate import registry
from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.base import write_text
from compression_gate.search import SEARCHERS
from compression_gate.search.base import Proposal
from compression_gate.search.objective import Score

RESULTS = Path(__file__).parent / "results" / "search_staleness.json"
TRIALS = 600
WORKERS = (1, 16, 64, 256)
COMPARED = ("genetic", "hybrid")


def row_of(name: str, workers: int, seed: int) -> dict[str, Any]:
    """A search with so many trials under way at once, on one network."""
    landscape = Landscape(variant=seed, kind="one strength")
    searcher = registry.load("searchers", name, SEARCHERS)(setup_of(landscape, seed))
    coins, now, scores = random.Random(seed), 0.0, list[Score]()
    running: list[tuple[float, int, Proposal, int]] = []
    stale = []
    for number in range(TRIALS + workers):
        if len(running) == workers or number >= TRIALS:
            now, _, proposal, known = heapq.heappop(running)
            stale.append(len(scores) - known)
            scores.append(landscape.score(proposal.genome))
            searcher.tell(proposal, scores[-1])
        if number < TRIALS:
            end = now + coins.lognormvariate(0.0, SIGMA)
            heapq.heappush(running, (end, number, searcher.ask(), len(scores)))
    return {
        "searcher": name,
        "workers": workers,
        "seed": seed,
        "trials": len(scores),
        "hypervolume": round(float(covered(scores)), 5),
        "stale": round(float(np.mean(stale)), 1),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the documents."""
    lines = ["| searcher | under way | stale | hypervolume | less one at a time | less random's | networks |"]
    lines.append("|---|---|---|---|---|---|---|")
    coins = np.random.default_rng(0)
    found = {(row["searcher"], row["workers"], row["seed"]): row for row in rows}
    for name, workers in dict.fromkeys((row["searcher"], row["workers"]) for row in rows):
        mine = [row for row in rows if (row["searcher"], row["workers"]) == (name, workers)]
        cells = [f"{np.mean([row['stale'] for row in mine]):,.0f}"]
        cells += [f"{np.mean([row['hypervolume'] for row in mine]):.3f}"]
        for other in ((name, 1), ("random", 1)):
            more = [row["hypervolume"] - found[(*other, row["seed"])]["hypervolume"] for row in mine]
            low, high = interval(more, coins)
            cells.append("" if other == (name, workers) else f"{np.mean(more):+.3f} ({low:+.3f} to {high:+.3f})")
        lines.append(f"| `{name}` | {workers} | {' | '.join(cells)} | {len(mine)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print what is stored")
    asked = parser.parse_args()
    if asked.markdown:
        print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]))
        return
    pairs = [*itertools.product(COMPARED, WORKERS), ("random", 1)]
    rows = [row_of(name, workers, seed) for name, workers in pairs for seed in range(asked.seeds)]
    print(markdown(rows))
    if asked.write:
        write_text(RESULTS, json.dumps({"machine": machine_fingerprint(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
