"""What `selftest` prints: each claim with what was found, and the mutations that were not caught."""

from __future__ import annotations

import json
from collections import Counter

from rich.console import Group, RenderableType
from rich.text import Text

from compression_gate.records.selftest import Claim, Damage, SelfTest
from compression_gate.records.timing_selftest import TimingRate, TimingSelfTest
from compression_gate.reporters.terminal import COLOURS, Cell, head, marked, stdout, table
from compression_gate.reporters.wording import NOTHING, SYMBOLS


def show(found: SelfTest) -> None:
    """Print to stdout."""
    console = stdout()
    console.print(report(found))


def show_timing(found: TimingSelfTest) -> None:
    """Print the rates of timed decisions to stdout."""
    console = stdout()
    console.print(timing_report(found))


def timing_report(found: TimingSelfTest) -> RenderableType:
    """The rates of live decisions, then those of recorded ones judged anew."""
    broken = [one for one in (*found.live, *found.replayed) if not one.held]
    status = "fail" if broken else "pass"
    text = f"{len(broken)} rates are over their claim." if broken else "No rate is proven to be over its claim."
    parts: list[RenderableType] = [head(status, text)]
    for title, rates in (("Live, on this machine", found.live), ("Recorded decisions, judged anew", found.replayed)):
        if rates:
            parts += [Text(title, style="bold"), table(TIMING_COLUMNS, [timing_row(one) for one in rates])]
    end = (
        "busy: processes run beside; s: seconds a decision, imports not counted; load: average of the machine. "
        f"Claimed: wrong in at most 1 % of each. {found.seconds:.0f} s, exit code {found.exit_code}"
    )
    return Group(*parts, Text(end, style="dim"))


TIMING_COLUMNS = ["decisions", "busy", "limit", "ratio", "wrong", "at 99 %", "no answer", "mean s", "p95 s", "load"]


def timing_row(one: TimingRate) -> list[str]:
    """One kind of decision."""
    case = one.case
    return [
        f"{SYMBOLS['pass' if one.held else 'fail']} {case.runtime} {case.size}: "
        + (f"+{case.slowed:.0%}" if case.slowed else "same model"),
        str(case.load),
        f"{case.limit:.0%}",
        NOTHING if one.median_ratio is None else f"{one.median_ratio:.3f}",
        f"{one.wrong} of {one.n}",
        f"{100 * one.low:.2f}% to {100 * one.high:.2f}%",
        str(one.undecided + one.untrusted),
        *(NOTHING if value is None else f"{value:.1f}" for value in (one.mean_s, one.p95_s, one.load_average)),
    ]


def report(found: SelfTest) -> RenderableType:
    """Everything that is printed, the outcome first."""
    broken = [one for one in found.claims if not one.held]
    silent = [one for one in found.mutations if not one.held]
    status = "fail" if broken or silent else "pass"
    parts: list[RenderableType] = [
        head(status, headline(found, broken, silent)),
        table(
            ["claim", "found", "at 99 %", "claimed", "n", "seconds"],
            [claim_row(one) for one in found.claims],
        ),
        *(Text(f"  {one.text}: {one.note}", style="dim") for one in found.claims if one.note),
        Text("Mutations, by what the gate must not be silent about", style="bold"),
        table(["entry", "caught", "tried"], entry_rows(found)),
        *(Text(f"  {SYMBOLS['fail']} {line}", style=COLOURS["fail"]) for one in silent for line in lines_of(one)),
    ]
    if found.left_out:
        needs = Counter(found.left_out.values())
        words = ", ".join(f"{count} need {what}" for what, count in needs.items())
        parts.append(Text(f"  not tried here, but in the project's own tests: {words}", style="dim"))
    parts.append(Text(f"{found.seconds:.0f} s, exit code {found.exit_code}", style="dim"))
    return Group(*parts)


def headline(found: SelfTest, broken: list[Claim], silent: list[Damage]) -> str:
    """The outcome in a sentence."""
    claimed = sum(one.limit is not None for one in found.claims)
    if broken or silent:
        return (
            f"The gate does not keep its word: {len(broken)} of {claimed} claims, {len(silent)} mutations not caught."
        )
    return f"The gate keeps its word: {claimed} claims held, {len(found.mutations)} mutations caught."


def claim_row(one: Claim) -> list[Cell]:
    """One claim: enumerated rates have no bounds to show."""
    return [
        f"{NOTHING} {one.text}" if one.limit is None else marked("pass" if one.held else "fail", one.text),
        f"{one.observed:.2%}",
        "exact" if one.events is None else f"{one.low:.2%} to {one.high:.2%}",
        NOTHING if one.limit is None else f"{'≤' if one.direction == 'at most' else '≥'} {one.limit:.1%}",
        f"{one.n:,}",
        f"{one.seconds:.1f}",
    ]


def entry_rows(found: SelfTest) -> list[list[str]]:
    """For each entry of the list how many of its mutations ended as they must."""
    tried, caught = (
        Counter(one.entry for one in found.mutations),
        Counter(one.entry for one in found.mutations if one.held),
    )
    return [[entry, str(caught[entry]), str(count)] for entry, count in tried.items()]


def lines_of(one: Damage) -> list[str]:
    """What a mutation that was not caught did, and should have done."""
    stale = " (`check` alone ended with 0)" if one.stale_code == 0 else ""
    said = one.said.strip().splitlines() or ["nothing"]
    return [
        f"{one.name}: expected exit code {one.expected_code}, got {one.exit_code}{stale}",
        f"  expected to be said: {one.expected}",
        f"  said: {said[0]}",
    ]


def as_json(found: SelfTest) -> str:
    """The record, with what held."""
    plain = found.model_dump(mode="json", by_alias=True)
    held = {
        "claims": [one.held for one in found.claims],
        "mutations": [one.held for one in found.mutations],
    }
    for name, answers in held.items():
        plain[name] = [entry | {"held": answer} for entry, answer in zip(plain[name], answers, strict=True)]
    return json.dumps(plain | {"exit_code": found.exit_code}, indent=2)
