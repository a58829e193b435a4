"""`report.md`: what a reviewer reads on the forge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from compression_gate.gate.policy import told
from compression_gate.records.verdict import Check
from compression_gate.reporters import sensitivity, wording
from compression_gate.reporters.base import Findings

EMOJI = {"pass": "✅", "fail": "❌", "undecided": "🟡", "error": "🛑", "waived": "☑️"}
CHECK_HEAD = (
    "check",
    "metric",
    "held against",
    "compared to",
    "this commit",
    "change",
    "interval",
    "limit",
    "n",
    "would catch",
)
CHECK_ALIGN = "lllrrrrrrr"
LONGEST = 60_000  # forges cut comments at 65,536 characters
CUT = "\n\n*The rest is left out: the report is longer than a comment may be. It is whole in `reports/report.md`.*\n"


def rendered(findings: Findings) -> str:
    """The report as Markdown."""
    verdict = findings.verdict
    parts = [
        f"# {EMOJI[verdict.status]} {escaped(wording.headline(findings, verdict.status))}",
        f"Suite **{escaped(findings.suite)}**: {wording.counts_of(verdict)}; policy `{verdict.policy}`, "
        f"exit code {verdict.exit_code}.",
        bullets(wording.waiver_lines(findings)),
        *todo(findings),
        *check_section(findings),
        escaped(wording.trade_off_line(verdict)),
        *section("Models", table(*wording.model_table(findings))),
        *section("What each step did", table(*wording.step_table(findings))),
        *details("Which step caused what", bullets(wording.attribution_lines(findings))),
        *details("How the chain was chosen", bullets(wording.choice_lines(findings))),
        *details("What each layer bears", sensitivities(findings)),
        *details("Training inside the steps", bullets(wording.training_lines(findings))),
        *details("Worst slices", bullets(wording.worst_slices(verdict))),
        *details("Passing checks", check_table([check for check in verdict.checks if check.status == "pass"])),
        *details("Timing", bullets(wording.timing_lines(findings))),
        *details("Layers left as they were", bullets(wording.uncovered_lines(findings))),
        *details("Rules, expanded", fenced(wording.rule_lines(findings))),
        *details("How it was judged", bullets(judging(findings))),
        *details("Environment", environment(findings)),
        "Again on your machine: `compression-gate run && compression-gate check`",
    ]
    return shortened([part for part in parts if part])


def sensitivities(findings: Findings) -> str:
    """The tables by which budgets were spread."""
    tables = [one for step in (findings.compression.steps if findings.compression else ()) for one in step.sensitivity]
    parts = [
        part
        for one in tables
        for part in (
            escaped(sensitivity.headline(one)),
            *(
                f"**{escaped(title)}**\n\n{table(names, [list(row) for row in rows])}"
                for title, names, rows in sensitivity.grids(one)
            ),
            bullets(sensitivity.reasons(one)),
        )
    ]
    return "\n\n".join(part for part in parts if part)


def judging(findings: Findings) -> list[str]:
    """The policy as it was applied, how often the test data were asked, and the seed."""
    verdict = findings.verdict
    seed = [f"bootstrap seed {verdict.seed}"] if verdict.seed is not None else []
    return [*verdict.applied, *filter(None, [wording.reuse_line(verdict)]), *seed]


def shortened(parts: Sequence[str]) -> str:
    """Join the parts, leaving out whole ones from where a comment would grow too long."""
    text = ""
    for part in parts:
        if len(text) + len(part) + len(CUT) > LONGEST:
            return text + CUT
        text += part + "\n\n"
    return text.rstrip("\n") + "\n"


def todo(findings: Findings) -> list[str]:
    """What to do next, most urgent first."""
    steps = wording.next_steps(findings.verdict)
    named = set(told([check for check, _ in steps]))
    extra = [text for text in findings.verdict.warnings if text not in named]
    if not steps and not extra:
        return []
    lines = [
        f"- {EMOJI[check.status]} **{escaped(wording.name_of(check))}** "
        f"({escaped(check.level)}{', ' + check.reason if check.reason else ''}): {escaped(text)}"
        for check, text in steps
    ]
    return ["## What to do next", "\n".join([*lines, *(f"- {escaped(text)}" for text in extra)])]


def check_section(findings: Findings) -> list[str]:
    """The checks that do not pass; all of the blocking ones where everything does."""
    checks = findings.verdict.checks
    open_checks = [check for check in wording.ordered(checks) if check.status != "pass"]
    if open_checks:
        return section("Failing and undecided", check_table(open_checks))
    return section("Checks", check_table([check for check in checks if check.level == "block"]))


def check_table(checks: Sequence[Check]) -> str:
    """One row per check."""
    rows = [
        [
            f"{EMOJI[check.status]} {wording.name_of(check)}",
            wording.metric_of(check),
            check.against or "",
            wording.figure(check.metric, check.compared_to) if check.against else "",
            wording.figure(check.metric, check.observed),
            wording.signed(check.metric, check.change) if check.against else "",
            wording.interval_of(check),
            wording.limit_of(check),
            f"{check.n:,}" if check.n else "",
            wording.smallest_of(check),
        ]
        for check in checks
    ]
    return table(CHECK_HEAD, rows, CHECK_ALIGN)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table, first column left and the rest right unless told otherwise; nothing for no rows."""
    if not rows:
        return ""
    align = align or "l" + "r" * (len(head) - 1)
    rule = ["---:" if side == "r" else "---" for side in align]
    lines = [[escaped(cell) for cell in head], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(title: str, body: str) -> list[str]:
    """A heading and its body, or nothing."""
    return [f"## {title}", body] if body else []


def details(title: str, body: str) -> list[str]:
    """A collapsed part, or nothing."""
    return [f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"] if body else []


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {escaped(line)}" for line in lines)


def fenced(lines: Sequence[str]) -> str:
    """Lines as they are, in a fence that none of them can close."""
    return "```yaml\n" + "\n".join(line.replace("```", "") for line in lines) + "\n```" if lines else ""


def environment(findings: Findings) -> str:
    """The machine the figures were taken on."""
    rows = [[name, value] for name, value in findings.verdict.environment.items()]
    if findings.benchmark and findings.benchmark.load_average is not None:
        rows.append(["load average", f"{findings.benchmark.load_average:.2f}"])
    return table(["", "value"], rows, "ll")


def escaped(text: str) -> str:
    """Text that a contributor may have chosen, harmless in Markdown: no markup, no mention, no new line or cell."""
    text = re.sub(r"\s*\n\s*", " ", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)
    return text.replace("@", "@\u200b")
