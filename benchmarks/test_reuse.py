"""What a test set is worth after 200 commits that its answers steered, with and without `gate.policies.test_reuse`.

    python benchmarks/test_reuse.py [--histories 2000] [--markdown] [--write]

A release is right on 92 % of all inputs. A candidate differs from it on 4 %: it loses some and wins others. Each commit
answers a random tenth of all inputs anew, and in truth stays just as good as it was: what it has lost and won in the
population does not change. On the test set chance changes both a little, and the adversary keeps what looks better:

- by the figures: a commit is kept where the reported accuracy did not fall;
- by the answers: a commit is kept where fail, undecided, pass did not get worse;
- not at all: 200 candidates chosen beforehand, whatever the gate said of those before.

The families: `level` is truly 1.5 points worse than the release in every commit, so that each pass of a limit of one
point is wrong; `limit` is worse by the limit itself (and a hair), the hardest case of one question; `falling` begins as
the release and falls towards 2 points with every commit kept, so that its first passes are right; `same` is as good as
the release. Examples are exchangeable within four groups (right and wrong, before and now), so that counts are drawn in
place of answers: the same distribution at a thousandth of the cost.

Bounds are the package's own: Tango's score at `gate.test_reuse.level`. Rates come with exact 95 % bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compression_gate.gate.power import examples_needed, power_of_pass
from compression_gate.gate.proportions import clopper_pearson, tango_bounds, upper_quantile
from compression_gate.gate.test_reuse import level
from compression_gate.records.params import GateParams
from compression_gate.records.rules import Rule
from compression_gate.selftest.enumeration import scores_at

RESULTS = Path(__file__).parent / "results" / "test_reuse.json"
HISTORIES, COMMITS, SEED = 2_000, 200, 11
ACCURACY, DISCORDANCE, REDRAWN, CONFIDENCE = 0.92, 0.04, 0.1, 0.95
HAIR = 1e-9


FAMILIES = {"level": 0.015, "falling": 0.02, "same": 0.0}  # the true drop in the end; of `limit`, the limit


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row.

    Args:
        mode: of `test_reuse`; uses: allowed, and commits made. margin: the limit on a drop.
        adversary: figures, answers, or none.
    """

    n: int
    family: str
    adversary: str
    mode: str | None = None
    uses: int = COMMITS
    margin: float = 0.01

    @property
    def gate(self) -> GateParams:
        """The rule and the policy, as `params.yaml` has them."""
        rule = Rule.model_validate({"metric": "accuracy", "max_drop": self.margin})
        policies = {"test_reuse": {"uses": self.uses, "mode": self.mode}} if self.mode else {}
        return GateParams(confidence=CONFIDENCE, rules={"accuracy": rule}, policies=policies)

    @property
    def shares(self) -> tuple[float, float]:
        """What the family loses and wins in the end, as shares of the population."""
        drop = FAMILIES.get(self.family, self.margin + HAIR)
        return (DISCORDANCE + drop) / 2, (DISCORDANCE - drop) / 2


def settings() -> Iterator[Setting]:
    """Without protection; with each mode, its premise kept; and one mode with its premise broken."""
    for n in (2_000, 10_000):
        yield Setting(n=n, family="same", adversary="figures")
        for family in ("level", "falling"):
            yield Setting(n=n, family=family, adversary="figures")
            yield Setting(n=n, family=family, adversary="answers")
        yield Setting(n=n, family="limit", adversary="none")
        yield Setting(n=n, family="limit", adversary="none", mode="non_adaptive")
        for family in ("level", "falling"):
            yield Setting(n=n, family=family, adversary="none", mode="non_adaptive")
            yield Setting(n=n, family=family, adversary="figures", mode="non_adaptive")
            yield Setting(n=n, family=family, adversary="answers", mode="adaptive")
    for mode in (None, "adaptive"):
        yield Setting(n=10_000, family="limit", adversary="answers", mode=mode, uses=5)
        yield Setting(n=10_000, family="limit", adversary="answers", mode=mode, uses=20, margin=0.03)


@dataclass(kw_only=True)
class Histories:
    """Many histories side by side: counts (H,) of the test set, and where each candidate truly is.

    Args:
        right, wrong: examples that the release has right, and wrong. lost: of the former, those the candidate has
            wrong; won: of the latter, those it has right. true_lost, true_won: the same as shares of the population.
    """

    right: np.ndarray
    wrong: np.ndarray
    lost: np.ndarray
    won: np.ndarray
    true_lost: np.ndarray
    true_won: np.ndarray

    @property
    def drop(self) -> np.ndarray:
        """Observed drop (H,), in examples."""
        return self.lost - self.won

    @property
    def true_drop(self) -> np.ndarray:
        """True drop (H,), as a share."""
        return self.true_lost - self.true_won

    def keep(self, where: np.ndarray, other: Histories) -> Histories:
        """These histories, and the other ones' candidate where it is kept."""
        names = ("lost", "won", "true_lost", "true_won")
        chosen = {name: np.where(where, getattr(other, name), getattr(self, name)) for name in names}
        return Histories(right=self.right, wrong=self.wrong, **chosen)


def begun(setting: Setting, number: int, random: np.random.Generator) -> Histories:
    """The first candidates."""
    lost_share, won_share = (0.0, 0.0) if setting.family == "falling" else setting.shares
    right = random.binomial(setting.n, ACCURACY, size=number)
    wrong = setting.n - right
    return Histories(
        right=right,
        wrong=wrong,
        lost=random.binomial(right, lost_share / ACCURACY),
        won=random.binomial(wrong, won_share / (1 - ACCURACY)),
        true_lost=np.full(number, lost_share),
        true_won=np.full(number, won_share),
    )


def proposed(now: Histories, setting: Setting, random: np.random.Generator) -> Histories:
    """A commit on top: a random tenth of all inputs is answered anew, as the family answers in the end."""
    lost_share, won_share = setting.shares
    share = 1.0 if setting.adversary == "none" and setting.family != "falling" else REDRAWN

    def redrawn(held: np.ndarray, size: np.ndarray, rate: float) -> np.ndarray:
        """How many of a group's examples are counted afterwards; ``held`` are before."""
        touched, touched_others = random.binomial(held, share), random.binomial(size - held, share)
        return held - touched + random.binomial(touched + touched_others, rate)

    return Histories(
        right=now.right,
        wrong=now.wrong,
        lost=redrawn(now.lost, now.right, lost_share / ACCURACY),
        won=redrawn(now.won, now.wrong, won_share / (1 - ACCURACY)),
        true_lost=now.true_lost + share * (lost_share - now.true_lost),
        true_won=now.true_won + share * (won_share - now.true_won),
    )


def answers(now: Histories, setting: Setting, z: float) -> np.ndarray:
    """2 pass, 1 undecided, 0 fail, (H,): what the bounds at ``z`` deviations say of the limit."""
    scores = scores_at(now.lost, now.won, setting.n, setting.margin)
    return np.where(scores <= -z, 2, np.where(scores >= z, 0, 1))


def replay(setting: Setting, number: int, seed: int) -> dict[str, np.ndarray]:
    """Let ``number`` histories run: any wrong pass (H,), and how far the figures have climbed over the truth (H,)."""
    random = np.random.default_rng(seed)
    z = upper_quantile(level(setting.gate))
    now = begun(setting, number, random)
    said = answers(now, setting, z)
    wrong = (said == 2) & (now.true_drop > setting.margin)
    for _ in range(setting.uses - 1):
        new = proposed(now, setting, random)
        told = answers(new, setting, z)
        wrong |= (told == 2) & (new.true_drop > setting.margin)
        if setting.adversary == "figures":
            kept = new.drop <= now.drop
        elif setting.adversary == "answers":
            kept = told >= said
        else:
            kept = np.ones(number, dtype=bool)
        now, said = now.keep(kept, new), np.where(kept, told, said)
    return {"wrong": wrong, "climb": now.true_drop - now.drop / setting.n}


def row_of(setting: Setting, number: int, seed: int) -> dict:
    """One row of the results."""
    found = replay(setting, number, seed)
    events, alpha = int(found["wrong"].sum()), level(setting.gate)
    climb = found["climb"]
    return {
        "n": setting.n,
        "family": setting.family,
        "adversary": setting.adversary,
        "test_reuse": setting.mode,
        "commits": setting.uses,
        "margin": setting.margin,
        "alpha": alpha,
        "histories": number,
        "seed": seed,
        "wrong_pass": events,
        "low": clopper_pearson(events, number, 0.025)[0],
        "high": clopper_pearson(events, number, 0.025)[1],
        "climb_points": round(float(climb.mean()) * 100, 4),
        "climb_points_high": round(float(np.quantile(climb, 0.95)) * 100, 4),
        "power": power_of_pass(DISCORDANCE, setting.n, setting.margin, alpha),
        "examples_for_power": examples_needed(DISCORDANCE, setting.margin, alpha),
    }


def agree(setting: Setting) -> None:
    """The fast answers are those of the interval that the gate itself takes, on a few hundred counts."""
    alpha = level(setting.gate)
    random = np.random.default_rng(SEED)
    now = begun(setting, 300, random)
    for place, said in enumerate(answers(now, setting, upper_quantile(alpha))):
        low, high = tango_bounds(int(now.lost[place]), int(now.won[place]), setting.n, alpha)
        assert (high <= setting.margin, low > setting.margin) == (said == 2, said == 0), setting


TRULY = {"level": "1.5 points worse", "limit": "worse by the limit"}
STEERED = {"figures": "the figures", "answers": "the answers", "none": "nothing"}


def markdown(rows: list[dict]) -> Iterator[str]:
    """The table of the docs: a limit of one point, every pass wrong."""
    heads = (
        "n",
        "commits, steered by",
        "each truly",
        "`test_reuse`",
        "histories with a wrong pass",
        "climb",
        "n for 80 %",
    )
    yield f"| {' | '.join(heads)} |"
    yield "|---:|---|---|---|---:|---:|---:|"
    for row in rows:
        hardest = row["adversary"] != "none" or row["family"] == "limit"
        if row["family"] in TRULY and row["margin"] == Setting.margin and hardest:
            rate = f"{100 * row['wrong_pass'] / row['histories']:.1f} %"
            ends = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
            yield (
                f"| {row['n']:,} | {row['commits']}, {STEERED[row['adversary']]} | {TRULY[row['family']]} | "
                f"{row['test_reuse'] or 'null'} | {rate} ({ends}) | {round(row['climb_points'], 1) + 0.0:.1f} | "
                f"{row['examples_for_power']:,} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=HISTORIES)
    parser.add_argument("--write", action="store_true", help=f"store the figures in {RESULTS.name}")
    parser.add_argument("--markdown", action="store_true", help="print the stored table of the docs and nothing else")
    given = parser.parse_args()
    if given.markdown:
        print("\n".join(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])))
        return
    start, rows = time.perf_counter(), []
    for number, setting in enumerate(settings()):
        agree(setting)
        rows.append(row_of(setting, given.histories, SEED + number))
        row = rows[-1]
        print(
            f"n = {row['n']:>6,}, limit {row['margin'] * 100:g}, {row['family']:<7}, steered by {row['adversary']:<7}, "
            f"test_reuse {row['test_reuse'] or 'null':<12}: {row['commits']} commits, any wrong pass in "
            f"{row['wrong_pass']:,} of {row['histories']:,} histories ({row['low']:.2%} to {row['high']:.2%}), "
            f"figures {row['climb_points']:+.2f} points over the truth; "
            f"power {row['power']:.0%}, 80 % needs n = {row['examples_for_power']:,}"
        )
    seconds = time.perf_counter() - start
    print(f"{seconds:.1f} s, seeds {SEED} to {SEED + len(rows) - 1}, load {os.getloadavg()[0]:.1f}")
    if given.write:
        RESULTS.write_text(json.dumps({"seconds": round(seconds, 1), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
