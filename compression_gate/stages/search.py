"""`search`: find the recipe; the glue between the suite's files, the searcher, the executor and what is written."""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compression_gate import __version__, registry
from compression_gate.errors import ParamsError, SearchError
from compression_gate.pipeline.state import write_json
from compression_gate.records import state_files
from compression_gate.records.base import digest_of, replacing_folder
from compression_gate.records.history import releases_of
from compression_gate.records.lock import locked
from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.params import FILE_NAME, Params, Step, read_params
from compression_gate.records.recipe import Recipe
from compression_gate.records.search import SearchRecord
from compression_gate.records.search_params import SearchParams
from compression_gate.records.trial import Answer
from compression_gate.records.waivers import read_waivers, today_utc
from compression_gate.search import SEARCHERS
from compression_gate.search.base import Executor, Request, Setup
from compression_gate.search.descriptors import Knowledge
from compression_gate.search.driver import Driver
from compression_gate.search.executors import EXECUTORS
from compression_gate.search.executors.base import Place
from compression_gate.search.executors.room import CACHE_BYTES, ROOM_S, STEPS, make_room
from compression_gate.search.journal import Header, Journal, Reference, begin, resume
from compression_gate.search.objective import LATENCY, Goal
from compression_gate.search.space import Space
from compression_gate.stages.search_outputs import Table, others_of, record_of, write_recipes, write_reports
from compression_gate.stages.search_space import opened_space, reference_of
from compression_gate.stages.trial import REFERENCE, REFERENCES, SOURCES, SPLIT, WAIVERS, digests_of_sources

log = logging.getLogger("compression_gate")
FOLDER = Path(".compression_gate/search")
JOURNAL, KEPT, START = "journal.jsonl", "journal.before.jsonl", "start.json"
DATA_RECORD = Path("reports/data.json")
WAIT_S = 1.0
PATIENCE_S = 60.0  # with the reference, before it is told that nothing was heard of it
OVERRIDES = ("name", "searcher", "seed", "executor", "workers", "address")


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What the command line asks for; None leaves what the params say.

    Args:
        resume: go on with the journal of this search.
    """

    name: str | None = None
    searcher: str | None = None
    seed: int | None = None
    executor: str | None = None
    workers: int | None = None
    address: str | None = None
    trials: int | None = None
    minutes: float | None = None
    resume: bool = False


OnChange = Callable[[Driver, float], None]
INTERRUPTED = "Ctrl-C"


def run(suite: Path, ask: Ask, on_change: OnChange = lambda driver, left_s: None) -> SearchRecord:
    """Search, and write the recipe, the front and the tables.

    Raises:
        ParamsError: the params, the space or the command line are wrong, or another search holds the journal.
        SearchError: the reference itself cannot be measured, or the journal is of another search.
    """
    params = overridden(read_params(suite), ask)
    folder = suite / FOLDER / params.search.name
    with journal_lock(folder):
        space, known = opened_space(suite, params)
        header = header_of(suite, params, space)
        with ExitStack() as stack:  # where nothing can be carried out, the journal of an earlier search stays
            executor = stack.enter_context(closing(executor_of(suite, folder, params)))
            journal, events = opened_journal(suite, folder, params, header, anew=not ask.resume)
            stack.enter_context(closing(journal))
            interrupted = stack.enter_context(interruptible())
            reference = measured_reference(events, journal, executor, interrupted, limit_of(params.search))
            goal = goal_of(params, reference)
            table = stack.enter_context(Table(folder, goal.metric))
            setup = setup_of(space, known, goal, params, steps_to_begin_with(folder, params))
            searcher = registry.load("searchers", params.search.searcher, SEARCHERS)(setup)
            driver = Driver(space, searcher, goal, params.search, journal, on_told=table.add)
            driver.replay(events)
            started_from = driver.standings.told
            ended = drive(driver, executor, params.search, folder, interrupted, on_change)
            driver.count_open()
        record = record_of(params, header, driver, ended, started_from)
        others = others_of(suite, record)
        record = record.beside(others)
        write_recipes(suite, record, driver, header)
        write_reports(suite, record, others, driver, table)
        return record


def journal_lock(folder: Path) -> AbstractContextManager[None]:
    """Hold a search's folder.

    Raises:
        ParamsError: another process holds it.
    """
    held = f"search {folder.name}: another search holds this journal"
    return locked(folder / "lock", held=held, do="wait for it, stop it, or give this one another search.name")


def run_shown(suite: Path, ask: Ask) -> SearchRecord:
    """Search, showing how far it is."""
    from compression_gate.reporters.search import Moment, progress

    with progress() as shown:

        def show(driver: Driver, left_s: float) -> None:
            found = driver.standings
            shown.show(
                Moment(
                    told=found.told,
                    failed=found.failed,
                    feasible=found.feasible,
                    front=found.front,
                    best=found.best,
                    unmet=tuple(check for check, most in found.closest.items() if most > 0),
                    behind=driver.behind,
                    batch=len(driver.batch) if driver.params.synchronous else 0,
                    left=left_of(driver, left_s),
                    objectives=driver.goal.objectives,
                    metric=driver.goal.metric,
                )
            )

        return run(suite, ask, show)


def left_of(driver: Driver, left_s: float) -> str:
    """What is left of the budget, in words: trials, and minutes, which are reckoned where only trials were given.

    Args:
        left_s: until the time is up; infinite where none was given [s].
    """
    trials, carried_out = driver.params.budget.trials, driver.standings.told + driver.behind
    told = [] if trials is None else [f"{max(0, trials - carried_out)} trials left"]
    if left_s != math.inf:
        told.append(f"{max(0.0, left_s) / 60:.0f} min left")
    elif trials is not None and carried_out:
        told.append(f"about {driver.standings.seconds / carried_out * max(0, trials - carried_out) / 60:.0f} min")
    return ", ".join(told)


def code_of(record: SearchRecord) -> int:
    """What the command ends with: 0 with a recipe, 1 where none meets the limits, 4 where nothing could be measured."""
    if record.ended == INTERRUPTED:
        return 130
    if record.best is not None:
        return 0
    return 1 if record.nearest is not None else 4


def overridden(params: Params, ask: Ask) -> Params:
    """The params with what the command line says in place.

    Raises:
        ParamsError: a value that the section does not take, or a searcher or executor that does not exist.
    """
    plain = params.search.model_dump(mode="json")
    plain |= {name: value for name in OVERRIDES if (value := getattr(ask, name)) is not None}
    if ask.trials is not None or ask.minutes is not None:
        plain["budget"] |= {"trials": ask.trials, "minutes": ask.minutes}
    try:
        search = SearchParams.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        raise ParamsError(
            f"{FILE_NAME}: search.{'.'.join(map(str, item['loc']))}: {item['msg']}, got {item['input']!r}"
            for item in error.errors()
        ) from error
    registry.find("searchers", search.searcher, SEARCHERS)
    registry.find("executors", search.executor, EXECUTORS)
    if search.proxy is not None and not search.synchronous:
        raise ParamsError(f"{FILE_NAME}: search.proxy: compares the trials of a generation: expected synchronous: true")
    return params.model_copy(update={"search": search})


def header_of(suite: Path, params: Params, space: Space) -> Header:
    """What the search rests on, in words and as one digest."""
    plain = params.as_dict()
    search = params.search.model_dump(mode="json", exclude={"workers", "budget", "executor", "address", "name"})
    told = {
        "reference": reference_of(suite).digest,
        "code or data": digest_of(digests_of_sources(suite, params)),
        "task": digest_of([plain["task"], plain["train"]]),
        "runtime or format": f"{params.compress.runtime} {params.compress.format}",
        "rules": digest_of(plain["gate"]),
        "space": digest_of({name: repr(gene) for name, gene in space.genes.items()}),
        "search settings": digest_of(search),
        "version": __version__,
    }
    if waivers := live_waivers(suite, params):
        told["waivers"] = digest_of(waivers)
    return Header(digest=digest_of(told), told=told)


def live_waivers(suite: Path, params: Params) -> list[dict[str, Any]]:
    """The waivers that live today: what they cover stops no trial.

    Raises:
        ParamsError: one has expired, or is wrong.
    """
    found = read_waivers(suite, params, today=today_utc(), releases=releases_of(suite))
    return [one.model_dump(mode="json") for one in found]


def lay_out(suite: Path, folder: Path, params: Params) -> None:
    """Put what all trials share into the search's folder: nothing that happens to the suite moves it afterwards."""
    for name in (REFERENCE, REFERENCES, "workers"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with replacing_folder(folder / REFERENCE) as place:
        shutil.copytree(suite / "models/reference", place, dirs_exist_ok=True)
    if (suite / state_files.REFERENCES).is_dir():
        shutil.copytree(suite / state_files.REFERENCES, folder / REFERENCES)
    shutil.copyfile(suite / FILE_NAME, folder / FILE_NAME)
    write_json(folder / SOURCES, digests_of_sources(suite, params))
    write_json(folder / START, [step.model_dump(mode="json") for step in steps_in_use(suite, params)])
    write_json(folder / WAIVERS, live_waivers(suite, params))


def steps_in_use(suite: Path, params: Params) -> tuple[Step, ...]:
    """The steps that the params hold or name; none of a target, or of a recipe that is gone."""
    recipe = params.compress.recipe
    return Recipe.read(suite / recipe).steps if recipe and (suite / recipe).exists() else params.compress.steps


def steps_to_begin_with(folder: Path, params: Params) -> tuple[Step, ...]:
    """The steps that were in use when the search began, whatever was adopted since."""
    if not (folder / START).exists():  # it was begun by an earlier version
        return params.compress.steps
    return tuple(Step.model_validate(one) for one in json.loads((folder / START).read_text(encoding="utf-8")))


def opened_journal(
    suite: Path, folder: Path, params: Params, header: Header, *, anew: bool
) -> tuple[Journal, Iterator[tuple[int, Any]]]:
    """The journal of a search that begins, or of one that goes on, and what stands in it.

    Raises:
        SearchError: there is none to go on with, it is damaged, or of another search.
    """
    if not anew:
        return resume(folder / JOURNAL, header)
    put_away(folder / JOURNAL)  # before the rest: killed here, there is nothing half new to resume
    lay_out(suite, folder, params)
    return begin(folder / JOURNAL, header), iter(())


def put_away(journal: Path) -> None:
    """Keep an earlier search's journal under another name where it holds an answer: hours may be in it."""
    if not journal.exists():
        return
    with journal.open("rb") as file:
        answered = any(b'"answered"' in line for line in file)
    if not answered:
        journal.unlink()
        return
    kept = journal.replace(journal.with_name(KEPT))
    log.warning(
        "search: begins anew; the earlier journal is kept as %s: to go on with that one, name it %s and give --resume",
        kept,
        JOURNAL,
    )


def executor_of(suite: Path, folder: Path, params: Params) -> Executor:
    """The executor that the params name."""
    search = params.search
    sources = [suite / name for name in digests_of_sources(suite, params)]
    shared = [folder / name for name in (FILE_NAME, REFERENCE, REFERENCES, SOURCES, WAIVERS)]
    place = Place(
        suite=suite,
        folder=folder,
        workers=search.workers,
        timeout_s=search.trial_timeout_s,
        memory_bytes=search.trial_memory_bytes,
        address=search.address,
        files=(*sources, suite / FILE_NAME, suite / DATA_RECORD, *shared),
    )
    executor: Executor = registry.load("executors", search.executor, EXECUTORS)(place)
    return executor


def measured_reference(
    events: Iterator[tuple[int, Any]],
    journal: Journal,
    executor: Executor,
    interrupted: Callable[[], bool],
    limit_s: float,
) -> Answer:
    """The figures of the reference as it ships: the empty chain, carried out like any other.

    Raises:
        SearchError: that already fails, or takes all the time that the search has.
        KeyboardInterrupt: somebody interrupts it: there is nothing yet to end with.
    """
    for _, event in events:
        if not isinstance(event, Reference):
            raise SearchError(f"{journal.path}:2: expected the reference's figures, got another event: begin anew")
        return event.answer
    executor.submit(Request(number=-1, steps=()))
    start, patience, answer = time.monotonic(), PATIENCE_S, None
    while answer is None:
        waited = time.monotonic() - start
        if interrupted():
            raise KeyboardInterrupt
        if waited >= limit_s:
            raise SearchError(f"search: the reference is not measured after {limit_s / 60:g} minutes: give it more")
        if waited >= patience:
            log.warning("search: the reference is not measured after %.0f s: it is slow, or no place is free", waited)
            patience *= 2
        answer = next((answer for _, answer in executor.finished(min(WAIT_S, limit_s - waited))), None)
    if not answer.complete:
        raise SearchError(f"search: the reference as it ships cannot be measured: {answer.reason}")
    journal.append(Reference(answer=answer))
    return answer


def goal_of(params: Params, reference: Answer) -> Goal:
    """What the search goes by.

    Raises:
        SearchError: the reference lacks a figure that candidates would be held against, or has nothing for it.
    """
    metric = metric_of(params, reference)
    forms = [rule.form for rule in params.gate.rules.values() if rule.metric == metric]
    goal = Goal.of(params.search, metric, reference.figures, forms)
    lacking = [name for name in goal.needed if name not in reference.figures]
    lacking += [f"{name} but 0" for name in goal.divisors if reference.figures.get(name) == 0]
    if lacking:
        raise SearchError(
            f"{FILE_NAME}: search.objectives, search.prefer: expected figures that the reference has on the "
            f"{SPLIT} split, got {told_lack(lacking, reference)}: choose others"
        )
    return goal


def metric_of(params: Params, reference: Answer) -> str:
    """What quality is: of the first rule on one, else the first that the task's kind or its scorer has.

    Raises:
        SearchError: the reference has none of them.
    """
    ruled = [rule.metric for rule in params.gate.rules.values() if kind_of(rule.metric) in QUALITY]
    scored = [name for name in reference.figures if kind_of(name) in QUALITY and name not in ("loss", LATENCY)]
    asked = list(dict.fromkeys((*ruled, *params.metrics, *scored)))
    known = [name for name in asked if name in reference.figures]
    if not known:
        raise SearchError(
            f"search: expected a quality of the reference on the {SPLIT} split, got "
            f"{told_lack(asked, reference)}: see what train and evaluate say of it"
        )
    return known[0]


def told_lack(names: Sequence[str], reference: Answer) -> str:
    """The figures that the reference lacks, in words, and what its trial remarked."""
    return "; ".join((f"no {', '.join(names) or 'score'}", *reference.remarks))


def setup_of(space: Space, known: Knowledge | None, goal: Goal, params: Params, steps: Sequence[Step]) -> Setup:
    """What the searcher is made with; the steps in use are the first to be tried where the space has them."""
    start = space.genome_of(steps) if steps else None
    return Setup(
        space=space,
        seed=params.search.seed,
        values=len(goal.names),
        population=params.search.population,
        start=() if start is None else (start,),
        known=known,
    )


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end the search after the event it is at; a second one ends it at once."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        log.warning("search: stopping with the best so far; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def limit_of(search: SearchParams) -> float:
    """How long a run of it may take [s]."""
    return search.budget.minutes * 60 if search.budget.minutes is not None else float("inf")


def drive(
    driver: Driver,
    executor: Executor,
    search: SearchParams,
    folder: Path,
    interrupted: Callable[[], bool],
    on_change: OnChange,
) -> str:
    """Ask, carry out and tell until something ends it; return what did."""
    start, before = time.monotonic(), driver.standings.seconds
    limit_s = limit_of(search)
    looked = start
    while (ended := driver.end) is None:
        spent = time.monotonic() - start
        if interrupted():
            return INTERRUPTED
        if spent >= limit_s:
            return f"{search.budget.minutes:g} minutes"
        if driver.wants(executor.free):
            driver.ask()  # the clock is looked at before each: where all is known nothing else takes time
            continue
        for request in driver.requests():
            executor.submit(request)
        for number, answer in executor.finished(min(WAIT_S, max(0.0, limit_s - spent))):
            driver.answer(number, answer, before + time.monotonic() - start)
        if time.monotonic() - looked > ROOM_S:
            make_room(folder / STEPS, CACHE_BYTES)
            looked = time.monotonic()
        on_change(driver, limit_s - (time.monotonic() - start))
    return ended
