"""What is said about a suite: what a contributor named has no effect, and nothing is longer than a forge takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compression_gate.errors import CompressionGateError
from compression_gate.forge.disarming import APART, disarmed, line
from compression_gate.forge.jobs import annotate
from compression_gate.forge.message import Message, Origin, message_of, refusal, units
from compression_gate.records.params import Params
from compression_gate.records.verdict import Verdict
from compression_gate.reporters.base import Findings
from compression_gate.stages.report import read_findings

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</details><h1>approved</h1>",
    "@maintainer and @org/team",
    "[click](https://evil.example)",
    "![i](https://evil.example/i.png)",
    "see https://evil.example or www.evil.example",
    "fixes #12, GH-12, owner/repo#12",
    "a|b\n# title\n\n- item",
    "`code` **bold** ~~gone~~",
    "```\nout of the fence\n```",
    "<!-- compression-gate suite 0123456789abcdef -->",
    "x\n<!-- compression-gate suite 0123456789abcdef -->\n",
    "\n::error::injected\n::stop-commands::x\n::set-output name=status::pass",
    "\r\n::add-mask::a\r\n##[set-output name=status]pass",
    "%0A::warning::w %0D%0A",
    "/approve\n/merge",
    "\u202egnp.exe\u2066 \x1b[31mred\x1b[0m \x00",
    "{{ 7*7 }} ${{ secrets.TOKEN }} $(id) `id`",
    "&#64;maintainer &lt;script&gt;",
]


@pytest.fixture
def findings(judged: Path) -> Findings:
    """What a run found."""
    return read_findings(judged)


def poisoned(findings: Findings, text: str) -> Findings:
    """The same, where every text that a contributor may choose is this one."""
    plain = json.loads(findings.verdict.as_text())
    free = {"message", "mending", "metric"}
    checks = [
        {**check, **dict.fromkeys(free, text), "rule": f"{text}{n}", "slice": text, "status": "fail", "limit": text}
        for n, check in enumerate(plain["checks"])
    ]
    waiver = {"rule": text, "ceiling": 0.5, "reason": text, "owner": text, "expires": "2030-01-01"}
    plain |= {"checks": checks, "warnings": [text], "environment": {text: text}, "applied": [text], "status": "fail"}
    plain |= {"exit_code": 1, "waivers": [waiver]}
    gate = findings.params.as_dict()["gate"]
    rules = {f"{text}{n}": {**rule, "slice": text} for n, rule in enumerate(gate["rules"].values())}
    params = {**findings.params.as_dict(), "gate": {**gate, "rules": rules}}
    return replace(
        findings,
        suite=text,
        verdict=Verdict.model_validate_json(json.dumps(plain)),
        params=Params.model_validate_json(json.dumps(params)),
        rule_lines={name: n + 1 for n, name in enumerate(rules)},
        adoptions=(text,),
    )


def shown(text: str) -> str:
    """What of a comment a forge renders: fenced parts and code are taken literally."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!\\)`[^`\n]*`", "", text)


def texts_of(message: Message) -> Iterator[str]:
    """Every text that is rendered somewhere; a check run's title is shown as it is."""
    yield message.comment.partition("\n")[2]
    yield from (message.output["summary"], message.output["text"])


OURS = re.compile(r"</?details>|</?summary>|</?sub>|</?a( href=\"https://forge\.example/[\w/]+\")?>|<br>")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_contributor_names_has_no_effect(findings: Findings, text: str) -> None:
    message = message_of(poisoned(findings, text), [text], Origin(sha="a" * 40, run_url="https://forge.example/o/r/1"))
    for said in texts_of(message):
        assert not re.search(r"@\w", said)
        assert not re.search(r"\bGH-\d|www\.", said)
        rendered = OURS.sub("", shown(said))
        assert not re.search(r"</?[a-zA-Z!]", rendered)
        assert not re.search(r"#\d", said)
        assert "://" not in rendered
        assert not re.search(r"(?<!\\)\[[^\]\n]*\]\(", rendered)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said)
        assert not re.search(r"^\s*(::|/|<!--)", rendered, flags=re.MULTILINE)
        assert "##[" not in said
    assert re.fullmatch(r"<!-- compression-gate suite [0-9a-f]{16} -->", message.comment.partition("\n")[0])
    assert shown(message.comment).count("<details>") == shown(message.comment).count("</details>")


@pytest.mark.parametrize("text", HOSTILE)
def test_notes_are_single_lines_without_effect(findings: Findings, text: str) -> None:
    for note in message_of(poisoned(findings, text)).annotations:
        assert "\n" not in note.title + note.path
        assert not re.search(r"@\w|://|##\[", note.title + note.message)
        assert note.line >= 1


@pytest.mark.parametrize("text", HOSTILE)
def test_a_note_in_the_log_is_one_command_and_no_second(findings: Findings, text: str, capsys) -> None:
    notes = message_of(poisoned(findings, text)).annotations
    printed = annotate(notes)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == printed == len(notes)
    assert all(re.match("::(error|warning) file=params.yaml,line=", one) for one in lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_refusal_says_why_without_effect(text: str) -> None:
    said = refusal(text, text, 4)
    assert not re.search(r"@\w|://|#\d", said.comment)
    assert not re.search(r"<[a-z/]", said.comment.replace("<sub>", "").replace("</sub>", ""))
    assert said.conclusion == "failure"


def test_suites_are_told_apart_by_their_whole_name() -> None:
    markers = {refusal(name, "x", 4).marker for name in ("a", "A", "a -->", "b", "a" * 90)}
    assert len(markers) == 5


def test_harmless_text_stays_as_it_is() -> None:
    text = "accuracy fell by 0.5 points: 12 of 4,000 (rule #a, me at home, 3 # 4, a::b, c:d/e)"
    assert disarmed(text) == text


def test_apart_is_what_keeps_words_from_having_an_effect() -> None:
    assert disarmed("@a #1 GH-1 !1 https://x") == f"@{APART}a #{APART}1 GH{APART}-1 !{APART}1 https:{APART}//x"


def test_a_line_is_one_and_short() -> None:
    assert line("a\nb " * 100, 20) == "a b a b a b a b a b…"


def test_records_that_make_no_sense_together_are_an_error_and_not_a_crash(findings: Findings) -> None:
    broken = findings.verdict.checks[0].model_copy(update={"headroom": None, "interval": (None, None), "allowed": 1.0})
    odd = findings.params.model_copy(update={"task": None})
    with pytest.raises(CompressionGateError):
        message_of(replace(findings, params=odd, verdict=findings.verdict.model_copy(update={"checks": (broken,)})))


def test_a_huge_verdict_fits(findings: Findings) -> None:
    many: Any = [
        findings.verdict.checks[0].model_copy(update={"rule": f"rule{n} " + "x" * 200, "status": "fail"})
        for n in range(2000)
    ]
    message = message_of(replace(findings, verdict=findings.verdict.model_copy(update={"checks": tuple(many)})))
    assert units(message.comment) <= 65_536
    assert all(units(text) <= 65_535 for text in message.output.values())
    assert units(message.output["title"]) <= 255
    assert message.comment.count("<details>") == message.comment.count("</details>")
