"""`gate` binds a verdict to the very files it read, and says where it could not."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from finished_run import finished

from compression_gate.records.base import write_text
from compression_gate.records.params import read_params
from compression_gate.selftest import finished_run
from compression_gate.stages import check, gate

__all__ = ["finished"]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A finished run with all that `run` itself writes."""
    return finished_run.write_recorded(tmp_path / "recorded")


@pytest.mark.parametrize("name", ["reports/evaluation.json", "waivers.yaml", ".compression_gate/sources.json"])
def test_a_file_that_changes_while_it_is_read_makes_the_verdict_stale(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Bound to the new file, the verdict of the old one would be believed."""
    read = gate.read_facts

    def overtaken(*args: Any) -> Any:
        facts = read(*args)
        path = recorded / name
        write_text(path, path.read_text() + "\n" if name.startswith("reports") else "[]" if name[0] == "w" else "{}")
        return facts

    assert gate.run(recorded).status == "pass"
    monkeypatch.setattr(gate, "read_facts", overtaken)
    verdict = gate.run(recorded)
    assert (verdict.status, verdict.exit_code) == ("error", 4)
    assert [one.reason for one in verdict.checks if one.status == "error"] == ["stale"]
    assert name in next(one.message for one in verdict.checks if one.status == "error")
    assert check.check(recorded, "pull_request").exit_code == 4


def test_a_lost_list_of_sources_is_stale_and_no_proof_that_none_changed(recorded: Path) -> None:
    (recorded / ".compression_gate/sources.json").unlink()
    verdict = gate.run(recorded)
    assert [(one.rule, one.reason) for one in verdict.checks if one.status == "error"] == [("record sources", "stale")]
    assert check.check(recorded, "pull_request").exit_code == 4


def test_a_verdict_reached_where_nothing_ever_ran_says_that_no_source_is_bound(finished: Path) -> None:
    """Stages called by hand, without `run`, work too."""
    (finished / ".compression_gate/sources.json").unlink(missing_ok=True)
    verdict = gate.run(finished)
    assert verdict.status == "pass"
    outcome = check.check(finished, "pull_request")
    assert outcome.exit_code == 0
    assert outcome.verdict is not None
    for one in (verdict, outcome.verdict):
        assert any("bound to no source file" in text for text in one.warnings)


def test_a_suite_without_sources_of_its_own_is_not_warned_of(recorded: Path) -> None:
    write_text(recorded / ".compression_gate/sources.json", "{}")
    assert not any("bound to" in text for text in gate.run(recorded).warnings)


@pytest.mark.parametrize("module", [gate, check])
def test_the_day_is_the_same_wherever_it_is_judged(
    finished: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    """Between these zones lie 26 hours, so that their own days always differ: a waiver would end twice."""
    days, read = set(), module.read_waivers
    monkeypatch.setattr(
        module, "read_waivers", lambda *args, **named: (days.add(named["today"]), read(*args, **named))[1]
    )
    for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        gate.run(finished)
        check.check(finished, "pull_request")
    monkeypatch.undo()
    time.tzset()
    assert len(days) == 1


def test_check_tells_a_damaged_history_whatever_the_verdict_speaks_of(recorded: Path) -> None:
    """A waiver may end with a release, and nobody can say which there are."""
    crash = {"stage": "train", "exit_code": 3, "message": "x"}
    gate.crashed_verdict(recorded, read_params(recorded), crash)
    assert check.check(recorded, "pull_request").exit_code == 3
    (recorded / ".compression_gate/history.json").write_text("{")
    outcome = check.check(recorded, "pull_request")
    assert outcome.exit_code == 4
    assert "history.json" in outcome.problems[0]
