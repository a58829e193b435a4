"""`junit.xml`: every check as a test case, for whatever lists test results."""

from __future__ import annotations

from xml.etree import ElementTree

from compression_gate.gate.policy import blocks, table_of
from compression_gate.records.verdict import Check
from compression_gate.reporters import wording
from compression_gate.reporters.base import Findings

TAGS = {"error": "error", "fail": "failure", "undecided": "failure", "waived": "failure"}


def rendered(findings: Findings) -> str:
    """The verdict as JUnit's XML; what neither passes nor blocks under the policy is skipped, with its reason."""
    verdict = findings.verdict
    table = table_of(verdict.policy, findings.params.gate.policies)
    suite = ElementTree.Element("testsuite", name=wording.harmless(findings.suite))
    counts = {"tests": len(verdict.checks), "failures": 0, "errors": 0, "skipped": 0}
    for check in wording.ordered(verdict.checks):
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"compression_gate.{wording.harmless(findings.suite)}", name=name_of(check)
        )
        if check.status != "pass":
            tag = TAGS[check.status] if blocks(check, table) else "skipped"
            counts[{"error": "errors", "failure": "failures"}.get(tag, tag)] += 1
            case.append(outcome(tag, check, findings))
    for name, count in counts.items():
        suite.set(name, str(count))
    whole = ElementTree.Element("testsuites", {"name": "compression_gate", **{k: str(v) for k, v in counts.items()}})
    whole.append(suite)
    ElementTree.indent(whole)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(whole, encoding="unicode") + "\n"


def name_of(check: Check) -> str:
    """Rule and slice."""
    return wording.harmless(wording.name_of(check))


def outcome(tag: str, check: Check, findings: Findings) -> ElementTree.Element:
    """Why a check does not pass, and what to do."""
    said = check.message if check.observed is None else wording.reading(check)
    level = "" if check.level == "block" else f", level {check.level}"
    message = wording.harmless(f"{wording.TITLES[check.status]}{level}: {wording.first_line(said)}")
    element = ElementTree.Element(tag, message=message)
    if tag != "skipped":
        element.set("type", check.reason or check.status)
    lines = [f"interval {wording.interval_of(check)}, limit {wording.limit_of(check)}, n {check.n or wording.NOTHING}"]
    let_pass = check.status == "waived" and tag == "skipped"
    lines += [] if let_pass else [wording.step_for(check, findings.rule_lines)]
    lines += [f"waived until {check.waiver.expires}: {check.waiver.reason}"] if check.waiver else []
    element.text = wording.harmless("\n".join(lines))
    return element
