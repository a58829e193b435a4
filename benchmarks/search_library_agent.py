"""A library's agent in the place of ours: `python benchmarks/search_library_agent.py [--seeds 5]`.

DDPG of stable-baselines3, as AMC uses it: the walk, states, clipping and preferences of `reinforcement`, one reward an
episode, handed to its last action, less a moving mean; 32 episodes of chance, then noise that fades. Networks are
1000 and on of `search_landscape.py`, `reinforcement` and `random` run on the same ones, with one strength for all
layers. stable-baselines3 and gymnasium are no dependencies of this package: install them with
`pip install -c constraints.txt stable-baselines3` first; they bring no other torch.

Rows go to `benchmarks/results/search_library_agent.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

import gymnasium
import numpy as np
import stable_baselines3
from search_landscape import MOST_LOST, Landscape
from search_synthetic import BUDGETS, POPULATION, TUNING, row_of, row_told, setup_of
from stable_baselines3.common.logger import configure

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.trial import Genome
from compression_gate.search.base import Proposal, Setup
from compression_gate.search.descriptors import place_of, settled
from compression_gate.search.objective import Score
from compression_gate.search.policy import Policy

RESULTS = Path(__file__).parent / "results" / "search_library_agent.json"
WARM_UP = 2 * POPULATION
NOISE, FADES = 1.0, 0.985
LARGEST = np.nextafter(1.0, 0.0)


class Shape(gymnasium.Env):
    """What the library wants to know of states and actions; nothing is ever played in it."""

    def __init__(self, width: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-10, 10, (width,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)


class Ddpg:
    """A searcher around the library's actor, critic and memory."""

    def __init__(self, setup: Setup) -> None:
        self.own = Policy(setup.space, setup.values, setup.seed, setup.known)  # for its walk and states alone
        self.agent = stable_baselines3.DDPG(
            "MlpPolicy",
            Shape(self.own.width),
            batch_size=64,
            gamma=1.0,
            seed=setup.seed,
            policy_kwargs={"net_arch": [64, 64]},
            device="cpu",
        )
        self.agent.set_logger(configure(None, []))
        self.start, self.coins = list(setup.start), np.random.default_rng(setup.seed)
        self.asked, self.due, self.mean = 0, 0, 0.0
        self.walks: list[tuple[Genome, list[tuple[np.ndarray, float]], np.ndarray]] = []

    def ask(self) -> Proposal:
        if self.start:
            return Proposal(genome=self.start.pop(0), origin="start")
        if self.due:
            self.agent.train(gradient_steps=self.due, batch_size=64)
            self.due = 0
        genome, walked, preference = self.walk()
        self.asked += 1
        self.walks.append((genome, walked, preference))
        return Proposal(genome=genome, origin="ddpg")

    def walk(self) -> tuple[Genome, list[tuple[np.ndarray, float]], np.ndarray]:
        own, preference = self.own, self.own.preference()
        genome, count = settled(own.walk.space.genes), len(own.walk.stops)
        places, known, saved, walked = np.zeros(count), np.zeros(count), 0.0, []
        for index, stop in enumerate(own.walk.stops):
            if not stop.is_used(own.walk.space.complete(genome)):
                continue
            state = np.concatenate([own.fixed[index], places, known, [saved], preference]).astype(np.float32)
            action = self.action(state)
            value = stop.gene.at(min((action + 1) / 2, LARGEST))
            genome[stop.name] = own.clipping.clipped(index, genome, value)
            places[index], known[index] = 2 * place_of(stop.gene, genome[stop.name]) - 1, 1.0
            saved += own.clipping.share_saved(stop, genome)
            walked.append((state, action))
        return genome, walked, preference

    def action(self, state: np.ndarray) -> float:
        if self.asked < WARM_UP:
            return float(self.coins.uniform(-1, 1))
        spread = NOISE * FADES ** (self.asked - WARM_UP)
        chosen = self.agent.predict(state, deterministic=True)[0][0]
        return float(np.clip(chosen + spread * self.coins.standard_normal(), -1, 1))

    def tell(self, proposal: Proposal, score: Score) -> None:
        place = next((at for at, (genome, *_) in enumerate(self.walks) if genome is proposal.genome), None)
        if place is None:
            return  # the start was nobody's walk
        _, walked, preference = self.walks.pop(place)
        reward = rewarded(score, preference)
        for index, (state, action) in enumerate(walked):
            last = index + 1 == len(walked)
            after = np.zeros_like(state) if last else walked[index + 1][0]
            worth = reward - self.mean if last else 0.0
            self.agent.replay_buffer.add(
                state[None], after[None], np.array([[action]]), np.array([worth]), np.array([last]), [{}]
            )
        self.mean += 0.05 * (reward - self.mean)
        self.due += len(walked)


def rewarded(score: Score, preference: np.ndarray) -> float:
    """One number of a score: the worst weighted objective inside the limits, the distance outside, failures last."""
    if not score.complete:
        return -3.0
    if score.violation > 0:
        return -1 - min(score.violation, 2.0) / 2
    lost, size, latency = score.values
    return 1 - float((np.array([lost / MOST_LOST, 1 + math.log10(size) / 2, latency]) * preference).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    rows = []
    for seed in range(TUNING, TUNING + asked.seeds):
        landscape = Landscape(variant=seed)
        ddpg = Ddpg(setup_of(landscape, seed))
        rows.append(row_told("ddpg", ddpg, landscape, seed, max(BUDGETS)))
        rows += [row_of(name, "one strength", seed) for name in ("reinforcement", "random")]
    found = {
        "stable-baselines3": stable_baselines3.__version__,
        "machine": machine_fingerprint(),
        "load": round(os.getloadavg()[0], 2),
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name in ("ddpg", "reinforcement", "random"):
        mine = [row for row in rows if row["searcher"] == name]
        told = [f"{np.mean([row[f'at {budget}']['hypervolume'] for row in mine]):.3f}" for budget in BUDGETS]
        print(name, *told, f"{np.mean([row['ms_per_trial'] for row in mine]):.0f} ms a trial, n = {len(mine)}")


if __name__ == "__main__":
    main()
