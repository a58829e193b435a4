"""`junit.xml`: what blocks is a failure or an error, what does not is skipped with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compression_gate.records.verdict import Check
from compression_gate.reporters import junit
from compression_gate.stages import gate
from compression_gate.stages.report import read_findings

CASES = [  # status, level, policy -> the element
    ("pass", "block", "pull_request", None),
    ("fail", "block", "pull_request", "failure"),
    ("fail", "warn", "pull_request", "skipped"),
    ("undecided", "block", "pull_request", "skipped"),
    ("undecided", "block", "release", "failure"),
    ("undecided", "warn", "release", "skipped"),
    ("error", "block", "pull_request", "error"),
    ("error", "warn", "pull_request", "error"),
    ("error", "info", "release", "skipped"),
    ("waived", "block", "pull_request", "skipped"),
    ("waived", "block", "release", "failure"),
]


def rendered(finished: Path, *checks: Check, policy: str = "pull_request") -> ElementTree.Element:
    gate.run(finished)
    findings = read_findings(finished)
    verdict = findings.verdict.model_copy(update={"checks": checks, "policy": policy})
    return ElementTree.fromstring(junit.rendered(replace(findings, verdict=verdict)))


@pytest.mark.parametrize(("status", "level", "policy", "tag"), CASES)
def test_element_follows_what_the_policy_blocks(finished: Path, status, level, policy, tag) -> None:
    check = Check(
        rule="size", metric="size_bytes", status=status, level=level, observed=3.0, limit="max 2", allowed=2.0
    )
    whole = rendered(finished, check, policy=policy)
    (case,) = whole.iter("testcase")
    assert [element.tag for element in case] == ([tag] if tag else [])
    counts = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    expected = {name: str(int(counts.get(tag) == name)) for name in counts.values()} | {"tests": "1"}
    (suite,) = whole.iter("testsuite")
    assert {name: suite.get(name) for name in expected} == expected


def test_failure_says_by_how_much_and_what_to_do(finished: Path) -> None:
    check = Check(
        rule="size", metric="size_bytes", status="fail", observed=3.0, limit="max 2", allowed=2.0, headroom=-1.0
    )
    (failure,) = rendered(finished, check).iter("failure")
    assert failure.get("message") == "Fail: size_bytes is 3 bytes; ≤ 2 is allowed"
    assert "Lower size_bytes by 1 bytes" in failure.text
    assert "params.yaml:" in failure.text


def test_names_that_no_xml_may_hold_are_written_harmlessly(finished: Path) -> None:
    names = "a\x00\x1b[31m<b>&\ud800\uffff"
    check = Check(rule=names, metric="size_bytes", status="error", message=names, mending=names)
    (case,) = rendered(finished, check).iter("testcase")
    assert case.get("name") == "a[31m<b>&"
