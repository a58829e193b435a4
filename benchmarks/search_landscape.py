"""Made-up networks whose compression costs nothing: a pure function from a chain to its figures.

What a real trial takes half a minute for is here a few products, so that searchers can be compared over many seeds. The
network has layers with shares of weights and of multiply-accumulates and a sensitivity each. Steps act in order on how
much of each layer is left; what they lose adds up, a pruned layer bears rounding worse, factors bear pruning worse,
training gives back part of what was lost before it and nothing of what is lost behind it. A few corners crash. The
shape of each effect was chosen to look like the tables of `docs/methods.md`, not fitted to them: who wins here need not
win on a real network.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from compression_gate.records.params import Step
from compression_gate.records.recipe import recipe_digest
from compression_gate.records.sensitivity import Sensitivity, SensitivityTable
from compression_gate.records.trial import Genome
from compression_gate.search.objective import Score
from compression_gate.search.space import Space, Units, space_of

LAYERS = tuple(f"layer{index}" for index in range(6))
MOST_LOST = 0.01  # the gate's default
MOST_LATENCY = 1.05
NOISE = 0.0006  # of a quality on a few thousand examples, paired
BYTES = 1_000_000
OVERHEAD = 0.006
ROUNDING = {8: 0.004, 6: 0.015, 5: 0.03, 4: 0.07, 3: 0.22, 2: 0.9}  # quality lost, as a share of the sensitivity
FAILED = Score(values=(), violation=math.inf)

DISTIL = {
    "method": "distillation",
    "epochs": [1, 2],
    "alpha": {"low": 0.0, "high": 0.9},
    "temperature": {"low": 1.0, "high": 8.0},
    "optional": True,
}
SPACES: dict[str, list[dict[str, Any]]] = {
    "one strength": [  # as the default space of a convolutional network
        {
            "method": "structured_pruning",
            "pruning_ratio": {"low": 0.05, "high": 0.85},
            "importance": ["l2", "taylor", "activation"],
            "optional": True,
        },
        {"method": "low_rank", "ratio": {"low": 0.15, "high": 0.8}, "optional": True},
        DISTIL,
        {"method": "batchnorm_folding", "optional": True},
        {
            "any_of": [
                {"method": "static_quantization", "bits": 8, "calibration": ["minmax", "percentile", "mse", "entropy"]},
                {
                    "method": "quantization_aware_training",
                    "bits": [8, 4],
                    "epochs": [1, 2],
                    "distill": [True, False],
                },
                {"method": "weight_only_quantization", "bits": [8, 4, 3, 2]},
            ],
            "optional": True,
        },
    ],
    "by layer": [
        {"method": "structured_pruning", "pruning_ratio": {"by_layer": {"low": 0.0, "high": 0.85}}, "optional": True},
        DISTIL,
        {"method": "weight_only_quantization", "bits": {"by_layer": [8, 6, 5, 4, 3, 2]}, "optional": True},
    ],
}
START = [
    Step.model_validate({"method": "structured_pruning", "pruning_ratio": 0.5}),
    Step.model_validate({"method": "distillation", "epochs": 2, "temperature": 4.0, "alpha": 0.7}),
    Step.model_validate({"method": "weight_only_quantization", "bits": 8}),
]


@dataclass(kw_only=True)
class State:
    """A network under compression; every array by layer ``(L,)``.

    Args:
        width, rank: shares that are left, of channels and of what low rank makes of a layer.
        lost: quality lost so far, what training may give back.
    """

    width: np.ndarray
    rank: np.ndarray
    bits: np.ndarray
    lost: float = 0.0
    integers: bool = False
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """One made-up network.

    Args:
        variant: its seed: shares, sensitivities and which options suit it.
    """

    variant: int
    kind: str = "one strength"
    traits: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        coins = np.random.default_rng([self.variant, 7])
        count = len(LAYERS)
        weights, macs = coins.dirichlet(np.full(count, 1.2)), coins.dirichlet(np.full(count, 1.5))
        sensitivity = coins.dirichlet(np.full(count, 0.9)) * coins.uniform(0.12, 0.22)
        found = {
            "weights": weights,
            "macs": macs,
            "sensitivity": sensitivity,
            "importance": dict(zip(("l2", "taylor", "activation"), coins.permutation([1.0, 0.85, 0.7]), strict=True)),
            "calibration": dict(
                zip(("minmax", "percentile", "mse", "entropy"), coins.permutation([1.0, 1.4, 1.8, 2.5]), strict=True)
            ),
            "alpha": coins.uniform(0.3, 0.85),
            "temperature": coins.uniform(2.0, 6.0),
            "bends": coins.uniform(2.0, 3.0),
        }
        object.__setattr__(self, "traits", found)

    @cached_property
    def space(self) -> Space:
        """The space over this network; layers most sensitive first, as a search orders them."""
        order = sorted(range(len(LAYERS)), key=lambda index: -self.traits["sensitivity"][index])
        known = {LAYERS[index]: (LAYERS[index],) for index in order}
        units = Units(of={"structured_pruning": known, "weight_only_quantization": known})
        return space_of(SPACES[self.kind], free_order=True, units=units)

    @property
    def start(self) -> Genome:
        """The chain that somebody would write by hand."""
        genome = self.space.genome_of(START)
        assert genome is not None
        if self.kind == "by layer":
            genome |= {name: 0.5 for name in genome if ".pruning_ratio." in name}
        return genome

    @cached_property
    def table(self) -> SensitivityTable:
        """What one layer alone loses and saves, without any training: what a search measures before it begins."""
        strengths = {
            "structured_pruning": ("pruning_ratio", (0.25, 0.5, 0.75)),
            "weight_only_quantization": ("bits", (2, 4, 8)),
        }
        rows = []
        for method, (option, values) in strengths.items():
            for index, layer in enumerate(LAYERS):
                for value in values:
                    others = [name for name in LAYERS if name != layer]
                    step = Step.model_validate({"method": method, option: value, "ignore": others})
                    state = self.after([step])
                    assert state is not None
                    saved = 1 - self.size(state)
                    rows.append(
                        Sensitivity(
                            layer=layer,
                            members=(layer,),
                            method=method,
                            option=option,
                            strength=value,
                            loss_rise=state.lost * (1 + 0.1 * self.noise(f"{method} {index} {value}")),
                            outputs_moved=state.lost,
                            bytes_saved=round(saved * BYTES),
                        )
                    )
        return SensitivityTable(
            weights_digest=str(self.variant), n=2000, metric="accuracy", loss=0.3, quality=0.92, rows=rows, seconds=0.0
        )

    def score(self, genome: Genome) -> Score:
        """What a searcher is told of a genome."""
        return self.of_steps(self.space.steps_of(genome))

    def of_steps(self, steps: Sequence[Step]) -> Score:
        """The same of a chain: quality lost, size and latency as shares of the reference's."""
        state = self.after(steps)
        if state is None:
            return FAILED
        lost = 0.9 * math.tanh(state.lost / 0.9) + NOISE * self.noise(recipe_digest(steps))
        latency = round(float(self.latency(state)), 2)
        violation = max(0.0, lost / MOST_LOST - 1) + max(0.0, latency / MOST_LATENCY - 1)
        return Score(values=(lost, self.size(state), latency), violation=violation)

    def after(self, steps: Sequence[Step]) -> State | None:
        """The network behind a chain; None where it crashed."""
        ones = np.ones(len(LAYERS))
        state = State(width=ones.copy(), rank=ones.copy(), bits=32 * ones)
        for step in steps:
            chosen = np.array([layer not in step.options.get("ignore", ()) for layer in LAYERS])
            ACTS[step.method](self.traits, state, step.options, chosen)
            if state.width.min() < 0.3 and state.rank.min() < 0.25:
                return None  # a factor of no rows
            if state.bits.min() <= 2 and state.width.mean() < 0.4:
                return None  # the loss is not a number
        return state

    def size(self, state: State) -> float:
        """Bytes as a share of the reference's; a layer loses rows with its own channels, columns with its inputs'."""
        inputs = np.concatenate([[1.0], state.width[:-1]])
        return OVERHEAD + float(
            (self.traits["weights"] * state.width * inputs * np.minimum(1, 1.3 * state.rank) * state.bits / 32).sum()
        )

    def latency(self, state: State) -> float:
        """A call's time as a share of the reference's: part of it is no arithmetic, thin layers are not quick."""
        inputs = np.concatenate([[1.0], state.width[:-1]])
        ranks = np.where(state.rank < 1, 0.25 + state.rank, 1)
        work = float((self.traits["macs"] * state.width**0.8 * inputs**0.8 * ranks).sum())
        work *= 0.45 if state.integers else 1.0 + 0.08 * (state.bits.min() < 32)
        return 0.15 + (0.81 if state.folded else 0.85) * work

    def noise(self, text: str) -> float:
        """A normal number that always is the same for a text and a variant."""
        digest = hashlib.sha256(f"{self.variant} {text}".encode()).digest()
        return float(np.random.default_rng(list(digest[:8])).standard_normal())


def prune(traits: Mapping[str, Any], state: State, options: Mapping[str, Any], chosen: np.ndarray) -> None:
    ratio = options["pruning_ratio"] * chosen
    suits = traits["importance"][options.get("importance", "l2")]
    worse = 1 + 1.5 * (state.rank < 1)
    state.lost += float((traits["sensitivity"] * suits * worse * ratio ** traits["bends"]).sum())
    state.width = state.width * (1 - ratio)


def factorise(traits: Mapping[str, Any], state: State, options: Mapping[str, Any], chosen: np.ndarray) -> None:
    state.rank = np.where(chosen, options["ratio"], state.rank)
    worse = 1 + 1.5 * (1 - state.width)
    state.lost += float((0.45 * traits["sensitivity"] * worse * (1 - state.rank) ** 2).sum())


def distil(traits: Mapping[str, Any], state: State, options: Mapping[str, Any], chosen: np.ndarray) -> None:
    suits = math.exp(-(((options["alpha"] - traits["alpha"]) / 0.4) ** 2))
    suits *= math.exp(-((math.log(options["temperature"] / traits["temperature"]) / 0.9) ** 2))
    back = (0.5 if options["epochs"] == 1 else 0.62) * (0.6 + 0.4 * suits)
    state.lost = state.lost * (1 - back) - 0.0015 * suits


def fold(traits: Mapping[str, Any], state: State, options: Mapping[str, Any], chosen: np.ndarray) -> None:
    state.folded = True


def rounded(factor: float, traits: Mapping[str, Any], state: State, bits: int, chosen: np.ndarray) -> None:
    worse = 1 + 1.2 * (1 - state.width)
    state.lost += factor * float((traits["sensitivity"] * ROUNDING[bits] * worse * chosen).sum())
    state.bits = np.where(chosen, bits, state.bits)


def quantize(traits: Mapping[str, Any], state: State, options: Mapping[str, Any], chosen: np.ndarray) -> None:
    rounded(traits["calibration"][options["calibration"]], traits, state, options["bits"], chosen)
    state.integers = True


def train_quantized(traits: Mapping[str, Any], state: State, options: Mapping[str, Any], chosen: np.ndarray) -> None:
    state.lost *= 0.75 if options["epochs"] == 1 else 0.65
    rounded(0.25 if options["distill"] else 0.35, traits, state, options["bits"], chosen)
    state.integers = options["bits"] == 8


def quantize_weights(traits: Mapping[str, Any], state: State, options: Mapping[str, Any], chosen: np.ndarray) -> None:
    rounded(1.0, traits, state, options["bits"], chosen)


ACTS = {
    "structured_pruning": prune,
    "low_rank": factorise,
    "distillation": distil,
    "batchnorm_folding": fold,
    "static_quantization": quantize,
    "quantization_aware_training": train_quantized,
    "weight_only_quantization": quantize_weights,
}
