"""How often gates decide wrongly, habit beside habit, on the same invented test sets: exactly, by enumeration.

    python benchmarks/gate_table.py [--markdown] [--write]

A reference is right on 92 % of the examples, a candidate loses some of them and wins others; the limit is a drop of one
point. Every count of lost and won examples is weighed with its probability, so that nothing is sampled; what is cut off
has a probability under 1e-12. Only the rows of twenty rules are replayed as well, with the seed and the number printed.

The habits:

- point: pass where the observed drop is one point at most, else fail (TFX's Evaluator, most scripts);
- overlap: fail where the two accuracies' 95 % Wilson intervals do not overlap, else pass;
- unpaired: one-sided 95 % bounds of the difference of two accuracies taken for independent;
- wald: one-sided 95 % bounds of the paired difference, with its plain standard error;
- hoeffding: the same by Hoeffding's inequality, which holds for any data;
- ours: what `compression_gate.gate` decides; "refused" is its `error: underpowered`, which blocks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from compression_gate.gate.limits import LEAST_POWER
from compression_gate.gate.policy import settled
from compression_gate.gate.power import power_of_pass
from compression_gate.gate.proportions import tango_p, upper_quantile
from compression_gate.records.verdict import Check
from compression_gate.selftest.enumeration import likely_counts, outside, scores_at, trinomial

RESULTS = Path(__file__).parent / "results" / "gate_table.json"
SIZES = (200, 500, 1_000, 5_000, 10_000)
DISCORDANCES = (0.03, 0.05)
DROPS = (0.0, 0.01, 0.015, 0.02)
MARGIN, ALPHA, ACCURACY = 0.01, 0.05, 0.92
Z, Z_TWO_SIDED = upper_quantile(ALPHA), upper_quantile(ALPHA / 2)
RULES, REPLAYS, SEED = 20, 4_000, 7
SLIVER = 1e-9  # 0.1 - 0.09 is over 0.01 to a computer


class Counts(NamedTuple):
    """Every likely outcome of a test set; lost is (L, 1), won (1, W), the rest is said by shares of the population."""

    n: int
    lost: np.ndarray
    won: np.ndarray
    both_share: float

    @property
    def drop(self) -> np.ndarray:
        """The observed drop, (L, W)."""
        return (self.lost - self.won) / self.n


Decision = tuple[np.ndarray, np.ndarray]  # how likely each count passes and fails, (L, W): 0 or 1 where it is certain


def point(counts: Counts) -> Decision:
    inside = counts.drop <= MARGIN + SLIVER
    return inside * 1.0, ~inside * 1.0


def bounded(counts: Counts, reach: np.ndarray | float) -> Decision:
    """Pass where the whole interval is inside, fail where it is outside."""
    return (counts.drop + reach <= MARGIN) * 1.0, (counts.drop - reach > MARGIN) * 1.0


def wald(counts: Counts) -> Decision:
    variance = (counts.lost + counts.won) / counts.n - counts.drop**2
    return bounded(counts, Z * np.sqrt(variance / counts.n))


def hoeffding(counts: Counts) -> Decision:
    # Each example's difference lies in [-1, 1].
    return bounded(counts, math.sqrt(2 * math.log(1 / ALPHA) / counts.n))


def unpaired(counts: Counts) -> Decision:
    def reach(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return Z * np.sqrt((old * (1 - old) + new * (1 - new)) / counts.n)

    return (
        chance_from(counts, lambda old, new: old - new + reach(old, new) <= MARGIN),
        chance_from(counts, lambda old, new: old - new - reach(old, new) > MARGIN),
    )


def overlap(counts: Counts) -> Decision:
    def wilson(share: np.ndarray, side: int) -> np.ndarray:
        z, n = Z_TWO_SIDED, counts.n
        middle = share + z * z / (2 * n)
        half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return (middle + side * half) / (1 + z * z / n)

    apart = chance_from(counts, lambda old, new: wilson(new, 1) < wilson(old, -1))
    return 1 - apart, apart


def chance_from(counts: Counts, decided: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """How likely a decision on two accuracies is, given lost and won: over how many both models have right.

    The more those are, the narrower both intervals: it is decided so from some number of them on, found by bisection.
    """
    rest = counts.n - counts.lost - counts.won
    low, high = np.full(rest.shape, counts.n // 2), np.maximum(rest, counts.n // 2) + 1
    while np.any(high - low > 1):
        middle = (low + high) // 2
        yes = decided((middle + counts.lost) / counts.n, (middle + counts.won) / counts.n)
        low, high = np.where(yes, low, middle), np.where(yes, middle, high)
    return np.asarray(stats.binom.sf(high - 1, rest, counts.both_share))


def ours(counts: Counts) -> Decision:
    scores = scores_at(counts.lost, counts.won, counts.n, MARGIN)
    return (scores <= -Z) * 1.0, (scores >= Z) * 1.0


def refused(counts: Counts) -> np.ndarray:
    """Where ours settles nothing and says that so few examples hardly can."""
    passed, failed = ours(counts)
    together = counts.lost + counts.won
    power = {count: power_of_pass(count / counts.n, counts.n, MARGIN, ALPHA) for count in np.unique(together).tolist()}
    weak = np.vectorize(lambda count: power[int(count)] < LEAST_POWER)(together)
    return weak & (passed + failed == 0)


HABITS: dict[str, Callable[[Counts], Decision]] = {
    "point": point,
    "overlap": overlap,
    "unpaired": unpaired,
    "wald": wald,
    "hoeffding": hoeffding,
    "ours": ours,
}
LABELS = {
    "point": "observed drop ≤ 1 point",
    "overlap": "Wilson intervals overlap",
    "unpaired": "two independent accuracies",
    "wald": "paired, Wald",
    "hoeffding": "paired, Hoeffding",
    "ours": "this gate",
}
SHOWN_SIZES = (500, 1_000, 5_000)
SHOWN = [habit for habit in HABITS if habit != "hoeffding"]  # which settles nothing at any of these sizes


def rows_of(n: int, discordance: float) -> Iterator[dict]:
    """Each habit at each true drop."""
    for drop in DROPS:
        lost_share, won_share = (discordance + drop) / 2, (discordance - drop) / 2
        axes = [likely_counts(n, share) for share in (lost_share, won_share)]
        lost, won = axes[0][:, None], axes[1][None, :]
        chance = trinomial(lost, won, n, lost_share, won_share)
        cut = sum(outside(axis, n, share) for axis, share in zip(axes, (lost_share, won_share), strict=True))
        counts = Counts(n, lost, won, (ACCURACY - lost_share) / (1 - discordance))
        for habit, decide in HABITS.items():
            passed, failed = ((chance * decision).sum() for decision in decide(counts))
            row = {"n": n, "discordance": discordance, "habit": habit, "true_drop": drop, "cut": cut}
            rates = {"pass": passed, "fail": failed, "other": max(1 - passed - failed, 0)}
            rates |= {"refused": (chance * refused(counts)).sum()} if habit == "ours" else {}
            yield row | {name: round(float(rate), 9) for name, rate in rates.items()}


def family_rows() -> Iterator[dict]:
    """Twenty rules, each on a slice of its own, none truly broken: is any failed? At no drop, and just at the limit."""
    random = np.random.default_rng(SEED)
    for drop, n, discordance in itertools.product((0.0, MARGIN), (200, 500, 5_000), DISCORDANCES):
        shares = [(discordance + drop) / 2, (discordance - drop) / 2]
        drawn = random.multinomial(n, [*shares, 1 - sum(shares)], size=(REPLAYS, RULES))
        alone = corrected = 0
        for replay in drawn:
            checks = [check_of(int(lost), int(won), n) for lost, won, _ in replay]
            alone += any(check.p_value <= ALPHA for check in checks)
            corrected += any(check.status == "fail" for check in settled(checks, "pull_request"))
        for name, events in (("each rule alone", alone), ("Holm", corrected)):
            row = {"true_drop": drop, "n": n, "discordance": discordance, "rules": RULES, "correction": name}
            yield row | {
                "events": events,
                "replays": REPLAYS,
                "high": float(stats.beta.ppf(0.99, events + 1, REPLAYS - events)),
            }


def check_of(lost: int, won: int, n: int) -> Check:
    """A check as the judge hands it to the policy."""
    p_value = tango_p(lost, won, n, MARGIN)
    return Check(rule="r", metric="accuracy", status="undecided", p_value=p_value, alpha=ALPHA, n=n)


def markdown(rows: list[dict], families: list[dict], discordance: float) -> Iterator[str]:
    """The tables of the docs: pass / fail in percent at one discordance and some of the sizes."""
    heads = " | ".join(f"true drop {drop * 100:g}" for drop in DROPS)
    yield f"| n | habit | {heads} |"
    yield f"|---:|---|{'---:|' * len(DROPS)}"
    for n in SHOWN_SIZES:
        for place, habit in enumerate(SHOWN):
            mine = [row for row in rows if (row["n"], row["discordance"], row["habit"]) == (n, discordance, habit)]
            cells = " | ".join(f"{percent(row['pass'])} / {percent(row['fail'])}" for row in mine)
            yield f"| {f'{n:,}' if place == 0 else ''} | {LABELS[habit]} | {cells} |"
    yield ""
    yield "| true drop of every rule | n of each | each rule alone | Holm |"
    yield "|---|---:|---:|---:|"
    shown = [row for row in families if row["discordance"] == discordance]
    for alone, corrected in zip(shown[::2], shown[1::2], strict=True):
        rates = " | ".join(f"{row['events'] / row['replays']:.1%}" for row in (alone, corrected))
        place = "the limit" if alone["true_drop"] else "none"
        yield f"| {place} | {alone['n']:,} | {rates} |"


def percent(share: float) -> str:
    """A share in percent, with a decimal where it is near to nothing or to all."""
    value = 100 * share
    if not 0.05 <= value < 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if not 9.95 <= value < 99 else f"{value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"store the figures in {RESULTS.name}")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the docs and nothing else")
    given = parser.parse_args()
    start = time.perf_counter()
    rows = [row for n in SIZES for discordance in DISCORDANCES for row in rows_of(n, discordance)]
    families = list(family_rows())
    if given.markdown:
        print("\n".join(markdown(rows, families, DISCORDANCES[0])))
    else:
        for row in rows:
            print(
                f"n = {row['n']:>6,}, discordance {row['discordance']:.0%}, true drop {row['true_drop'] * 100:3g}"
                f" points, {row['habit']:<9}: pass {row['pass']:7.2%}, fail {row['fail']:7.2%}, "
                f"neither {row['other']:7.2%}" + (f", of it refused {row['refused']:.2%}" if "refused" in row else "")
            )
        for row in families:
            print(
                f"{row['rules']} rules of n = {row['n']:,} each, discordance {row['discordance']:.0%}, "
                f"true drop {row['true_drop'] * 100:g} points, "
                f"{row['correction']}: any false fail in {row['events']:,} of {row['replays']:,} replays "
                f"(seed {SEED}), 99 % upper bound {row['high']:.2%}"
            )
        print(f"{time.perf_counter() - start:.1f} s")
    if given.write:
        record = {"margin": MARGIN, "accuracy": ACCURACY, "confidence": 1 - ALPHA, "seed": SEED}
        RESULTS.write_text(json.dumps(record | {"rows": rows, "families": families}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
