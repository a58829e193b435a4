"""A search never is lost and never comes to nothing: drivers killed, journals damaged, trials that misbehave."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import standin_search

from compression_gate.errors import ParamsError, SearchError
from compression_gate.records.recipe import Recipe
from compression_gate.search.executors import EXECUTORS
from compression_gate.stages import prepare, search, train
from compression_gate.stages.search import Ask

SUPPORT = str(Path(standin_search.__file__).parent)
PATIENCE_S = 120.0  # of a busy machine
LONG = {"trials": 24}  # far from the end after a few answers, however late this process wakes to interrupt
SPACE = [
    {"method": "structured_pruning", "pruning_ratio": {"low": 0.1, "high": 0.7}, "optional": True},
    {"method": "low_rank", "ratio": {"low": 0.2, "high": 0.8}, "optional": True},
    {"method": "weight_only_quantization", "bits": [8, 4, 2], "optional": True},
]
SETTINGS = {
    "space": SPACE,
    "objectives": ["quality", "size_bytes"],
    "budget": {"trials": 8},
    "population": 4,
    "workers": 2,
}
RULES = {"accuracy": {"metric": "accuracy", "max_drop": 0.2}, "size": {"metric": "size_bytes", "max": 100_000}}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first suite's reference is kept for the others, which would train the same."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def searched(suite, kept, monkeypatch):
    """A suite with a reference, whose trials are carried out by stand-ins."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    monkeypatch.setitem(EXECUTORS, "local", standin_search.ROW)
    if not (kept / "models").exists():
        prepare.run(suite.path)
        train.run(suite.path)
        for name in ("models", "reports"):
            shutil.copytree(suite.path / name, kept / name)
    for name in ("models", "reports"):
        shutil.copytree(kept / name, suite.path / name, dirs_exist_ok=True)
    suite.edit("search", SETTINGS)
    suite.edit("gate", {"rules": RULES})
    return suite


def journal_of(suite, name="found"):
    return suite.path / search.FOLDER / name / search.JOURNAL


def events_of(suite, name="found"):
    """The events of a journal, the header left out; a line that is being written is none yet."""
    path = journal_of(suite, name)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True)[1:] if line.endswith("\n")]


def proposals_of(suite, name="found"):
    return [(one["number"], one["genome"]) for one in events_of(suite, name) if one["event"] == "asked"]


def answers_of(suite, name="found"):
    return {one["number"]: one["answer"] for one in events_of(suite, name) if one["event"] == "answered"}


def requests_of(suite, name="found"):
    """How many trials were begun, the reference among them."""
    return len((journal_of(suite, name).parent / "requests.log").read_text(encoding="utf-8").splitlines())


def started(suite, *arguments, **environment):
    """A search in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "standin_search", "search", "-C", str(suite.path), *arguments],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def wait_for_answers(suite, count, name="found"):
    until = time.monotonic() + PATIENCE_S
    while len(answers_of(suite, name)) < count:
        assert time.monotonic() < until, "the search answers nothing"
        time.sleep(0.02)


def test_a_driver_killed_at_any_moment_resumes_and_proposes_what_an_uninterrupted_one_does(searched):
    searched.edit("search", SETTINGS | {"budget": LONG})
    whole = search.run(searched.path, Ask(name="whole"))
    driver = started(searched, "--name", "cut", STANDIN_S="0.2")
    wait_for_answers(searched, 5, "cut")
    driver.kill()
    driver.communicate()
    before = answers_of(searched, "cut")
    assert 5 <= len(before) < LONG["trials"]
    resumed = search.run(searched.path, Ask(name="cut", resume=True))
    assert proposals_of(searched, "cut") == proposals_of(searched, "whole")
    assert answers_of(searched, "cut") == answers_of(searched, "whole")
    assert [row.values for row in resumed.front] == [row.values for row in whole.front]
    assert resumed.best.steps == whole.best.steps
    lost = requests_of(searched, "cut") - requests_of(searched, "whole")
    assert 0 <= lost <= SETTINGS["workers"]


CUTS = [  # what is left of a finished journal: so many whole lines, and so much of the next
    (0, 0.0),
    (0, 0.5),
    (1, 0.5),
    (4, 0.99),
    (9, 0.3),
]


@pytest.mark.parametrize(("lines", "part"), CUTS)
def test_a_journal_cut_in_the_middle_of_a_line_goes_on_from_the_last_whole_one(searched, lines, part):
    search.run(searched.path, Ask())
    path = journal_of(searched)
    proposals, answers = proposals_of(searched), answers_of(searched)
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:lines]) + whole[lines][: int(part * len(whole[lines]))])
    record = search.run(searched.path, Ask(resume=True))
    assert record.trials == 8
    assert proposals_of(searched) == proposals
    assert answers_of(searched) == answers


DAMAGES = [  # the number of a line, what becomes of it, what is said
    (2, b'{"event": "asked", "number": 0\n', r"journal\.jsonl:3: expected an event of a search, got .*damaged"),
    (3, b"\x00\x00\x00\n", r"journal\.jsonl:4: expected an event of a search"),
    (2, b"", r"journal\.jsonl: trial 1: expected the genome that the searcher proposes"),
    (0, b"no header\n", r"journal\.jsonl:1: expected the first line of a journal, got 'no header"),
]


@pytest.mark.parametrize(("line", "text", "said"), DAMAGES)
def test_a_journal_damaged_in_the_middle_is_refused_and_left_as_it_is(searched, line, text, said):
    search.run(searched.path, Ask())
    path = journal_of(searched)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = text
    path.write_bytes(b"".join(lines))
    with pytest.raises(SearchError, match=said):
        search.run(searched.path, Ask(resume=True))
    assert path.read_bytes() == b"".join(lines)


def test_a_second_driver_on_one_journal_is_refused(searched):
    first = started(searched, STANDIN_S="600")
    try:
        until = time.monotonic() + PATIENCE_S
        while not journal_of(searched).exists() and time.monotonic() < until:
            time.sleep(0.02)
        second = started(searched)
        _, said = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 2
        assert "another search holds this journal since" in said
        assert f"process {first.pid}" in said
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def test_ctrl_c_ends_with_the_best_so_far(searched):
    searched.edit("search", SETTINGS | {"budget": LONG})
    driver = started(searched, STANDIN_S="1")
    wait_for_answers(searched, 5)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 130
    assert "stopping with the best so far" in said
    # What had an answer counts: a trial's own, or that of an earlier one with the same chain.
    assert 5 <= Recipe.read(searched.path / "recipes" / "found.yaml").provenance.trials < LONG["trials"]
    assert search.run(searched.path, Ask(resume=True)).trials == LONG["trials"]


def test_limits_that_nothing_meets_end_with_the_nearest_miss(searched):
    driver = started(searched, STANDIN_MOST_BYTES="100")
    driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 1
    assert not (searched.path / "recipes" / "found.yaml").exists()
    nearest = Recipe.read(searched.path / "recipes" / "found.nearest_miss.yaml")
    figures = [answer["figures"]["size_bytes"] for answer in answers_of(searched).values()]
    assert nearest.provenance.validation["size_bytes"] == min(figures)
    assert nearest.provenance.distances["size"] == pytest.approx(min(figures) / 100 - 1)


SPACES = [  # what is declared, every problem of it
    ([], [r"search\.space: expected at least one slot, got none"]),
    (
        [
            {"method": "structured_pruning", "pruning_ratio": {"low": 0.7, "high": 0.1}},
            {"method": "no_such_method"},
            {"method": "weight_only_quantization", "bits": []},
            {"method": "structured_pruning", "pruning_ratio": [0.5, 1.5]},
        ],
        [r"space\.0.*expected low under high", r"no_such_method", r"space\.2.*got \[\]"],
    ),
    ([{"method": "structured_pruning", "pruning_ratio": [0.5, 1.5]}], [r"space\.0.*pruning_ratio.*1\.5"]),
]


@pytest.mark.parametrize(("space", "problems"), SPACES)
def test_an_empty_or_contradictory_space_is_refused_with_every_problem(searched, space, problems):
    searched.edit("search.space", space)
    with pytest.raises(ParamsError) as told:
        search.run(searched.path, Ask())
    for problem in problems:
        assert re.search(problem, str(told.value)), told.value
    assert told.value.exit_code == 2
    assert not journal_of(searched).exists()


CHANGES = [  # what changes between the kill and the resumption, what is named
    (lambda suite: suite.edit("gate.rules.size.max", 90_000), "rules"),
    (lambda suite: suite.append("\nMORE = 1\n"), "code or data"),
    (lambda suite: suite.edit("search.seed", 5), "search settings"),
    (lambda suite: suite.edit("search.space", SPACE[:2]), "space"),
    (lambda suite: suite.edit("train.epochs", 3), "task"),
    (lambda suite: retrain(suite), "reference"),
]


def retrain(suite):
    suite.edit("train.seed", 9)
    train.run(suite.path)


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=[named for _, named in CHANGES])
def test_what_changed_between_a_kill_and_the_resumption_is_named(searched, change, named):
    search.run(searched.path, Ask(trials=4))
    change(searched)
    with pytest.raises(SearchError, match=rf"expected the journal of this very search, got one with other .*{named}"):
        search.run(searched.path, Ask(resume=True))


def test_trials_that_misbehave_are_recorded_and_never_end_a_search(searched, monkeypatch):
    monkeypatch.setenv("STANDIN_DEEDS", "exit,,hang,garbage,,no figure,kill,")
    searched.edit("search.trial_timeout_s", 3.0)
    record = search.run(searched.path, Ask(trials=12, searcher="random"))
    assert record.trials == 12
    assert record.best is not None
    with (searched.path / "reports" / "search" / "trials.csv").open(encoding="utf-8") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert {reason.partition(":")[0] for reason in reasons if reason} >= {"crashed", "hangs"}
    assert record.failed >= sum(map(bool, reasons)) > 0


def test_a_search_of_which_no_trial_succeeds_says_so(searched, monkeypatch):
    monkeypatch.setenv("STANDIN_DEEDS", "exit")
    searched.edit("search.space", [{**slot, "optional": False} for slot in SPACE])
    record = search.run(searched.path, Ask(trials=4))
    assert (record.failed, record.best, record.nearest) == (4, None, None)
    assert search.code_of(record) == 4


def test_a_reference_that_cannot_be_measured_ends_the_search_before_it_begins(searched, monkeypatch):
    monkeypatch.setenv("STANDIN_END", "1")
    with pytest.raises(SearchError, match=r"the reference as it ships cannot be measured: .*expected a reference"):
        search.run(searched.path, Ask())
