"""What `selftest` prints: each claim with what was found, and the mutations that were not caught."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

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
    parts: list[RenderableType] = [head(*timing_outcome(found))]
    for title, rates in (("Live, on this machine", found.live), ("Recorded decisions, judged anew", found.replayed)):
        if rates:
            parts += [Text(title, style="bold"), table(TIMING_COLUMNS, [timing_row(one) for one in rates])]
            parts += [Text(f"  {kind_of(one)}: {reason}", style="dim") for one in rates for reason in one.reasons]
    end = (
        "same: against itself; busy: processes run beside; missed: slowed and not refused; open: no answer; ≤: exact, "
        "at 99 %; mean, p95: seconds a decision, imports not counted; load: average of the machine. Claimed: wrong in "
        f"at most 1 % of each, missed in at most 10 %. {found.seconds:.0f} s, exit code {found.exit_code}"
    )
    return Group(*parts, Text(end, style="dim"))


def timing_outcome(found: TimingSelfTest) -> tuple[str, str]:
    """Status and outcome in a sentence."""
    broken = [one for one in (*found.live, *found.replayed) if not one.held]
    if silent := [one for one in found.live if not one.n]:
        rest = f", and {len(broken)} are over their claim" if broken else ""
        return "error", f"{len(silent)} rates rest on no decision{rest}: give it more --minutes."
    if broken:
        return "fail", f"{len(broken)} rates are over their claim."
    return "pass", "No rate is proven to be over its claim."


TIMING_COLUMNS = ["name", "busy", "limit", "ratio", "wrong", "missed", "open", "mean", "p95", "load"]


def timing_row(one: TimingRate) -> list[str]:
    """One kind of decision."""
    case, status = one.case, "pass" if one.held else "fail"
    return [
        f"{SYMBOLS[status if one.n else 'error']} {kind_of(one)}",
        str(case.load),
        f"{case.limit:.0%}",
        NOTHING if one.median_ratio is None else f"{one.median_ratio:.3f}",
        f"{one.wrong}/{one.n} ≤ {one.high:.1%}",
        NOTHING if one.missed is None else f"{one.missed}/{one.n} ≤ {one.missed_high:.1%}",
        str(one.undecided + one.untrusted),
        *(NOTHING if value is None else f"{value:.1f}" for value in (one.mean_s, one.p95_s, one.load_average)),
    ]


def kind_of(one: TimingRate) -> str:
    """What was timed, in words."""
    case = one.case
    return f"{case.runtime} {case.size}: " + (f"+{100 * case.slowed:g}%" if case.slowed else "same")


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


def as_json(gate: SelfTest | None, timing: TimingSelfTest | None) -> str:
    """One document of the halves that were asked for, under their names; the gate's with what held."""
    halves = {
        "gate": gate and with_held(gate) | {"exit_code": gate.exit_code},
        "timing": timing and timing.model_dump(mode="json", by_alias=True) | {"exit_code": timing.exit_code},
    }
    return json.dumps({name: half for name, half in halves.items() if half}, indent=2)


def with_held(found: SelfTest) -> dict[str, Any]:
    """The record's plain values, with what held."""
    plain = found.model_dump(mode="json", by_alias=True)
    held = {
        "claims": [one.held for one in found.claims],
        "mutations": [one.held for one in found.mutations],
    }
    for name, answers in held.items():
        plain[name] = [entry | {"held": answer} for entry, answer in zip(plain[name], answers, strict=True)]
    return plain
