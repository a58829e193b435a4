"""All searchers on one table of real trials: `python benchmarks/search_replay.py [--seeds 20] [--markdown]`.

`--keep SUITE --name NAME …` first takes the table from the journals of searches with the same space and reference, 300
trials or more in all, into `benchmarks/results/search_table.json`; whatever comes after needs that file alone.

A searcher proposes genomes that are not in the table. Two ways to answer it, both labelled in every row:

- `recorded`: the nearest recorded trial that it was not given yet answers. Each figure that is compared was measured;
  no model of ours stands between a searcher and its score, and nobody can win by the errors of one. The price is that a
  searcher is told of another genome than it asked for, the more so the more of the table is used up: budgets stay under
  half of it.
- `predicted`: the weighted mean of the three nearest recorded trials, over and over. Searchers may go on where the
  table is thin, and what they find there is a prediction. It stands beside the first to show whether the order of the
  searchers rests on the way of answering.

How well nearness predicts is printed with every table: rank correlations of each recorded trial with what its
neighbours say of it (leave one out), with n.

Distance is by chains, not by genes: steps that only one of two chains has count 2, a pair in the other order 0.5,
another choice of the same step 0.5, numbers by how far apart they are in their range.

Hypervolume is over quality lost (0 to 2 points) and the logarithm of bytes (the reference's to a hundredth of that);
intervals are bootstraps over seeds, differences to `random` paired by seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from search_volume import hypervolume

from compression_gate import registry
from compression_gate.errors import ParamsError
from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.recipe import recipe_digest
from compression_gate.records.sensitivity import SensitivityTable
from compression_gate.records.trial import Answer, Genome
from compression_gate.search import SEARCHERS
from compression_gate.search.base import Searcher, Setup
from compression_gate.search.descriptors import Knowledge, Walk, walk_of
from compression_gate.search.genes import Choice, genes_in
from compression_gate.search.journal import Answered, Asked, Reference, events_of
from compression_gate.search.objective import Goal, Score
from compression_gate.search.space import Alternative, Slot, Space

FOLDER = Path(__file__).parent / "results"
TABLE, RESULTS = FOLDER / "search_table.json", FOLDER / "search_replay.json"
WAYS = ("recorded", "predicted")
CONTROLS = ("random", "uniform")
POINTS = (0.005, 0.01)
MOST_LOST = 0.02
NEIGHBOURS = 3
FEWEST = 300
RESAMPLED = 4000
POPULATION = 16


@dataclass(frozen=True, kw_only=True)
class Row:
    """A recorded trial.

    Args:
        lost: of quality; None, like the bytes, where the trial failed.
    """

    genome: Genome
    score: Score
    lost: float | None = None
    size_bytes: float | None = None


@dataclass(kw_only=True)
class Recorded:
    """A table of trials.

    Args:
        values: how many objectives a score has.
    """

    space: Space
    rows: list[Row]
    values: int
    reference_bytes: float
    start: Genome | None = None
    known: Knowledge | None = None
    walk: Walk = field(init=False)

    def __post_init__(self) -> None:
        self.walk = walk_of(self.space, self.known)

    @cached_property
    def chains(self) -> list[Chain]:
        """Every row's."""
        return [Chain.of(self.walk, row.genome) for row in self.rows]

    def distances(self, genome: Genome) -> np.ndarray:
        """From a genome's chain to all recorded ones, ``(N,)``."""
        chain = Chain.of(self.walk, genome)
        return np.array([chain.distance(other) for other in self.chains])


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What of a genome its chain shows.

    Args:
        methods: in order.
        used, places, ordered: by gene ``(S,)``: options of steps that are there, where in their range, numbers or not.
    """

    methods: tuple[str, ...]
    used: np.ndarray
    places: np.ndarray
    ordered: np.ndarray

    @classmethod
    def of(cls, walk: Walk, genome: Genome) -> Chain:
        """The chain of a genome; where its options are refused, its methods in the order of their places."""
        try:
            methods = tuple(dict.fromkeys(step.method for step in walk.space.steps_of(genome)))
        except ParamsError:
            picked = [slot.picked(walk.space.complete(genome)) for slot in walk.space.slots]
            methods = tuple(one.method for one in picked if one is not None)
        options = np.array([stop.kind in ("option", "strength") for stop in walk.stops])
        return cls(
            methods=methods,
            used=np.array(walk.used(genome)) & options,
            places=walk.places(genome),
            ordered=np.array([not isinstance(stop.gene, Choice) for stop in walk.stops]),
        )

    def distance(self, other: Chain) -> float:
        """How unlike another chain it is."""
        common = [method for method in self.methods if method in other.methods]
        alone = len(self.methods) + len(other.methods) - 2 * len(common)
        turned = sum(
            other.methods.index(first) > other.methods.index(second)
            for index, first in enumerate(common)
            for second in common[index + 1 :]
        )
        both = self.used & other.used
        apart = np.abs(self.places - other.places)[both]
        options = np.where(self.ordered[both], apart, 0.5 * (apart > 0)).sum()
        return 2 * alone + 0.5 * turned + float(options)


class Recordings:
    """Answers with the nearest recorded trial that was not given yet."""

    def __init__(self, table: Recorded) -> None:
        self.table, self.left = table, np.ones(len(table.rows), dtype=bool)
        self.gone: list[float] = []

    def __call__(self, genome: Genome) -> Row:
        distances = np.where(self.left, self.table.distances(genome), np.inf)
        index = int(distances.argmin())
        self.left[index] = False
        self.gone.append(float(distances[index]))
        return self.table.rows[index]


class Predictions:
    """Answers with the mean of the nearest recorded trials, nearer ones counting more."""

    def __init__(self, table: Recorded) -> None:
        self.table = table
        self.gone: list[float] = []

    def __call__(self, genome: Genome, without: int | None = None) -> Row:
        distances = self.table.distances(genome)
        if without is not None:
            distances[without] = np.inf
        nearest = distances.argsort(kind="stable")[:NEIGHBOURS]
        self.gone.append(float(distances[nearest[0]]))
        rows = [self.table.rows[index] for index in nearest]
        if not rows[0].score.complete:
            return rows[0]
        weights = [1 / (0.05 + distances[index]) for index in nearest]
        pairs = [(row, weight) for row, weight in zip(rows, weights, strict=True) if row.score.complete]
        total = sum(weight for _, weight in pairs)

        def mean(of: Callable[[Row], float]) -> float:
            return sum(of(row) * weight for row, weight in pairs) / total

        values = tuple(mean(lambda row, at=at: row.score.values[at]) for at in range(self.table.values))
        return Row(
            genome=genome,
            score=Score(values=values, violation=mean(lambda row: row.score.violation)),
            lost=mean(lambda row: row.lost or 0.0),
            size_bytes=math.exp(mean(lambda row: math.log(row.size_bytes or 1.0))),
        )


ANSWERS: dict[str, Callable[[Recorded], Recordings | Predictions]] = {"recorded": Recordings, "predicted": Predictions}


# Taking the table from a search.


def keep(suite: Path, names: Sequence[str], fewest: int) -> dict[str, Any]:
    """What searches recorded, as one document; a chain that several carried out counts once."""
    from compression_gate.records.params import read_params
    from compression_gate.stages.search import FOLDER as SEARCHES
    from compression_gate.stages.search import JOURNAL, goal_of
    from compression_gate.stages.search_space import opened_space

    params = read_params(suite)
    space, known = opened_space(suite, params)
    trials: dict[str, dict[str, Any]] = {}
    for name in names:
        genomes, reference, answers = read_journal(suite / SEARCHES / name / JOURNAL, params.search.train_share)
        goal = goal_of(params, reference)
        for number, answer in sorted(answers.items()):
            digest = recipe_digest(space.steps_of(genomes[number]))
            trials.setdefault(digest, {"search": name, **plain_row(genomes[number], answer, goal)})
    if len(trials) < fewest:
        raise SystemExit(f"{', '.join(names)}: expected at least {fewest} trials in full, got {len(trials)}")
    return {
        "searches": list(names),
        "metric": goal.metric,
        "objectives": list(goal.names),
        "reference_bytes": reference.figures["size_bytes"],
        "space": plain_space(space),
        "known": None if known is None else plain_knowledge(known),
        "machine": machine_fingerprint(),
        "start": genomes.get(0),
        "train_share": params.search.train_share,
        "trials": list(trials.values()),
    }


def read_journal(path: Path, share: float) -> tuple[dict[int, Genome], Answer, dict[int, Answer]]:
    """Genomes by number, the reference's figures, answers of trials with this share of the training data by number."""
    genomes, answers, reference = {}, {}, None
    for _, event in events_of(path):
        if isinstance(event, Asked):
            genomes[event.number] = event.genome
        elif isinstance(event, Answered) and event.share == share:
            answers[event.number] = event.answer
        elif isinstance(event, Reference):
            reference = event.answer
    if reference is None:
        raise SystemExit(f"{path}: expected the reference's figures, got none")
    return genomes, reference, answers


def plain_row(genome: Genome, answer: Answer, goal: Goal) -> dict[str, Any]:
    """A trial as the table has it."""
    score = goal.score(answer)
    told = {"genome": genome, "seconds": round(answer.seconds, 2)}
    if not score.complete:
        return told | {"failed": answer.reason or "not a number"}
    return told | {
        "values": list(score.values),
        "violation": score.violation,
        "lost": goal.quality_lost(answer.figures),
        "size_bytes": answer.figures["size_bytes"],
    }


def plain_knowledge(known: Knowledge) -> dict[str, Any]:
    """What was measured of the layers, as JSON holds it."""
    return {
        "table": known.table.model_dump(mode="json", by_alias=True),
        "stored_bytes": known.stored_bytes,
        "most_bytes": known.most_bytes,
    }


def plain_space(space: Space) -> dict[str, Any]:
    """A space as JSON holds it."""
    return {
        "free_order": space.free_order,
        "slots": [
            {
                "name": slot.name,
                "optional": slot.optional,
                "alternatives": [
                    {
                        "name": one.name,
                        "method": one.method,
                        "options": dict(one.options),
                        "layers": one.layers,
                        "units": one.units,
                    }
                    for one in slot.alternatives
                ],
            }
            for slot in space.slots
        ],
    }


def space_from(plain: dict[str, Any]) -> Space:
    """The space again."""
    slots = []
    for slot in plain["slots"]:
        alternatives = tuple(
            Alternative(
                name=one["name"],
                method=one["method"],
                options=one["options"],
                genes=dict(genes_in(one["options"], one["name"])),
                layers=tuple(map(tuple, one["layers"])),
                units=tuple(one["units"]),
            )
            for one in slot["alternatives"]
        )
        slots.append(Slot(name=slot["name"], alternatives=alternatives, optional=slot["optional"]))
    return Space(slots=tuple(slots), free_order=plain["free_order"])


def table_from(document: dict[str, Any]) -> Recorded:
    """The table of a document."""
    rows = [
        Row(genome=one["genome"], score=Score(values=(), violation=math.inf))
        if "failed" in one
        else Row(
            genome=one["genome"],
            score=Score(values=tuple(one["values"]), violation=one["violation"]),
            lost=one["lost"],
            size_bytes=one["size_bytes"],
        )
        for one in document["trials"]
    ]
    known = document["known"]
    if known is not None:
        known = Knowledge(**(known | {"table": SensitivityTable.model_validate_json(json.dumps(known["table"]))}))
    return Recorded(
        space=space_from(document["space"]),
        rows=rows,
        values=len(document["objectives"]),
        reference_bytes=document["reference_bytes"],
        start=document["start"],
        known=known,
    )


# Replaying.


def searcher_of(name: str, table: Recorded, seed: int) -> Searcher:
    """A searcher over the table's space."""
    setup = Setup(
        space=table.space,
        seed=seed,
        values=table.values,
        population=POPULATION,
        start=() if table.start is None else (table.start,),
        known=table.known,
    )
    searcher: Searcher = registry.load("searchers", name, SEARCHERS)(setup)
    return searcher


def replayed(name: str, table: Recorded, way: str, seed: int, budgets: Sequence[int]) -> dict[str, Any]:
    """One searcher on the table, told in generations."""
    searcher, answer = searcher_of(name, table, seed), ANSWERS[way](table)
    given: list[Row] = []
    spent = 0.0
    while len(given) < max(budgets):
        count = min(POPULATION, max(budgets) - len(given))
        begun = time.perf_counter()
        proposals = [searcher.ask() for _ in range(count)]
        spent += time.perf_counter() - begun
        rows = [answer(one.genome) for one in proposals]
        begun = time.perf_counter()
        for proposal, row in zip(proposals, rows, strict=True):
            searcher.tell(proposal, row.score)
        spent += time.perf_counter() - begun
        given += rows
    return {
        "searcher": name,
        "way": way,
        "seed": seed,
        "distance": round(float(np.mean(answer.gone)), 3),
        "ms_per_trial": round(1000 * spent / len(given), 2),
        **{f"at {budget}": worth_of(given[:budget], table) for budget in budgets},
    }


def worth_of(rows: Sequence[Row], table: Recorded) -> dict[str, float | None]:
    """What was found."""
    pairs = [(row.lost, row.size_bytes) for row in rows if row.lost is not None and row.size_bytes is not None]
    points = [
        (max(0.0, lost) / MOST_LOST, 1 + math.log10(max(0.01, size / table.reference_bytes)) / 2)
        for lost, size in pairs
    ]
    found: dict[str, float | None] = {"hypervolume": round(hypervolume(points, (1.0, 1.0)), 5)}
    for most in POINTS:
        found[f"bytes at {most:g}"] = min((size for lost, size in pairs if lost <= most), default=None)
    return found


def trust(table: Recorded) -> dict[str, Any]:
    """How well recorded neighbours tell a trial's quality and bytes: rank correlations, each trial left out in turn."""
    from scipy.stats import spearmanr

    answer = Predictions(table)
    whole = [index for index, row in enumerate(table.rows) if row.score.complete]
    pairs = [(table.rows[index], answer(table.rows[index].genome, without=index)) for index in whole]
    pairs = [(row, said) for row, said in pairs if said.score.complete]
    told = {
        name: round(float(spearmanr([of(row) for row, _ in pairs], [of(said) for _, said in pairs]).statistic), 3)
        for name, of in (("quality lost", lambda row: row.lost), ("bytes", lambda row: row.size_bytes))
    }
    return {"n": len(pairs), "trials": len(table.rows), "rank correlation": told}


def interval(values: Sequence[float], coins: np.random.Generator) -> tuple[float, float]:
    """Of the mean, 95 %, by resampling seeds."""
    means = coins.choice(np.asarray(values), (RESAMPLED, len(values))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def tables(document: dict[str, Any]) -> dict[tuple[str, int], str]:
    """The tables of the documents, by the way of answering and the budget."""
    rows, coins = document["rows"], np.random.default_rng(0)
    budgets = [int(key.removeprefix("at ")) for key in rows[0] if key.startswith("at ")] if rows else []
    return {(way, budget): table_of(rows, way, budget, coins) for way in WAYS for budget in budgets}


def table_of(rows: list[dict[str, Any]], way: str, budget: int, coins: np.random.Generator) -> str:
    """One line a searcher: means over seeds, with intervals."""
    lines = [
        "| searcher | hypervolume | less random's | less uniform's | bytes at ≤ 0.5 points | bytes at ≤ 1 point | "
        "distance | ms a trial | n |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    by_name = {
        name: {row["seed"]: row for row in rows if row["searcher"] == name and row["way"] == way} for name in SEARCHERS
    }
    for name, by_seed in by_name.items():
        at = {seed: row[f"at {budget}"] for seed, row in by_seed.items()}
        if not at:
            continue
        controls = [{seed: row[f"at {budget}"] for seed, row in by_name[one].items()} for one in CONTROLS]
        cells = [f"{np.mean([one['hypervolume'] for one in at.values()]):.3f}"]
        cells += ["" if control == at else told_difference(at, control, coins) for control in controls]
        cells += [told_bytes([one[f"bytes at {most:g}"] for one in at.values()], coins) for most in POINTS]
        means = (np.mean([row[key] for row in by_seed.values()]) for key in ("distance", "ms_per_trial"))
        cells += [f"{mean:.1f}" for mean in means]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {len(at)} |")
    return "\n".join(lines)


def told_difference(ones: dict[int, Any], others: dict[int, Any], coins: np.random.Generator) -> str:
    """How much more hypervolume one covers than another, paired by seed, with its interval."""
    more = [ones[seed]["hypervolume"] - others[seed]["hypervolume"] for seed in sorted(ones.keys() & others.keys())]
    if not more:
        return "no seed in common"
    low, high = interval(more, coins)
    return f"{np.mean(more):+.3f} ({low:+.3f} to {high:+.3f})"


def told_bytes(values: Sequence[float | None], coins: np.random.Generator) -> str:
    """A mean with its interval, and how many seeds found nothing."""
    found = [value for value in values if value is not None]
    if not found:
        return "none found"
    low, high = interval(found, coins)
    missing = f", none in {len(values) - len(found)}" if len(found) < len(values) else ""
    return f"{np.mean(found):,.0f} ({low:,.0f} to {high:,.0f}){missing}"


def names_for(table: Recorded, asked: Sequence[str]) -> list[str]:
    """Those searchers that the table's space has a place for: `ilp` needs strengths by layer."""
    found = []
    for name in asked:
        try:
            searcher_of(name, table, 0)
        except ParamsError as error:
            print(f"{name} is left out: {error}")
            continue
        found.append(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, metavar="SUITE", help="take the table from this suite's search")
    parser.add_argument("--name", nargs="+", default=["found"], help="of those searches")
    parser.add_argument("--fewest", type=int, default=FEWEST, help="trials that the journal must hold")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--searchers", nargs="*", default=list(SEARCHERS))
    parser.add_argument("--budgets", nargs="*", type=int, default=[50, 100])
    parser.add_argument("--markdown", action="store_true", help="print what is stored")
    asked = parser.parse_args()
    if asked.keep is not None:
        TABLE.write_text(json.dumps(keep(asked.keep, asked.name, asked.fewest), indent=1) + "\n", encoding="utf-8")
        return
    if not asked.markdown:
        RESULTS.write_text(json.dumps(run(asked), indent=1) + "\n", encoding="utf-8")
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    print(json.dumps(document["trust"]))
    for (way, budget), table in tables(document).items():
        print(f"\n{way}, {budget} trials\n\n{table}")


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Every searcher, way and seed."""
    table = table_from(json.loads(TABLE.read_text(encoding="utf-8")))
    if 2 * max(asked.budgets) > len(table.rows):
        raise SystemExit(f"expected budgets under half of the {len(table.rows)} recorded trials, got {asked.budgets}")
    names = names_for(table, asked.searchers)
    rows = [
        replayed(name, table, way, seed, asked.budgets) for way in WAYS for seed in range(asked.seeds) for name in names
    ]
    return {
        "trust": trust(table),
        "machine": machine_fingerprint(),
        "load": round(os.getloadavg()[0], 2),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
