"""The driver: what is asked, what is carried out, whom it tells; whatever happens, the journal brings it back."""

import json
import math

import pytest
import small_space

from compression_gate import registry
from compression_gate.errors import SearchError
from compression_gate.records.params import Step
from compression_gate.records.search_params import SearchParams
from compression_gate.records.trial import Answer, Distance
from compression_gate.search import SEARCHERS
from compression_gate.search.base import Proposal, Setup
from compression_gate.search.driver import Driver
from compression_gate.search.genetic import Genetic
from compression_gate.search.journal import Header, begin, resume
from compression_gate.search.objective import Goal
from compression_gate.search.random_search import Random
from compression_gate.search.space import Units, space_of
from compression_gate.stages.search import INTERRUPTED, drive, left_of

HEADER = Header(digest="a")
SPACE = space_of(
    (
        {"method": "structured_pruning", "pruning_ratio": {"low": 0.1, "high": 0.8}, "optional": True},
        {"method": "distillation", "epochs": [1, 2], "alpha": {"low": 0.0, "high": 1.0}, "optional": True},
        {"method": "weight_only_quantization", "bits": [8, 4, 2], "optional": True},
    ),
    free_order=True,
    units=Units(),
)
FEW = space_of(({"method": "weight_only_quantization", "bits": [8, 4, 2]},), free_order=True, units=Units())
REFERENCE = {"accuracy": 0.9, "size_bytes": 1000.0}


def landscape(steps, share=1.0):
    """Bytes and accuracy of a chain; half the ratio and half the bits cost little, distillation brings some back."""
    size, accuracy = 1000.0, 0.9
    for step in steps:
        options = {key: value for key, value in step.items() if key != "method"}
        if step["method"] == "structured_pruning":
            size *= 1 - options["pruning_ratio"]
            accuracy -= 0.2 * options["pruning_ratio"] ** 2
        elif step["method"] == "distillation":
            accuracy += 0.01 * options["epochs"] * options["alpha"] * share
        else:
            size *= options["bits"] / 32
            accuracy -= {8: 0.001, 4: 0.01, 2: 0.1}[options["bits"]]
    lost = max(0.0, 0.9 - accuracy)
    broken = lost > 0.05
    check = Distance(
        rule="accuracy", status="fail" if broken else "pass", distance=max(0.0, lost / 0.05 - 1), blocking=broken
    )
    figures = {"accuracy": accuracy, "size_bytes": size}
    return Answer(figures=figures, checks=(check,), verdict="fail" if broken else "pass", seconds=1.0)


def driver(path, *, searcher=Random, journal=None, told=None, space=SPACE, known=None, start=(), **changes):
    """A driver of a small search; ``told`` collects its trials."""
    values = {"objectives": ["quality", "size_bytes"], "population": 4, "budget": {"trials": 12}, "seed": 3}
    params = SearchParams.model_validate_json(json.dumps(values | changes))
    goal = Goal.of(params, "accuracy", REFERENCE)
    setup = Setup(
        space=space,
        seed=params.seed,
        values=len(goal.names),
        population=params.population,
        start=start,
        known=known,
    )
    journal = journal or begin(path, HEADER)
    return Driver(space, searcher(setup), goal, params, journal, on_told=(told if told is not None else []).append)


def run(one, *, workers=2, stop_after=None, answer_of=landscape, newest_first=False):
    """Carry a search out in memory; trials end in the order they began, or the other way round."""
    running, answered = [], 0
    while not one.done:
        if one.wants(workers - len(running)):
            one.ask()
            continue
        running += one.requests()
        if not running:
            continue
        request = running.pop(-1 if newest_first else 0)
        if stop_after is not None and answered >= stop_after:
            return one
        one.answer(request.number, answer_of(request.steps, request.share), float(answered))
        answered += 1
    return one


def resumed(path, **changes):
    """A driver that took up its journal."""
    journal, events = resume(path, HEADER)
    one = driver(path, journal=journal, **changes)
    one.replay(events)
    return one


class AtOnce:
    """Carries every trial out as soon as somebody waits for it."""

    free = 2

    def __init__(self):
        self.waiting = []

    def submit(self, request):
        self.waiting.append(request)

    def finished(self, timeout_s):
        done = [(request.number, landscape(request.steps, request.share)) for request in self.waiting]
        self.waiting.clear()
        return done


def driven(one, interrupted=lambda: False):
    """What ends a search that the stage drives."""
    return drive(one, AtOnce(), one.params, one.journal.path.parent, interrupted, lambda driver, left_s: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def test_every_trial_of_the_budget_is_told_once(path):
    told = []
    run(driver(path, told=told))
    assert [trial.number for trial in told] == list(range(12))


def test_the_best_is_the_smallest_that_the_gate_lets_through(path):
    told = []
    one = run(driver(path, told=told))
    feasible = [trial for trial in told if trial.feasible]
    assert feasible
    assert len(feasible) < len(told)
    least = min(trial.answer.figures["size_bytes"] for trial in feasible)
    assert one.standings.best.answer.figures["size_bytes"] == least
    assert one.standings.feasible == len(feasible)


def test_without_any_that_passes_the_nearest_miss_is_kept(path):
    def hopeless(steps, share):
        answer = landscape(steps)
        lost = 1 - answer.figures["accuracy"]
        check = Distance(rule="accuracy", status="fail", distance=lost, blocking=True)
        return answer.model_copy(update={"checks": (check,), "verdict": "fail"})

    told = []
    found = run(driver(path, told=told), answer_of=hopeless).standings
    assert found.best is None
    assert found.front == []
    assert found.nearest.answer.violation == min(trial.answer.violation for trial in told)
    assert found.closest == {"accuracy": found.nearest.answer.violation}


def test_how_much_of_a_generation_is_behind_is_known_before_it_is_told(path):
    one = run(driver(path), stop_after=6)
    assert (one.standings.told, one.behind, len(one.batch)) == (4, 2, 4)


@pytest.mark.parametrize(
    ("budget", "left_s", "told"),
    [
        ({"trials": 12}, math.inf, "6 trials left, about 0 min"),
        ({"trials": 100}, math.inf, "94 trials left, about 1 min"),  # an answer a second
        ({"minutes": 5}, 200.0, "3 min left"),
        ({"trials": 100, "minutes": 5}, 200.0, "94 trials left, 3 min left"),
    ],
)
def test_what_is_left_is_told_in_trials_and_minutes(path, budget, left_s, told):
    assert left_of(run(driver(path, budget=budget), stop_after=6), left_s) == told


def test_before_the_first_trial_nobody_knows_how_long_it_takes(path):
    assert left_of(driver(path), math.inf) == "12 trials left"


def test_what_an_unfinished_generation_found_counts_when_the_search_ends_and_changes_no_later_one(path):
    whole, begun = [], []
    run(driver(path.with_name("whole.jsonl"), told=whole))
    one = driver(path, told=begun)
    while one.wants(1):
        one.ask()
    requests = list(one.requests())
    for request in requests[:-1]:
        one.answer(request.number, landscape(request.steps, request.share), 1.0)
    assert (one.standings.told, begun) == (0, [])
    one.count_open()
    assert one.standings.told == len(begun) >= len(requests) - 1
    assert one.standings.best is not None
    again = []
    later = resumed(path, told=again)
    assert later.standings.told == 0
    run(later)
    assert [trial.recipe_digest for trial in again] == [trial.recipe_digest for trial in whole]


def test_limits_that_some_trial_met_are_told_from_those_that_none_did(path):
    def torn(steps, share):
        """Either limit can be met, the third by nobody: the size alone, or the accuracy alone."""
        answer = landscape(steps)
        small = answer.figures["size_bytes"] < 500
        checks = (
            Distance(
                rule="size", status="pass" if small else "fail", distance=0.0 if small else 0.5, blocking=not small
            ),
            Distance(rule="accuracy", status="fail" if small else "pass", distance=0.1 * small, blocking=small),
            Distance(rule="speed", slice="class=1", status="error", distance=None, blocking=True),
        )
        return answer.model_copy(update={"checks": checks, "verdict": "fail"})

    found = run(driver(path), answer_of=torn).standings
    assert found.best is None
    assert found.closest == {"size": 0.0, "accuracy": 0.0, "speed class=1": math.inf}


@pytest.mark.parametrize("searcher", [Random, Genetic])
@pytest.mark.parametrize("workers", [1, 3, 7])
def test_generations_do_not_depend_on_how_many_work_or_who_is_first(path, searcher, workers, tmp_path):
    told, again = [], []
    run(driver(path, searcher=searcher, told=told), workers=1)
    run(driver(tmp_path / "other.jsonl", searcher=searcher, told=again), workers=workers, newest_first=True)
    assert [(trial.genome, trial.answer) for trial in told] == [(trial.genome, trial.answer) for trial in again]


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("stop_after", range(0, 12, 3))
def test_a_search_that_was_killed_goes_on_as_if_nothing_had_been(path, tmp_path, stop_after, synchronous):
    whole, told = [], []
    settings = {"searcher": Genetic, "synchronous": synchronous}
    run(driver(path, told=whole, **settings), workers=1)
    other = tmp_path / "other.jsonl"
    run(driver(other, **settings), stop_after=stop_after, workers=1).journal.close()
    run(resumed(other, told=told, **settings), workers=1)
    assert [(trial.genome, trial.answer.figures) for trial in told] == [
        (trial.genome, trial.answer.figures) for trial in whole
    ]


def test_a_killed_search_asks_for_open_trials_again(path):
    run(driver(path), stop_after=5).journal.close()
    one = resumed(path)
    open_ones = {candidate.number for candidate in one.batch if not one.is_answered(candidate)}
    assert {request.number for request in one.requests()} == open_ones
    assert open_ones


class Same:
    """Proposes the same chain again and again, by genomes that differ in what is not used."""

    def __init__(self, setup):
        self.space, self.count = setup.space, 0

    def ask(self):
        self.count += 1
        genome = {name: gene.at(0.5) for name, gene in self.space.genes.items()}
        left_out = {f"{slot.name}.pick": "left out" for slot in self.space.slots}
        return Proposal(genome={**genome, **left_out, "1.distillation.alpha": self.count / 100}, origin="same")

    def tell(self, proposal, score):
        pass


@pytest.mark.parametrize("searcher", [Random, Genetic])
@pytest.mark.parametrize("synchronous", [True, False])
def test_a_space_that_is_used_up_ends_the_search(path, searcher, synchronous):
    one = driver(path, searcher=searcher, space=FEW, synchronous=synchronous, budget={"trials": None, "minutes": 60})
    assert driven(one).startswith("a space that seems to hold no more chains")
    assert one.standings.told < 100
    assert one.standings.best is not None


@pytest.mark.parametrize("synchronous", [True, False])
def test_ctrl_c_is_heard_between_two_proposals_though_nothing_is_carried_out(path, synchronous):
    one = driver(path, space=FEW, synchronous=synchronous, budget={"trials": 500})
    assert driven(one, interrupted=lambda: one.asked >= 20) == INTERRUPTED
    assert one.asked == 20


@pytest.mark.parametrize("name", list(SEARCHERS))
@pytest.mark.parametrize("proxy", [None, {"train_share": 0.25}], ids=["full", "proxy"])
def test_a_journal_is_taken_up_whatever_the_budget_was_and_is(path, tmp_path, name, proxy):
    """Generations that an earlier budget cut short are filled, by whoever proposes."""
    settings = {
        "searcher": registry.load("searchers", name, SEARCHERS),
        "space": small_space.space(),
        "known": small_space.known(),
        "proxy": proxy,
    }

    def answered(steps, share):
        """A figure for every chain, and a limit that some break."""
        size = 100.0 + len(json.dumps(steps))
        check = Distance(rule="size", status="pass", distance=0.0, blocking=False)
        figures = {"accuracy": 0.9 - 1 / size - 0.01 / share, "size_bytes": size}
        return Answer(figures=figures, checks=(check,), verdict="pass")

    whole, told = [], []
    run(driver(tmp_path / "whole.jsonl", told=whole, budget={"trials": 24}, **settings), answer_of=answered)
    run(driver(path, budget={"trials": 10}, **settings), answer_of=answered)
    for trials in (6, 10, 17, 12):
        one = run(resumed(path, budget={"trials": trials}, **settings), answer_of=answered)
        assert one.standings.told >= trials
    run(resumed(path, told=told, budget={"trials": 24}, **settings), answer_of=answered)
    assert [(one.genome, one.share) for one in told] == [(one.genome, one.share) for one in whole]


@pytest.mark.parametrize("synchronous", [True, False])
def test_the_same_chain_is_carried_out_once(path, synchronous):
    calls, told = [], []

    def counted(steps, share):
        calls.append(steps)
        return landscape(steps, share)

    one = run(driver(path, searcher=Same, told=told, synchronous=synchronous), answer_of=counted)
    assert len(calls) == 1
    assert one.standings.cached == len(told) - 1 == 11


def test_a_failed_trial_is_told_and_ends_nothing(path):
    told = []

    def fails(steps, share):
        return Answer(reason="crashed: exit 1") if len(steps) == 2 else landscape(steps, share)

    one = run(driver(path, told=told), answer_of=fails)
    assert one.standings.failed == sum(trial.answer.reason is not None for trial in told) > 0
    assert one.standings.told == 12


def test_a_size_that_is_reached_ends_the_search(path):
    one = run(driver(path, budget={"trials": 500, "size_bytes": 300}))
    assert one.small_enough
    assert one.standings.told < 500


def test_a_feasible_candidate_as_small_ends_the_search_though_a_larger_one_is_preferred(path):
    """One that is proven within its limits is the best whatever its size."""

    def small_ones_unproven(steps, share):
        answer = landscape(steps)
        if answer.verdict != "pass" or answer.figures["size_bytes"] > 600:
            return answer
        checks = tuple(check.model_copy(update={"status": "undecided"}) for check in answer.checks)
        return answer.model_copy(update={"checks": checks})

    one = run(driver(path, budget={"trials": 60, "size_bytes": 500}), answer_of=small_ones_unproven)
    assert one.end == "500 bytes reached"
    assert one.standings.smallest <= 500


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize("at_start", ["size", "less"])
def test_what_is_no_better_than_a_start_that_passes_stands_before_nothing(path, passes, at_start):
    """Though it alone, larger than the start or of its size, is proven within its limits."""

    def large_ones_proven(steps, share):
        answer = landscape(steps)
        size = answer.figures["size_bytes"]
        proven = size >= start_bytes if at_start == "size" else size > start_bytes
        kept = answer.verdict == "pass" and (passes or steps != begun)
        status = "fail" if not kept else "pass" if proven else "undecided"
        check = Distance(rule="accuracy", status=status, distance=0.1 * (status != "pass"), blocking=not kept)
        return answer.model_copy(update={"checks": (check,), "verdict": "pass" if kept else "fail"})

    genome = SPACE.genome_of([Step(method="weight_only_quantization", bits=8)])
    begun = tuple(step.model_dump(mode="json") for step in SPACE.steps_of(genome))
    start_bytes = landscape(begun).figures["size_bytes"]
    one = driver(path, start=(genome,), budget={"trials": 40})
    found = run(one, answer_of=large_ones_proven).standings
    assert found.start.number == 0
    assert found.start.feasible == passes
    if passes:
        assert found.best.answer.figures["size_bytes"] < start_bytes
    else:
        assert found.best.proven


def test_a_cost_beyond_its_limit_is_a_check_like_others(path):
    found = run(driver(path, fitness={"max_cost": 0.05}), answer_of=lambda steps, share: landscape([])).standings
    assert (found.best, found.nearest.feasible) == (None, False)
    assert found.nearest.answer.violation == pytest.approx(1 / 0.05 - 1)
    assert found.closest == {"accuracy": 0.0, "fitness.max_cost": pytest.approx(19)}


def test_a_trial_without_a_figure_says_which(path):
    told = []
    run(driver(path, told=told, objectives=["quality", "loss"]))
    assert {trial.answer.reason for trial in told} == {"not measured: loss"}


PROXY = {"proxy": {"train_share": 0.25, "keep": 0.5}, "population": 16, "budget": {"trials": 96}}


def timed(steps, share):
    """As the landscape; only trials in full are timed."""
    answer = landscape(steps, share)
    times = {"latency_ratio": 0.5 + answer.figures["size_bytes"] / 2000} if share == 1 else {}
    return answer.model_copy(update={"figures": answer.figures | times})


@pytest.mark.parametrize("changes", [{}, {"prefer": "latency"}, {"fitness": {"max_cost": 0.9}}], ids=str)
def test_a_proxy_saves_full_trials_where_times_count_too(path, changes):
    told = []
    objectives = ["quality", "size_bytes", "latency"]
    one = run(driver(path, searcher=Genetic, told=told, objectives=objectives, **PROXY, **changes), answer_of=timed)
    trained = [trial for trial in told if "distillation" in str(trial.steps)]
    assert one.standings.failed == 0
    assert 0.3 * len(trained) < sum(trial.share == 1 for trial in trained) < 0.9 * len(trained)
    assert one.standings.proxy.value > 0.8


def test_no_trial_is_dropped_before_the_proxy_was_measured(path):
    told = []
    run(driver(path, told=told, **PROXY | {"population": 4, "budget": {"trials": 12}}))
    assert all(trial.share == 1 for trial in told)


def test_a_proxy_that_always_says_the_same_is_switched_off(path):
    def same(steps, share):
        answer = landscape(steps, share)
        return answer if share == 1 else answer.model_copy(update={"figures": answer.figures | {"accuracy": 0.1}})

    found = run(driver(path, **PROXY), answer_of=same).standings
    assert (found.proxy.value, found.proxy_on) == (None, False)
    assert found.proxy.pairs >= 8


def test_each_rung_of_a_proxy_keeps_the_better_ones_of_the_one_before(path):
    told = []
    rungs = PROXY | {"proxy": {"train_share": [0.1, 0.3]}, "budget": {"trials": 320}}
    one = run(driver(path, told=told, **rungs))
    assert one.standings.proxy_on
    counts = {share: sum(trial.share == share for trial in told) for share in (0.1, 0.3)}
    assert counts[0.1] > counts[0.3] > 0


def test_a_proxy_that_predicts_saves_full_trials(path):
    calls, told = [], []

    def counted(steps, share):
        calls.append(share)
        return landscape(steps, share)

    one = run(driver(path, told=told, **PROXY), answer_of=counted)
    trained = sum(any(step.method == "distillation" for step in trial.steps) for trial in told if not trial.cached)
    assert one.standings.proxy.value > 0.8
    assert one.standings.proxy_on
    assert (
        0.3 * trained < sum(trial.share == 1 and "distillation" in str(trial.steps) for trial in told) < 0.9 * trained
    )
    assert all(trial.share == 1 for _, trial in one.standings.front)


def test_a_proxy_that_does_not_predict_is_switched_off(path):
    def misleading(steps, share):
        answer = landscape(steps, share)
        if share == 1:
            return answer
        return answer.model_copy(update={"figures": {**answer.figures, "accuracy": 1 - answer.figures["accuracy"]}})

    one = run(driver(path, **PROXY), answer_of=misleading)
    assert one.standings.proxy.value < 0.3
    assert not one.standings.proxy_on


@pytest.mark.parametrize("stop_after", [3, 20, 40])
def test_a_search_with_a_proxy_resumes_as_well(path, tmp_path, stop_after):
    whole, told = [], []
    run(driver(path, told=whole, **PROXY))
    other = tmp_path / "other.jsonl"
    run(driver(other, **PROXY), stop_after=stop_after).journal.close()
    run(resumed(other, told=told, **PROXY))
    assert [(trial.genome, trial.share) for trial in told] == [(trial.genome, trial.share) for trial in whole]


def test_a_journal_of_another_seed_is_refused(path):
    run(driver(path), stop_after=3).journal.close()
    with pytest.raises(SearchError, match="expected the genome that the searcher proposes for this seed"):
        resumed(path, seed=4)


def test_the_journal_holds_each_answer_once(path):
    run(driver(path, searcher=Same)).journal.close()
    kinds = [event.event for _, event in resume(path, HEADER)[1]]
    assert kinds.count("answered") == 1
    assert kinds.count("asked") == 12
