"""The policy of `reinforcement` and `hybrid`: a small network that settles one gene after the other.

An episode is a walk through a genome. The state is what is known of the gene, what was settled so far, how much of the
budget that saved, and by which preference between objectives the trial will be rewarded; the action is a place in the
gene's range. One reward ends the episode, from the trial's score.

Trials are few and dear, so all of them are learned from again and again (of thousands, the newest and the best), and
under every preference: what a trial is worth follows from its score for any weights. Of two trials each walk to the
better one is made likelier, the more the better it ranks. That needs no probabilities of when the trial was proposed,
so trials of anybody else serve as well.

Source: walks over layers with one reward at the end and actions clipped to the budget, Y. He et al., AMC: AutoML for
Model Compression, 2018, §3, and K. Wang et al., HAQ: Hardware-Aware Automated Quantization, 2019, §3; weighted
regression instead of a policy gradient, X. B. Peng et al., Advantage-Weighted Regression, 2019, §3 (here by ranks in
place of a value network); learning from one episode under several goals, M. Andrychowicz et al., Hindsight Experience
Replay, 2017, §3.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compression_gate.records.trial import Genome
from compression_gate.search.clipping import Clipping
from compression_gate.search.descriptors import Knowledge, Stop, Walk, place_of, settled, walk_of
from compression_gate.search.genes import Choice
from compression_gate.search.objective import Score
from compression_gate.search.space import Space

BINS = 12  # of a number's range; within a bin all places are equally likely
BLUR = 0.08  # how far from a good place a place is held to be as good, as a share of the range
HIDDEN = 64
RATE = 0.01
UPDATES = 3  # of the network for every trial told
ROWS = 1500  # walked stops in one update
PREFERENCES = 4  # in one update
CORNERS = 0.5  # under 1, so that preferences for one objective above all come often
SHARPNESS = 0.03  # the best share of the trials that is imitated most
FEWEST_BEST = 3.0
EXPLORED = 0.08  # of the actions are pure chance
ENTROPY = 0.01
SPREAD = 0.05  # what the sum of all objectives counts beside the worst of them

REMEMBERED = 1_000  # trials; there are up to twice as many between one clearing and the next

Keep = Callable[[Stop], Any]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A walk through a genome, and what the trial was worth.

    Args:
        places: of the values in their genes' ranges, ``(S,)``; used: which genes had a part in it, ``(S,)``.
        saved: share of the budget that each gene saved, ``(S,)``.
    """

    genome: Genome
    places: np.ndarray
    used: list[bool]
    saved: np.ndarray
    score: Score


class Trials:
    """What was told: all of it, later the newest trials and the best of those before."""

    def __init__(self, walk: Walk, clipping: Clipping, values: int) -> None:
        self.walk, self.clipping = walk, clipping
        self.goals = [*np.eye(values), np.ones(values)]
        self.episodes: list[Episode] = []

    def __len__(self) -> int:
        return len(self.episodes)

    def add(self, genome: Genome, score: Score) -> None:
        """Note a trial."""
        used = self.walk.used(genome)
        places, saved = self.walk.places(genome), self.clipping.saved(genome, used)
        self.episodes.append(Episode(genome=genome, places=places, used=used, saved=saved, score=score))
        if len(self) > 2 * REMEMBERED:
            self.forget()

    def forget(self) -> None:
        """Keep the newer half of what is remembered, and as many of the older that are best under some preference.

        What is learned from all trials, and their order, would otherwise take longer with each of them.
        """
        newest = len(self) - REMEMBERED // 2
        best = np.min([self.order(goal) for goal in self.goals], axis=0)
        older = np.argsort(best[:newest], kind="stable")[: REMEMBERED // 2]
        self.episodes = [self.episodes[index] for index in (*sorted(older), *range(newest, len(self)))]

    def order(self, preference: np.ndarray) -> np.ndarray:
        """Ranks of all trials under a preference, 0 for the best, equal for equals, ``(N,)``.

        Within the limits by the worst weighted objective (each by its own ranks, so that units do not matter), outside
        of them by how far; trials that failed are last.

        Source: of weighted maxima instead of sums, which find no front that bends inwards: K. Miettinen, Nonlinear
        Multiobjective Optimization, 1999, §3.4.
        """
        violations = np.array([one.score.violation for one in self.episodes])
        worth = np.where(np.isfinite(violations), 2 + violations, np.inf)
        inside = np.flatnonzero(violations <= 0)
        if len(inside):
            values = np.array([self.episodes[index].score.values for index in inside])
            shares = np.stack([ranked(column) for column in values.T], axis=1) / max(1, len(inside) - 1)
            weighted = shares * preference
            worth[inside] = weighted.max(axis=1) + SPREAD * weighted.sum(axis=1)
        return ranked(worth)


def ranked(values: np.ndarray) -> np.ndarray:
    """How many values are smaller than each, ``(N,)``."""
    return np.searchsorted(np.sort(values), values)


class Policy:
    """A network that proposes genomes, and learns from trials.

    Args:
        values: how many objectives a score has.
    """

    def __init__(self, space: Space, values: int, seed: int, known: Knowledge | None = None) -> None:
        self.walk = walk_of(space, known)
        self.clipping = Clipping(walk=self.walk, known=known)
        self.trials = Trials(self.walk, self.clipping, values)
        self.values, self.due = values, 0
        self.coins = random.Random(seed)  # noqa: S311  # coins, not secrets
        self.numbers = np.random.default_rng(seed)
        self.sizes = [bins_of(stop) for stop in self.walk.stops]
        self.network = Network(self.width, max(self.sizes, default=1), torch.Generator().manual_seed(seed))

    @property
    def width(self) -> int:
        """How many numbers a state has: which gene, what is known of it, what was settled, saved, preferred."""
        count = len(self.walk.stops)
        return 3 * count + int(self.walk.features.shape[1]) + 1 + self.values

    @cached_property
    def fixed(self) -> np.ndarray:
        """The part of every gene's state that never changes, ``(S, S + F)``."""
        return np.concatenate([np.eye(len(self.walk.stops)), self.walk.features], axis=1)

    @cached_property
    def masks(self) -> np.ndarray:
        """Which actions each gene has, ``(S, K)``."""
        return np.arange(max(self.sizes, default=1)) < np.array(self.sizes)[:, None]

    def tell(self, genome: Genome, score: Score) -> None:
        """Take note of a trial; it is learned from before the next proposal."""
        self.trials.add(genome, score)
        self.due += UPDATES

    def preference(self) -> np.ndarray:
        """Weights of the objectives, drawn anew, the largest 1, ``(D,)``."""
        weights = self.numbers.dirichlet(np.full(self.values, CORNERS))
        return np.asarray(weights / weights.max())

    def elite(self, preference: np.ndarray) -> Genome:
        """One of the best trials under a preference, the better the likelier."""
        chances = np.exp(-self.trials.order(preference) / FEWEST_BEST)
        return self.trials.episodes[int(self.numbers.choice(len(chances), p=chances / chances.sum()))].genome

    def propose(
        self,
        kept: Genome | None = None,
        keeps: Callable[[Stop], bool] = lambda stop: False,
        preference: np.ndarray | None = None,
    ) -> Genome:
        """Walk through a genome.

        Args:
            preference: drawn anew for None.
            kept: a genome of which the genes are taken that ``keeps`` says so of; the others' values are the middle
                where they are not used.
        """
        self.learn()
        genome = dict(kept) if kept is not None else settled(self.walk.space.genes)
        preference = self.preference() if preference is None else preference
        count = len(self.walk.stops)
        places, known, saved = np.zeros(count), np.zeros(count), 0.0
        for index, stop in enumerate(self.walk.stops):
            if not stop.is_used(self.walk.space.complete(genome)):
                continue
            if kept is None or not keeps(stop):
                state = np.concatenate([self.fixed[index], places, known, [saved], preference])
                genome[stop.name] = self.clipping.clipped(index, genome, stop.gene.at(self.action(index, state)))
            places[index], known[index] = 2 * place_of(stop.gene, genome[stop.name]) - 1, 1.0
            saved += self.clipping.share_saved(stop, genome)
        return genome

    def action(self, index: int, state: np.ndarray) -> float:
        """A place of the gene's range, drawn as the network says, now and then by pure chance."""
        size = self.sizes[index]
        if self.coins.random() < EXPLORED:
            return self.coins.random()
        with torch.no_grad():
            logits = self.network(torch.from_numpy(state).float())[:size].double().numpy()
        chances = np.exp(logits - logits.max())
        chosen = self.coins.choices(range(size), weights=list(chances))[0]
        return (chosen + self.coins.random()) / size

    def learn(self) -> None:
        """Move the network towards the walks of the better trials, as often as is due."""
        for _ in range(self.due if len(self.trials) > FEWEST_BEST else 0):
            self.update(*self.drawn())
        self.due = 0

    def drawn(self) -> tuple[list[Episode], np.ndarray]:
        """Trials for one update, better ones more often, and the preferences they are good under, ``(E, D)``."""
        count = len(self.trials)
        each = max(1, ROWS // max(1, len(self.walk.stops)) // PREFERENCES)
        episodes: list[Episode] = []
        preferences = []
        for _ in range(PREFERENCES):
            preference = self.preference()
            chances = np.exp(-self.trials.order(preference) / max(FEWEST_BEST, SHARPNESS * count))
            chosen = self.numbers.choice(count, size=each, p=chances / chances.sum())
            episodes += [self.trials.episodes[index] for index in chosen]
            preferences += [preference] * each
        return episodes, np.array(preferences)

    def update(self, episodes: Sequence[Episode], preferences: np.ndarray) -> None:
        """One step of the network towards what these trials did at every gene."""
        places = np.array([one.places for one in episodes])  # (E, S)
        used = np.array([one.used for one in episodes])
        saved = np.array([one.saved for one in episodes])
        states = self.states(places, used, saved, preferences)[used]
        genes = np.nonzero(used)[1]
        targets, masks = self.targets(places[used], genes), self.masks[genes]
        self.network.step(torch.from_numpy(states).float(), torch.from_numpy(targets).float(), torch.from_numpy(masks))

    def states(self, places: np.ndarray, used: np.ndarray, saved: np.ndarray, preferences: np.ndarray) -> np.ndarray:
        """The state at every gene of every walk, ``(E, S, W)``."""
        walks, count = places.shape
        before = np.tril(np.ones((count, count)), -1)[None] * used[:, None, :]  # (E, S, S): what is settled by then
        parts = [
            np.broadcast_to(self.fixed, (walks, *self.fixed.shape)),
            (2 * places - 1)[:, None, :] * before,
            before,
            (saved.cumsum(axis=1) - saved)[:, :, None],
            np.broadcast_to(preferences[:, None, :], (walks, count, self.values)),
        ]
        return np.concatenate(parts, axis=2)

    def targets(self, places: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """What the network should have said: the bin that was taken, of numbers those around it too, ``(R, K)``."""
        sizes = np.array(self.sizes)[genes]
        centres = (np.arange(self.masks.shape[1]) + 0.5) / sizes[:, None]
        ordered = np.array([not isinstance(stop.gene, Choice) for stop in self.walk.stops])[genes]
        blurred = np.exp(-(((centres - places[:, None]) / BLUR) ** 2) / 2)
        taken = np.minimum((places * sizes).astype(int), sizes - 1)
        exact = np.arange(self.masks.shape[1]) == taken[:, None]
        weights = np.where(ordered[:, None], blurred, exact) * self.masks[genes]
        return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12))


class Network:
    """Two layers from a state to what each action is worth, and Adam, without the global generator of torch.

    The second layer begins with zeros, so that at first all actions are equally likely.
    """

    def __init__(self, width: int, actions: int, generator: torch.Generator) -> None:
        self.inner = torch.randn(width, HIDDEN, generator=generator) / math.sqrt(HIDDEN)
        self.weights = [self.inner, torch.zeros(HIDDEN), torch.zeros(HIDDEN, actions), torch.zeros(actions)]
        for weight in self.weights:
            weight.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.weights, lr=RATE)

    def __call__(self, states: Tensor) -> Tensor:
        """Logits of all actions, ``(…, K)``."""
        inner, bias, outer, offset = self.weights
        return torch.tanh(states @ inner + bias) @ outer + offset

    def step(self, states: Tensor, targets: Tensor, masks: Tensor) -> None:
        """One step towards the targets, and a little towards chance."""
        logs = self(states).masked_fill(~masks, -1e9).log_softmax(dim=1)
        entropy = -(logs.exp() * logs.masked_fill(~masks, 0.0)).sum(dim=1)
        loss = -(targets * logs.masked_fill(~masks, 0.0)).sum(dim=1) - ENTROPY * entropy
        self.optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]  # torch's own
        self.optimizer.step()


def bins_of(stop: Stop) -> int:
    """How many actions a gene has: its values, or so many parts of its range."""
    if isinstance(stop.gene, Choice):
        return stop.gene.size
    return BINS if stop.gene.count is None else min(BINS, stop.gene.count)
