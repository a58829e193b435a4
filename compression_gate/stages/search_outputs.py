"""What a search leaves behind: a table of all trials, the recipes of the front, one record."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from compression_gate import __version__
from compression_gate.methods.chain import method_of
from compression_gate.records.base import finite, replacing, replacing_folder, write_text
from compression_gate.records.lock import locked
from compression_gate.records.params import Params, Step
from compression_gate.records.recipe import Provenance, Recipe
from compression_gate.records.search import FRONT, RECIPES, Placed, ProxyRecord, Row, SearchRecord, stored_searches
from compression_gate.records.trial import Trial
from compression_gate.reporters.search_page import rendered
from compression_gate.search.driver import Driver
from compression_gate.search.journal import Header
from compression_gate.search.objective import LATENCY, Goal
from compression_gate.stages.trial import answerable

REPORTS = Path("reports/search")
REPORTS_LOCK = Path(".compression_gate/search.lock")
WRITING_S = 60.0  # that another search may take to write its reports: it takes less than one
TRIALS = "trials.csv"
MOST_DRAWN = 2_000
COUNTED = ("loss", "size_bytes", "compression_ratio", LATENCY, "macs", "parameters", "sparsity")


class Table:
    """`trials.csv`: a row for every trial, written as it is told; the last ones are kept for plots.

    Args:
        folder: of the search, which no other has.
        metric: what quality is.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self.figures = (metric, *COUNTED)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / TRIALS
        self.last: deque[Trial] = deque(maxlen=MOST_DRAWN)

    def __enter__(self) -> Table:
        self.file: TextIO = self.path.open("w", encoding="utf-8", newline="")
        self.rows = csv.writer(self.file, lineterminator="\n")
        head = ("trial", "origin", "share", "feasible", "verdict", "violation", "seconds", "cached", "told_s")
        self.rows.writerow((*head, *self.figures, "recipe", "steps", "reason"))
        return self

    def add(self, trial: Trial) -> None:
        """Write one row."""
        self.last.append(trial)
        answer = trial.answer
        violation = answer.violation if answer.complete else ""
        self.rows.writerow(
            (
                *(trial.number, trial.origin, trial.share, trial.feasible, answer.verdict, violation),
                *(round(answer.seconds, 2), trial.cached, round(trial.told_s, 2)),
                *(answer.figures.get(name, "") for name in self.figures),
                *(trial.recipe_digest[:8], told_steps(trial.steps), answer.reason or ""),
            )
        )
        self.file.flush()

    def __exit__(self, *reason: object) -> None:
        self.file.close()


def told_steps(steps: Sequence[Step]) -> str:
    """A chain in one line: methods with the options that differ from their defaults."""
    return " > ".join(told_step(step) for step in steps) or "nothing"


def told_step(step: Step) -> str:
    """A step in a few words."""
    method = method_of(step)
    usual = {one.name: one.default for one in dataclasses.fields(method)}  # type: ignore[arg-type]
    options = {name: value for name, value in vars(method).items() if name != "ignore" and value != usual.get(name)}
    told = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in options.items()
    )
    return f"{step.method}({told})" if told else step.method


def record_of(params: Params, header: Header, driver: Driver, ended: str, started_from: int) -> SearchRecord:
    """What the search came to.

    Args:
        ended: why it did. started_from: how many trials it had been told of when it began or went on.
    """
    found, search, goal = driver.standings, params.search, driver.goal
    front = [
        Placed(values=values, trial=trial, recipe=f"{RECIPES}/{search.name}/{trial.recipe_digest[:8]}.yaml")
        for values, trial in sorted(found.front, key=lambda row: row[0])
    ]
    chosen = f"{RECIPES}/{search.name}.yaml" if found.best else missed_of(search.name) if found.nearest else None
    return SearchRecord(
        name=search.name,
        searcher=search.searcher,
        executor=search.executor,
        seed=search.seed,
        digest=header.digest,
        package_version=__version__,
        objectives=goal.objectives,
        metric=goal.metric,
        better=goal.better,
        reference=dict(goal.reference),
        reference_digest=header.told["reference"],
        trials=found.told,
        failed=found.failed,
        cached=found.cached,
        feasible=found.feasible,
        seconds=found.seconds,
        ended=ended,
        proxy=proxy_record(driver),
        prefer=goal.prefer,
        start=found.start,
        best=found.best,
        nearest=None if found.best else found.nearest,
        recipe=chosen,
        front=tuple(front),
        unmet={check: finite(most) for check, most in found.closest.items() if most > 0},
        unanswered=tuple(name for name, rule in params.gate.rules.items() if not answerable(rule)),
        started_from=started_from,
        course=tuple(found.course),
        rules_digest=header.told["rules"],
        space_digest=header.told["space"],
    )


def missed_of(name: str) -> str:
    """The recipe of the trial that came nearest, where a search found none within all limits."""
    return f"{RECIPES}/{name}.nearest_miss.yaml"


def write_recipes(suite: Path, record: SearchRecord, driver: Driver, header: Header) -> None:
    """Write those of the front and the chosen one.

    Where nothing was found, what an earlier search left stays: params.yaml may name it.
    """
    if record.front:
        (suite / missed_of(record.name)).unlink(missing_ok=True)
        with replacing_folder(suite / RECIPES / record.name) as folder:
            for placed in record.front:
                recipe_from(placed.trial, driver, header).write(folder / Path(placed.recipe or "").name)
            record.write(folder / FRONT)
    chosen = record.best or record.nearest
    if chosen is not None and record.recipe is not None:
        recipe_from(chosen, driver, header).write(suite / record.recipe)


def write_reports(
    suite: Path, record: SearchRecord, others: Sequence[SearchRecord], driver: Driver, table: Table
) -> None:
    """Put what a search came to where that of the newest one lies: all of it is of one search."""
    rows = [row_of(trial, driver.goal, driver.params.train_share) for trial in table.last]
    page = rendered(record, rows, others)
    held = f"{REPORTS}: another search writes its reports there"
    with locked(suite / REPORTS_LOCK, held=held, do="begin again with --resume", patience_s=WRITING_S):
        with replacing(suite / REPORTS / TRIALS) as copy:
            shutil.copyfile(table.path, copy)
        record.write(suite / REPORTS / "search.json")
        write_text(suite / REPORTS / "metrics.json", json.dumps(metrics_of(record)) + "\n")
        write_text(suite / REPORTS / "search.html", page)


def row_of(trial: Trial, goal: Goal, full: float) -> Row:
    """A trial as plots need it."""
    figures = trial.answer.figures
    values = tuple(goal.value(one, figures) for one in goal.objectives) if goal.score(trial.answer).complete else ()
    share = trial.share >= full
    return Row(number=trial.number, genome=trial.genome, values=values, feasible=trial.feasible, full=share)


def others_of(suite: Path, record: SearchRecord) -> list[SearchRecord]:
    """Searches of the suite under other names that went by the same rules from the same reference."""
    same = (record.rules_digest, record.reference_digest)
    others = (other for other in stored_searches(suite) if other.name != record.name)
    return [other for other in others if (other.rules_digest, other.reference_digest) == same]


def recipe_from(trial: Trial, driver: Driver, header: Header) -> Recipe:
    """A trial's recipe, with where it came from."""
    search, answer = driver.params, trial.answer
    provenance = Provenance(
        search=search.name,
        searcher=search.searcher,
        seed=search.seed,
        trial=trial.number,
        trials=driver.standings.told,
        budget=search.budget.model_dump(exclude_none=True),
        space=tuple(dict(slot) for slot in driver.space.declared),
        space_digest=header.told["space"],
        rests_on=header.digest,
        reference_digest=header.told["reference"],
        package_version=__version__,
        feasible=trial.feasible,
        validation=told_figures(answer.figures, driver.goal.metric),
        distances={one.check: one.distance for one in answer.checks},
    )
    return Recipe(steps=trial.steps, provenance=provenance)


def proxy_record(driver: Driver) -> ProxyRecord | None:
    """What the proxy was worth; None where there was none."""
    if driver.params.proxy is None:
        return None
    seen = driver.standings.proxy
    if seen is None:
        return ProxyRecord(pairs=0, used=driver.standings.proxy_on)
    return ProxyRecord(
        pairs=seen.pairs,
        points=tuple(driver.pairs),
        correlation=seen.value,
        low=seen.low,
        high=seen.high,
        used=driver.standings.proxy_on,
    )


def metrics_of(record: SearchRecord) -> dict[str, Any]:
    """The figures as `dvc metrics show FILE` reads them."""
    best = told_figures(record.best.answer.figures, record.metric) if record.best else {}
    counts = {name: getattr(record, name) for name in ("trials", "failed", "feasible")}
    return {"search": {**counts, "front": len(record.front), "best": best}}


def told_figures(figures: Mapping[str, float], metric: str) -> dict[str, float]:
    """The figures of a trial that are worth a line: its quality first, then what it costs."""
    return {name: figures[name] for name in (metric, *COUNTED) if name in figures}
