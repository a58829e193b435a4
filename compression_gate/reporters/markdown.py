"""`report.md`: what a reviewer reads on the forge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from compression_gate.records.verdict import Check
from compression_gate.reporters import record_tables, sensitivity, wording
from compression_gate.reporters.base import Findings

EMOJI = {"pass": "✅", "fail": "❌", "undecided": "🟡", "error": "🛑", "waived": "☑️"}
CHECK_HEAD = (
    "check",
    "metric",
    "held against",
    "its value",
    "this commit",
    "change",
    "interval",
    "limit",
    "headroom",
    "n",
    "would catch",
)
CHECK_ALIGN = "lllrrrrrrrr"
LONGEST = 60_000  # forges cut comments at 65,536 characters
CUT = "*Left out, since a comment may not be longer: {}. All of it is in `reports/report.html`.*"
ROOM_FOR_CUT = 400
LONGEST_PART = 12_000  # of one table or list, so that several fit
LONGEST_TEXT = 400  # of one cell or line, which a contributor may have chosen


def rendered(findings: Findings) -> str:
    """The report as Markdown: the verdict, what to do, what stops it, what it gives and takes; the rest collapsed."""
    verdict = findings.verdict
    parts = [
        f"# {EMOJI[verdict.status]} {escaped(wording.headline(findings, verdict.status))}",
        f"Suite **{escaped(findings.suite)}**: {wording.counts_of(verdict)}; policy {code(verdict.policy)}, "
        f"exit code {verdict.exit_code}.",
        bullets(wording.waiver_lines(findings)),
        *todo(findings),
        *check_section(findings),
        escaped(wording.trade_off_line(verdict)),
        *evidence(findings),
    ]
    last = f"Again on your machine: {code(wording.local_command(findings))}"
    return shortened([part for part in parts if part], last)


def evidence(findings: Findings) -> list[str]:
    """What the verdict rests on, collapsed part by part."""
    verdict = findings.verdict
    all_pass = all(check.status == "pass" for check in verdict.checks)  # those that block are shown above then
    passing = [
        check
        for check in verdict.checks
        if check.status == "pass" and check.slice is None and not (all_pass and check.level == "block")
    ]
    sliced = sorted((check for check in verdict.checks if check.slice is not None), key=wording.least_room_first)
    steps = [table(*record_tables.step_table(findings)), bullets(record_tables.attribution_lines(findings))]
    timing = [table(*record_tables.timing_table(findings)), bullets(record_tables.timing_lines(findings))]
    return [
        *details("Passing checks", check_table(passing)),
        *details("Slices", paragraphs([bullets(wording.worst_slices(verdict)), check_table(sliced)])),
        *details("Models", table(*record_tables.model_table(findings))),
        *details("Timing, with a copy of the other model against itself (A/A control)", paragraphs(timing)),
        *details("What each step did", paragraphs(steps)),
        *details("How the chain was chosen", bullets(record_tables.choice_lines(findings))),
        *details("What each layer bears", sensitivities(findings)),
        *details("Training inside the steps", bullets(record_tables.training_lines(findings))),
        *details("Layers left as they were", bullets(record_tables.uncovered_lines(findings))),
        *details("Where integers ended", bullets(record_tables.integer_lines(findings))),
        *details("Environment", environment(findings)),
        *details("What was compared", table(*record_tables.subject_table(verdict), "lll")),
        *details("Rules, expanded", fenced(record_tables.rule_lines(findings))),
        *details("How it was judged", bullets(judging(findings))),
    ]


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
    return paragraphs(parts)


def judging(findings: Findings) -> list[str]:
    """The policy as it was applied, how often the test data were asked, and the seed."""
    verdict = findings.verdict
    seed = [f"bootstrap seed {verdict.seed}"] if verdict.seed is not None else []
    return [*verdict.applied, *filter(None, [wording.reuse_line(verdict)]), *seed]


def shortened(parts: Sequence[str], last: str) -> str:
    """Join the parts; those that would make a comment too long are left out whole, and named."""
    text, left_out = "", []
    for part in parts:
        if len(text) + len(part) + len(last) + ROOM_FOR_CUT > LONGEST:
            title = re.search(r"<summary>(.*?)</summary>", part)
            left_out.append(title[1].partition(",")[0] if title else "a part")
        else:
            text += part + "\n\n"
    cut = CUT.format(", ".join(dict.fromkeys(left_out))) + "\n\n" if left_out else ""
    return f"{text}{cut}{last}\n"


def paragraphs(parts: Iterable[str]) -> str:
    """Parts one below the other; nothing for those that are empty."""
    return "\n\n".join(part for part in parts if part)


def todo(findings: Findings) -> list[str]:
    """What to do next, most urgent first."""
    steps = wording.next_steps(findings.verdict, findings.rule_lines)
    extra = [*findings.adoptions, *wording.notes_of(findings.verdict)]
    if not steps and not extra:
        return []
    lines = [
        f"- {EMOJI[check.status]} **{escaped(wording.name_of(check))}** "
        f"({escaped(check.level)}{', ' + check.reason if check.reason else ''}): {escaped(text)}"
        + (f" To accept it for a while: {code(way)}" if (way := wording.way_to_accept(check)) else "")
        for check, text in steps
    ]
    return ["## What to do next", fitting([*lines, *(f"- {escaped(text)}" for text in extra)])]


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
            wording.headroom_of(check),
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
    lines = ([escaped(cell) for cell in head], rule, *([escaped(cell) for cell in row] for row in rows))
    return fitting(["| " + " | ".join(line) + " |" for line in lines])


def fitting(lines: Sequence[str]) -> str:
    """As many whole lines as a part may hold, and how many more there are."""
    length = 0
    kept: list[str] = []
    for line in lines:
        length += len(line) + 1
        if length > LONGEST_PART and kept:
            break
        kept.append(line)
    more = len(lines) - len(kept)
    text = "\n".join(kept)
    return f"{text}\n\n*and {more:,} more, in `reports/report.html`*" if more else text


def section(title: str, body: str) -> list[str]:
    """A heading and its body, or nothing."""
    return [f"## {title}", body] if body else []


def details(title: str, body: str) -> list[str]:
    """A collapsed part, or nothing."""
    return [f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"] if body else []


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return fitting([f"- {escaped(line)}" for line in lines])


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
    """Text that a contributor may have chosen, harmless in Markdown: no markup, mention, link, new line or cell."""
    text = wording.harmless(re.sub(r"\s*\n\s*", " ", text))
    text = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)
    text = re.sub(r"(://|\bwww\.|(?<=\bGH)-)", "\\1\u200b", text, flags=re.IGNORECASE)  # forges make links of these
    return text.replace("@", "@\u200b")


def code(text: str) -> str:
    """Text as it is typed, in a span that it cannot close."""
    return f"`{wording.harmless(' '.join(text.split())).replace('`', '')[:LONGEST_TEXT]}`"
