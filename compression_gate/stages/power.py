"""`power`: what the rules can prove with the data at hand, before anybody waits for a run. No torch, no DVC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compression_gate.errors import CompressionGateError, ParamsError
from compression_gate.gate import power
from compression_gate.gate.facts import PREDICTIONS, Outcomes, part_of
from compression_gate.gate.intervals import SHARES, counts_of
from compression_gate.gate.limits import CHANGES, ENOUGH_POWER
from compression_gate.gate.test_reuse import level
from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.metrics import DataRecord, Evaluation
from compression_gate.records.params import Params, read_params
from compression_gate.records.policies import REUSE
from compression_gate.records.power import Planned, PowerReport
from compression_gate.records.rules import Rule

ASSUMED_DISCORDANCE = 0.05  # a guess on the safe side, told as assumed
DATA, EVALUATION = Path("reports/data.json"), Path("reports/evaluation.json")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user assumes in place of what was measured; None: measured, or the default."""

    n: int | None = None
    discordance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Examples and discordance of one question, and whether they were measured."""

    name: str | None
    n: int
    discordance: float
    measured: bool


def run(suite: Path, given: Given) -> PowerReport:
    """Plan every rule on a share of examples: its power, and what would give it enough.

    Raises:
        ParamsError: the params are wrong, or an assumption is impossible.
    """
    params = read_params(suite)
    if given.n is not None and given.n < 1:
        raise ParamsError(f"--n: expected a number of examples, got {given.n}")
    if given.discordance is not None and not 0 <= given.discordance <= 1:
        raise ParamsError(f"--discordance: expected a share of 0 to 1, got {given.discordance}")
    # How many answers changed is a figure of the test set: an adaptive one keeps it.
    hidden = (params.gate.policies.get(REUSE) or {}).get("mode") == "adaptive"
    outcomes, examples = None if hidden else outcomes_at(suite), examples_at(suite)
    rules = []
    unplanned: dict[str, str] = {}
    for name, rule in params.gate.rules.items():
        if reason := why_not(rule):
            unplanned[name] = reason
            continue
        parts = slices_of(rule, suite, given, outcomes, examples)
        if not parts:
            unplanned[name] = "nothing to go by: run `compression-gate prepare`, or say --n"
        rules += [planned(name, rule, part, params) for part in parts]
    return PowerReport(alpha=level(params.gate), rules=tuple(rules), unplanned=unplanned)


def why_not(rule: Rule) -> str | None:
    """Why a rule has no power to plan; None where it has."""
    kind = kind_of(rule.metric)
    if kind == "exact":
        return "exact: always settled"
    if kind not in QUALITY:
        return "timed: pairs are taken until it is settled or the budget is used up"
    if rule.metric not in SHARES and not (rule.metric == "recall" and rule.slice and rule.slice.startswith("class")):
        return "by bootstrap: what it can prove is told with the verdict, as minimum_detectable"
    if rule.form not in CHANGES:
        return "an absolute limit: exact bounds of one share"
    if rule.limit.relative:
        return "relative: its margin is known once the figure it is held against is"
    return None


def planned(name: str, rule: Rule, part: Slice, params: Params) -> Planned:
    """One rule on one slice."""
    alpha, margin = level(params.gate), rule.limit.value
    return Planned(
        rule=name,
        slice=part.name,
        margin=margin,
        n=part.n,
        discordance=part.discordance,
        measured=part.measured,
        power=power.power_of_pass(part.discordance, part.n, margin, alpha),
        minimum_detectable=power.minimum_detectable(part.discordance, part.n, margin, alpha),
        examples_needed=power.examples_needed(part.discordance, margin, alpha) if margin > 0 else None,
        margin_needed=power.margin_needed(part.discordance, part.n, alpha, ENOUGH_POWER),
    )


def outcomes_at(suite: Path) -> Outcomes | None:
    """The outcomes of the last run, where there are any."""
    try:
        Evaluation.read(suite / EVALUATION)
        return Outcomes.read(suite / PREDICTIONS)
    except CompressionGateError:
        return None


def examples_at(suite: Path) -> DataRecord | None:
    """What prepare counted, where it has."""
    try:
        return DataRecord.read(suite / DATA)
    except CompressionGateError:
        return None


def slices_of(
    rule: Rule, suite: Path, given: Given, outcomes: Outcomes | None, examples: DataRecord | None
) -> list[Slice]:
    """Every slice a rule speaks of, with the examples it has and their discordance, measured where that can be."""
    assumed = given.discordance if given.discordance is not None else ASSUMED_DISCORDANCE
    if given.n is not None:
        return [Slice(name=rule.slice, n=given.n, discordance=assumed, measured=False)]
    if outcomes is not None:
        return [found for name in names_of(rule, suite) if (found := measured_slice(rule, name, outcomes, given))]
    test = examples.splits.get("test") if examples else None
    if test is None:
        return []
    if rule.slice is None:
        return [Slice(name=None, n=test.n, discordance=assumed, measured=False)]
    counts = test.class_counts or {}
    wanted = {f"class={label}": count for label, count in counts.items()}
    return [
        Slice(name=name, n=count, discordance=assumed, measured=False)
        for name, count in wanted.items()
        if rule.slice in (name, "class") and count
    ]


def names_of(rule: Rule, suite: Path) -> list[str | None]:
    """The slices that the last evaluation has of a rule's metric."""
    if rule.slice is None:
        return [None]
    models = Evaluation.read(suite / EVALUATION).models.values()
    known = dict.fromkeys(part for model in models for part in model.slices.get(rule.metric, {}))
    return [part for part in known if rule.slice in (part, part.partition("=")[0])]


def measured_slice(rule: Rule, name: str | None, outcomes: Outcomes, given: Given) -> Slice | None:
    """One slice as the last run found it, against the reference where the other model is not there."""
    part = part_of(name, outcomes)
    if part is None:
        return None
    against = rule.against if rule.against in part.outcomes.predicted else "reference"
    if not {against, "candidate"} <= part.outcomes.predicted.keys():
        return None
    both, lost, won, none = counts_of(rule.metric, part, against, "reference")
    n = both + lost + won + none
    if n == 0:
        return None
    found = (lost + won) / n
    return Slice(
        name=name,
        n=n,
        discordance=found if given.discordance is None else given.discordance,
        measured=given.discordance is None,
    )
