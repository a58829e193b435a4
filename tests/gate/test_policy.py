"""The policy table: which statuses block, at which level, under which words."""

from __future__ import annotations

import pytest

from compression_gate.errors import ParamsError
from compression_gate.gate.policy import decide
from compression_gate.records.verdict import Check

TABLE = [  # status, level, policy, exit code
    ("pass", "block", "pull_request", 0),
    ("fail", "block", "pull_request", 1),
    ("fail", "warn", "pull_request", 0),
    ("undecided", "block", "pull_request", 0),
    ("undecided", "block", "release", 3),
    ("undecided", "warn", "release", 0),
    ("error", "block", "pull_request", 4),
    ("error", "warn", "pull_request", 4),
    ("error", "info", "release", 0),
    ("waived", "block", "pull_request", 0),
    ("waived", "block", "release", 1),
]


def one(status: str, level: str = "block") -> Check:
    return Check(rule="r", metric="accuracy", status=status, level=level)


@pytest.mark.parametrize(("status", "level", "policy", "code"), TABLE)
def test_table(status: str, level: str, policy: str, code: int) -> None:
    assert decide([one(status, level)], policy).exit_code == code


def test_the_worst_of_error_fail_undecided_pass_decides() -> None:
    checks = [one("pass"), one("undecided"), one("fail"), one("error")]
    assert [decide(checks[:last], "release").exit_code for last in (1, 2, 3, 4)] == [0, 3, 1, 4]


def test_what_does_not_block_is_a_warning() -> None:
    decision = decide([one("fail", "warn"), one("pass")], "pull_request")
    assert [check.status for check in decision.warnings] == ["fail"]


def test_an_override_makes_undecided_block() -> None:
    assert decide([one("undecided")], "pull_request", {"pull_request": {"undecided": "block"}}).exit_code == 3


BAD = [
    ({"pull": {}}, "gate.policies.pull: expected one of pull_request, release"),
    ({"release": {"error": "warn"}}, "error always"),
    ({"release": {"fail": "no"}}, "block or warn"),
    ({"release": 3}, "mapping"),
]


@pytest.mark.parametrize(("overrides", "named"), BAD)
def test_a_bad_override_is_refused(overrides: dict, named: str) -> None:
    with pytest.raises(ParamsError, match=named):
        decide([], "pull_request", overrides)
