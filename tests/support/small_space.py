"""A space with all kinds of genes, a table of sensitivities for it, and scores that cost nothing."""

import functools
import itertools
import math

from compression_gate.records.sensitivity import Sensitivity, SensitivityTable
from compression_gate.search.descriptors import Knowledge, walk_of
from compression_gate.search.objective import Score
from compression_gate.search.space import LEFT_OUT, Units, space_of

LAYERS = {"conv": ("conv",), "hidden": ("hidden",), "out": ("out",)}
SLOTS = [
    {"method": "structured_pruning", "pruning_ratio": {"by_layer": {"low": 0.0, "high": 0.8}}, "optional": True},
    {"method": "low_rank", "ratio": {"low": 0.15, "high": 0.8, "step": 0.05}, "optional": True},
    {
        "method": "distillation",
        "epochs": {"low": 1, "high": 3},
        "temperature": {"low": 1.0, "high": 8.0, "log": True},
        "alpha": {"value": 0.5},
        "optional": True,
    },
    {
        "any_of": [
            {"method": "weight_only_quantization", "bits": {"by_group": [8, 4, 2], "groups": 2}},
            {"method": "static_quantization", "bits": 8, "calibration": ["minmax", "mse"]},
        ],
        "optional": True,
    },
]
BYTES = {"conv": 4_000, "hidden": 80_000, "out": 16_000}
BEARS = {"conv": 0.3, "hidden": 0.05, "out": 0.1}
FAILED = Score(values=(), violation=math.inf)


def row(layer, method, option, strength, harm, share):
    return Sensitivity(
        layer=layer,
        members=(layer,),
        method=method,
        option=option,
        strength=strength,
        loss_rise=BEARS[layer] * harm,
        outputs_moved=harm,
        bytes_saved=round(BYTES[layer] * share),
    )


def table():
    rows = [
        row(layer, "structured_pruning", "pruning_ratio", ratio, ratio**2, ratio)
        for layer, ratio in itertools.product(LAYERS, (0.25, 0.5, 0.75))
    ] + [
        row(layer, "weight_only_quantization", "bits", bits, 1 / bits**2, 1 - bits / 32)
        for layer, bits in itertools.product(LAYERS, (2, 4, 8))
    ]
    return SensitivityTable(
        weights_digest="0", n=100, metric="accuracy", loss=0.3, quality=0.9, rows=tuple(rows), seconds=1.0
    )


@functools.cache
def space():
    units = Units(of={"structured_pruning": LAYERS, "weight_only_quantization": LAYERS})
    return space_of(SLOTS, free_order=True, units=units)


@functools.cache
def walk():
    return walk_of(space())


def start(space):
    genome = {name: gene.at(0.5) for name, gene in space.genes.items()}
    return genome | {"1.pick": LEFT_OUT, "3.pick": "3.static_quantization"}


def known(most_bytes=None):
    return Knowledge(table=table(), stored_bytes=sum(BYTES.values()), most_bytes=most_bytes)


def scored(genome):
    """A loss and a cost of every gene's place, a limit on the loss, and a corner that crashes."""
    places = walk().places(genome)
    if places[:2].sum() > 1.7:
        return FAILED
    lost, cost = float((places**2).mean()), float((1 - places).mean())
    return Score(values=(lost, cost), violation=max(0.0, lost / 0.3 - 1))
