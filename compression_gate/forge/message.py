"""What is said about one suite, the same on every forge: a comment, a check, and notes at the rules' lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from compression_gate import __version__
from compression_gate.errors import CompressionGateError
from compression_gate.forge.disarming import disarmed, disarmed_record, line, walked
from compression_gate.records.params import FILE_NAME, Params
from compression_gate.records.verdict import Check
from compression_gate.reporters import wording
from compression_gate.reporters.base import Findings
from compression_gate.reporters.markdown import EMOJI, escaped, rendered

LONGEST_COMMENT = 65_536  # characters of a comment, as GitHub counts them
LONGEST_TEXT = 65_535  # of a check run's summary and text
LONGEST_TITLE = 255
LONGEST_NOTE = 4_000  # of an annotation: its limit is 64 KB, and nobody reads a screen of it
MOST_SLICES = 8  # named in one annotation
CUT = "\n\n*The rest is left out: this is longer than a forge takes. It is whole in `reports/report.md`.*\n"
AnnotationLevel = Literal["failure", "warning", "notice"]


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A note at one line of a file."""

    path: str
    line: int
    level: AnnotationLevel
    title: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a verdict comes from, for the last line of a comment.

    Args:
        sha: the commit that was judged; run_url: of the job.
        foreign: a job of somebody else's repository measured it, with code that nobody here has reviewed.
    """

    sha: str | None = None
    run_url: str | None = None
    foreign: bool = False


@dataclass(frozen=True, kw_only=True)
class Message:
    """All that is said about one suite.

    Args:
        headline: the verdict in a line; counts: how many checks came out how; body: the report, as Markdown.
    """

    suite: str
    status: str
    exit_code: int
    headline: str
    counts: str
    body: str
    annotations: tuple[Annotation, ...] = ()
    origin: Origin = Origin()

    @property
    def marker(self) -> str:
        """What a suite's comment begins with, and how it is found again; whatever the name, it is one HTML comment."""
        return f"<!-- compression-gate suite {identity(self.suite)} -->"

    @property
    def conclusion(self) -> Literal["success", "failure"]:
        """Of the check run. GitHub counts `neutral` and `skipped` as passed: what could not be judged is a failure."""
        return "success" if self.exit_code == 0 else "failure"

    @property
    def comment(self) -> str:
        """The whole comment."""
        end = f"\n\n---\n<sub>{last_line(self.origin)}</sub>\n"
        return shortened(f"{self.marker}\n{self.body.rstrip()}", LONGEST_COMMENT - units(end)) + end

    @property
    def output(self) -> dict[str, str]:
        """Title, summary and text of a check run."""
        return {
            "title": line(self.headline, LONGEST_TITLE),
            "summary": shortened(f"Suite **{escaped(self.suite)}**: {escaped(self.counts)}.", LONGEST_TEXT),
            "text": shortened(self.body, LONGEST_TEXT),
        }


def identity(suite: str) -> str:
    """Sixteen hexadecimal digits that stand for a suite's name."""
    return hashlib.sha256(suite.encode()).hexdigest()[:16]


def message_of(findings: Findings, problems: Sequence[str] = (), origin: Origin = Origin()) -> Message:
    """Say what a verdict says.

    Args:
        problems: why the verdict may not be believed; they come first.

    Raises:
        CompressionGateError: the records contradict each other so that no report can be made of them.
    """
    try:
        safe = without_effect(findings)
        body, headline = rendered(safe), wording.headline(safe, safe.verdict.status)
        notes = annotations_of(safe)
    except Exception as error:  # records of somebody else may be valid each and make no sense together
        raise CompressionGateError(f"the report cannot be made: {type(error).__name__}: {line(str(error))}") from error
    verdict = safe.verdict
    if problems:
        headline = f"{wording.TITLES['error']}. {line(problems[0])}"
        body = unbelieved(problems) + body
    return Message(
        suite=safe.suite,
        status=verdict.status,
        exit_code=verdict.exit_code,
        headline=headline,
        counts=f"{wording.counts_of(verdict)}; policy {verdict.policy}, exit code {verdict.exit_code}",
        body=body,
        annotations=notes,
        origin=origin,
    )


def refusal(suite: str, reason: str, exit_code: int, origin: Origin = Origin()) -> Message:
    """Say that there is no verdict that could be shown, and why."""
    text, name = line(reason, 1000), line(suite, 100)
    headline = f"{wording.TITLES['error']}. There is no verdict to show."
    body = f"# {EMOJI['error']} {headline}\n\nSuite **{escaped(name)}**: {escaped(text)}\n"
    return Message(
        suite=name,
        status="error",
        exit_code=exit_code,
        headline=headline,
        counts=line(reason),
        body=body,
        origin=origin,
    )


def without_effect(findings: Findings) -> Findings:
    """The findings with every text in them disarmed."""
    params = Params.model_validate_json(walked_params(findings.params))
    optional = ("compression", "evaluation", "benchmark", "sensitivity")
    records = {name: disarmed_record(one) for name in optional if (one := getattr(findings, name)) is not None}
    return replace(
        findings,
        suite=line(findings.suite, 100),
        folder=line(findings.folder, 500),
        params=params,
        verdict=disarmed_record(findings.verdict),
        rule_lines={disarmed(rule): number for rule, number in findings.rule_lines.items()},
        adoptions=tuple(disarmed(text) for text in findings.adoptions),
        **records,
    )


def walked_params(params: Params) -> str:
    """Params as JSON, what the report may show of them disarmed: the rules and the steps.

    What a model is called with may be anything, and is not shown.
    """
    plain = params.as_dict()
    return json.dumps({**plain, "gate": walked(plain["gate"]), "compress": walked(plain["compress"])})


def unbelieved(problems: Sequence[str]) -> str:
    """What stands above a report that may not be believed."""
    lines = "\n".join(f"> - {escaped(line(text, 500))}" for text in problems[:20])
    return f"> {EMOJI['error']} **What follows may not be believed:**\n{lines}\n\n"


def annotations_of(findings: Findings) -> tuple[Annotation, ...]:
    """One note for each rule that does not pass, at its line of `params.yaml`, most urgent first."""
    by_rule: dict[str, list[tuple[Check, str]]] = {}
    for check, text in wording.next_steps(findings.verdict, findings.rule_lines):
        by_rule.setdefault(check.rule, []).append((check, text))
    folder = "" if findings.folder in (".", "") else findings.folder.rstrip("/") + "/"
    return tuple(
        Annotation(
            path=folder + FILE_NAME,
            line=max(1, findings.rule_lines.get(rule, 1)),
            level=level_of(steps[0][0]),
            title=line(f"{findings.suite}: {rule}: {wording.TITLES[steps[0][0].status].lower()}", LONGEST_TITLE),
            message=note_of(steps),
        )
        for rule, steps in by_rule.items()
    )


def level_of(worst: Check) -> AnnotationLevel:
    """How loud a rule's note is: by its worst check, and only as loud as the rule itself."""
    if worst.level == "info":
        return "notice"
    return "failure" if worst.level == "block" and worst.status in ("fail", "error") else "warning"


def note_of(steps: Sequence[tuple[Check, str]]) -> str:
    """What to do about a rule: a line for each of its slices, the first few."""
    told = list(dict.fromkeys(f"{wording.name_of(check)}: {text}" for check, text in steps))
    shown = [line(one, 500) for one in told[:MOST_SLICES]]
    if len(told) > len(shown):
        shown.append(f"and {len(told) - len(shown)} more")
    return "\n".join(shown)[:LONGEST_NOTE]


def last_line(origin: Origin) -> str:
    """Which commit, which job, which version; and whose code measured."""
    parts = []
    if origin.sha:
        parts.append(f"commit {origin.sha[:10]}")
    if origin.run_url:
        parts.append(f'<a href="{origin.run_url}">job</a>')
    if origin.foreign:
        parts.append("measured by the pull request's own code, which nobody here need have reviewed")
    return " · ".join([*parts, f"compression_gate {__version__}"])


def units(text: str) -> int:
    """Length as forges count it: an emoji counts for two."""
    return len(text.encode("utf-16-le")) // 2


def shortened(text: str, longest: int) -> str:
    """A text of at most so many characters, cut between paragraphs that stand outside of folded parts and fences."""
    if units(text) <= longest:
        return text
    kept = ""
    whole = ""
    for part in text.split("\n\n"):
        kept = f"{kept}\n\n{part}" if kept else part
        if units(kept) + units(CUT) > longest:
            break
        if kept.count("<details>") == kept.count("</details>") and kept.count("```") % 2 == 0:
            whole = kept
    return whole + CUT
