"""What `run` and `check` print: tables of rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from compression_gate.gate.limits import ENOUGH_POWER, LEAST_POWER
from compression_gate.records.power import PowerReport
from compression_gate.records.verdict import Check, Verdict
from compression_gate.reporters import record_tables, wording
from compression_gate.reporters.base import Findings

if TYPE_CHECKING:
    from rich.console import JustifyMethod

COLOURS = {"pass": "green", "fail": "red", "undecided": "yellow", "error": "red", "waived": "magenta"}
NARROWEST = 112
POWER_COLOURS = ("red", "yellow", "green")
Cell = str | Text
LEAST_USED = ("held against", "n", "non-zero", "MACs")


def stdout() -> Console:
    """The terminal; where there is none, as in CI, wide enough for a table of checks."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, NARROWEST))


def show(findings: Findings | None, status: str, exit_code: int, problems: Sequence[str] = ()) -> None:
    """Print the verdict to stdout.

    Args:
        findings: the verdict and its records; None if no verdict can be read.
        status, exit_code: what the policy at call time makes of it.
        problems: why the verdict may not be believed.
    """
    console = stdout()
    narrow = console.width < NARROWEST
    console.print(report(findings, status, exit_code, problems, narrow=narrow))


def report(
    findings: Findings | None, status: str, exit_code: int, problems: Sequence[str], *, narrow: bool = False
) -> RenderableType:
    """Everything that is printed, in the order of urgency; ``narrow`` leaves out the columns of least use."""
    parts: list[RenderableType] = []
    if problems or findings is None:
        parts.append(head("error", "Error. The verdict cannot be believed, so nothing passes."))
        parts += [Text(f"  {wording.harmless(problem)}") for problem in problems]
        parts.append(Text("  do: compression-gate run"))
    else:
        parts.append(head(status, wording.headline(findings, status)))
    if findings is not None and not problems:
        parts += body(findings, narrow=narrow)
    parts.append(Text(f"exit code {exit_code}", style="dim"))
    return Group(*parts)


def head(status: str, text: str) -> Text:
    """The verdict line."""
    return Text(f"{wording.SYMBOLS[status]} {wording.harmless(text)}", style=f"bold {COLOURS[status]}")


def body(findings: Findings, *, narrow: bool) -> list[RenderableType]:
    """In the order of every report: what to do, checks that do not pass, the trade-off, the rest."""
    verdict = findings.verdict
    parts: list[RenderableType] = [
        *(line(text, "magenta") for text in wording.waiver_lines(findings)),
        line(f"{findings.suite}: {wording.counts_of(verdict)}", "dim"),
    ]
    steps = wording.next_steps(verdict, findings.rule_lines)
    if steps:
        parts.append(Text("What to do next", style="bold"))
        parts += [line(f"{wording.SYMBOLS[check.status]} {wording.name_of(check)}: {text}") for check, text in steps]
    parts += [line(text, "magenta") for text in findings.adoptions]
    parts += [line(f"note: {text}", "yellow") for text in verdict.warnings]
    parts.append(check_table(shown_checks(verdict), without=LEAST_USED if narrow else ()))
    told = (wording.trade_off_line(verdict), "bold"), *((text, "dim") for text in wording.worst_slices(verdict))
    told = *told, *((text, "dim") for text in (*verdict.applied, wording.reuse_line(verdict)))
    parts += [line(text, style) for text, style in told if text]
    for title, (names, rows) in (
        ("Models", record_tables.model_table(findings)),
        ("What each step did", record_tables.step_table(findings)),
    ):
        if rows:
            parts += [Text(title, style="bold"), table(names, rows, without=LEAST_USED if narrow else ())]
    return parts


def line(text: str, style: str = "") -> Text:
    """An indented line of text that may come from anywhere."""
    return Text(f"  {wording.harmless(text)}", style=style)


def shown_checks(verdict: Verdict) -> list[Check]:
    """All but passing checks on slices, of which there may be hundreds; the worst of those stays."""
    kept: list[Check] = []
    worst: dict[str, Check] = {}
    for check in verdict.checks:
        if check.slice is None or check.status != "pass":
            kept.append(check)
        elif (best := worst.get(check.rule)) is None or wording.room_of(check) < wording.room_of(best):
            worst[check.rule] = check
    return wording.ordered([*kept, *worst.values()])


def check_table(checks: Sequence[Check], without: Sequence[str] = ()) -> Table:
    """One row per check."""
    rows: list[list[Cell]] = [
        [
            marked(check.status, wording.name_of(check)),
            wording.metric_of(check),
            wording.figure(check.metric, check.compared_to),
            wording.figure(check.metric, check.observed),
            wording.interval_of(check),
            wording.limit_of(check),
            f"{check.n:,}" if check.n else wording.NOTHING,
        ]
        for check in checks
    ]
    return table(
        ["check", "metric", "held against", "this commit", "interval", "limit", "n"], rows, left=2, without=without
    )


def marked(status: str, words: str) -> Text:
    """A status's symbol in its colour, then words that may come from anywhere."""
    return Text.assemble((wording.SYMBOLS[status], COLOURS[status]), f" {wording.harmless(words)}")


def table(names: Sequence[str], rows: Sequence[Sequence[Cell]], left: int = 1, without: Sequence[str] = ()) -> Table:
    """A light table; the first ``left`` columns are words, the rest numbers; columns ``without`` are left out.

    Strings may come from anywhere, and are no markup: what is coloured is handed over as ``Text``.
    """
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    shown = [index for index, name in enumerate(names) if name not in without]
    for index in shown:
        name = names[index]
        side: JustifyMethod = "left" if index < left else "right"
        result.add_column(plain(name), justify=side, overflow="fold", no_wrap=name in ("metric", "name"))
    for row in rows:
        result.add_row(*(plain(row[index]) for index in shown))
    return result


def plain(cell: Cell) -> Text:
    """A cell as it is, with nothing in it read as markup."""
    return cell if isinstance(cell, Text) else Text(wording.harmless(cell))


def show_power(report: PowerReport) -> None:
    """Print what each rule can prove."""
    console = stdout()
    rows: list[list[Cell]] = [
        [
            f"{row.rule} / {row.slice}" if row.slice else row.rule,
            f"{row.n:,}",
            f"{row.discordance:.1%} {'measured' if row.measured else 'assumed'}",
            f"{row.margin:.3g}",
            Text(f"{row.power:.0%}", style=POWER_COLOURS[(row.power >= LEAST_POWER) + (row.power >= ENOUGH_POWER)]),
            f"{row.minimum_detectable:.3g}",
            f"{row.examples_needed:,}" if row.examples_needed else wording.NOTHING,
            f"{row.margin_needed:.2g}",
        ]
        for row in report.rules
    ]
    if rows:
        names = ["rule", "n", "discordance", "margin", "power", "would catch", "n for 80 %", "margin for 80 %"]
        console.print(table(names, rows))
    for name, reason in report.unplanned.items():
        console.print(line(f"{name}: {reason}", "dim"))
    console.print(
        Text(
            f"power: how often two equally good models are proven so, each bound wrong in {report.alpha:.3g}; "
            "under 50 % a blocking rule is refused, under 80 % it warns",
            style="dim",
        )
    )


def show_rows(rows: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Print what `list` found."""
    console = stdout()
    for kind, entries in rows.items():
        console.print(Text(kind, style="bold"))
        console.print(table(["name", "what", "options"], [list(row.values()) for row in entries], left=3))


def as_json(verdict: Verdict | None, status: str, exit_code: int, policy: str, problems: Sequence[str]) -> str:
    """The verdict under the policy asked for, as JSON."""
    if verdict is None:
        return json.dumps(
            {"status": status, "exit_code": exit_code, "policy": policy, "problems": list(problems)}, indent=2
        )
    plain = verdict.model_dump(mode="json", by_alias=True)
    return json.dumps(
        plain | {"status": status, "exit_code": exit_code, "policy": policy, "problems": list(problems)}, indent=2
    )
