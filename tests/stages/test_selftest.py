"""`selftest`: what it finds is told, and a gate that is silent about damage ends with 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compression_gate.records.selftest import Claim, Damage, SelfTest
from compression_gate.reporters import selftest as reporter
from compression_gate.selftest.finished_run import write_recorded
from compression_gate.selftest.mutations import ONLY_CHECKED, Mutation
from compression_gate.stages import gate, selftest

CLAIM = Claim(text="false fails", limit=0.01, observed=0.0, low=0.0, high=0.03, n=160, events=0)
CAUGHT = Damage(
    name="metric deleted", entry="a metric deleted", exit_code=4, expected_code=4, expected="missing", said="missing: x"
)
HELD = [  # direction, limit, low, high, held
    ("at most", 0.01, 0.0, 0.03, True),
    ("at most", 0.01, 0.011, 0.03, False),
    ("at least", 0.9, 0.85, 0.93, True),
    ("at least", 0.9, 0.7, 0.89, False),
    ("at most", None, 1.0, 1.0, True),
]


@pytest.mark.parametrize(("direction", "limit", "low", "high", "held"), HELD)
def test_a_claim_falls_only_where_its_whole_interval_is_beyond_it(
    direction: str, limit: float | None, low: float, high: float, held: bool
) -> None:
    claim = {"text": "x", "direction": direction, "limit": limit, "observed": low, "low": low, "high": high, "n": 9}
    assert Claim.model_validate(claim).held is held


UNCAUGHT = [{"exit_code": 0}, {"exit_code": 1}, {"said": "something else"}, {"stale_code": 0}]


@pytest.mark.parametrize("change", UNCAUGHT)
def test_damage_is_caught_by_its_code_its_words_and_by_check_alone(change: dict) -> None:
    assert CAUGHT.held
    assert not CAUGHT.model_copy(update=change).held


def test_a_mutation_that_changes_nothing_is_told_and_ends_with_one(tmp_path: Path) -> None:
    suite = write_recorded(tmp_path / "suite")
    gate.run(suite)
    nothing = Mutation(entry="a metric deleted", change=lambda _: None, expected="missing", words=ONLY_CHECKED)
    found = selftest.damaged("nothing at all", nothing, suite)
    assert (found.exit_code, found.held) == (0, False)
    whole = SelfTest(full=False, claims=(CLAIM,), mutations=(CAUGHT, found), left_out={"x": "torch"}, seconds=1)
    assert whole.exit_code == 1
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        console.print(reporter.report(whole))
    text = capture.get()
    assert "does not keep its word: 0 of 1 claims, 1 mutations not caught" in text
    assert "nothing at all: expected exit code 4, got 0" in text
    assert "1 need torch" in text


def test_json_says_what_held() -> None:
    whole = SelfTest(full=True, claims=(CLAIM,), mutations=(CAUGHT,), seconds=1)
    told = json.loads(reporter.as_json(whole, None))["gate"]
    assert (told["exit_code"], told["claims"][0]["held"], told["mutations"][0]["held"]) == (0, True, True)


@pytest.mark.slow
def test_the_gate_keeps_its_word() -> None:
    """As `compression-gate selftest --gate` says it."""
    found = selftest.run()
    assert [one.text for one in found.claims if not one.held] == []
    assert [one.name for one in found.mutations if not one.held] == []
    assert found.exit_code == 0
    assert found.left_out
