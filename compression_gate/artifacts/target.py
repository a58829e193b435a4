"""A target in place of steps: chains are tried in the order of the ladder until one meets it on validation data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from compression_gate.errors import CompressionError, ExportError, MeasurementError
from compression_gate.measurers.cost import stored_bytes
from compression_gate.methods.base import Context, Method, Notes
from compression_gate.methods.chain import built, name_of
from compression_gate.methods.ladder import Facts, Rung, Steps, integers, ladder, without_training
from compression_gate.records.choice import Choice, Tried
from compression_gate.records.metrics import StepRecord
from compression_gate.records.params import CompressTarget, Step

log = logging.getLogger("compression_gate")
MARGIN = 0.98  # of the allowed bytes: graphs of different chains differ by a few hundred bytes
LEAST_DROP = 0.005  # what a drop is measured by where none is allowed
TARGET_KEY = "params.yaml: compress.target"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A chain that was carried out: the model, what each step did, and its exported file's figures."""

    model: nn.Module
    records: list[StepRecord]
    size_bytes: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What climbing needs of the stage.

    Args:
        make: carries methods out, exports, and measures the file on the validation split.
        file_bytes: how large a model's file is.
        state_bytes: of the reference's plain weights, which the ratio is counted from.
        reference_accuracy: of its exported file, on ``n`` validation examples.
    """

    reference: nn.Module
    context: Context
    make: Callable[[list[Method]], Made]
    file_bytes: Callable[[nn.Module], int]
    state_bytes: int
    reference_accuracy: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The chain that met the target, as it was carried out."""

    methods: list[Method]
    made: Made
    record: Choice


def climb(target: CompressTarget, facts: Facts, workshop: Workshop) -> Chosen:
    """Try the rungs until one meets the target.

    Raises:
        CompressionError: none does; the text names the nearest miss.
    """
    for line in facts.told:
        log.info("compress: target: %s", line)
    tried: list[Tried] = []
    most = target.most_bytes(workshop.state_bytes)
    for rung in ladder(facts, most, workshop.state_bytes, fitting(target, facts, workshop)):
        left = target.max_epochs - sum(one.epochs for one in tried)
        if rung.reason is None and rung.epochs > left:
            text = f"needs {rung.epochs} epochs: {left} of {target.max_epochs} are left"
            tried.append(Tried(name=rung.name, why=rung.why, reason=text))
        elif rung.reason is not None:
            tried.append(Tried(name=rung.name, why=rung.why, reason=rung.reason))
        else:
            log.info("compress: target: trying %s: %s", rung.name, rung.why)
            methods = methods_of(rung.steps)
            row, made = attempt(rung, methods, target, workshop)
            tried.append(row)
            if made is not None and row.reason is None:
                record = choice(target, facts, workshop, tried)
                log.info("compress: target: %s", told(row))
                return Chosen(methods=methods, made=made, record=record)
        log.info("compress: target: %s: %s", rung.name, tried[-1].reason)
    raise CompressionError(refusal(target, ratio_of(target, workshop), tried))


def attempt(rung: Rung, methods: list[Method], target: CompressTarget, workshop: Workshop) -> tuple[Tried, Made | None]:
    """Carry one rung out and hold its file against the target."""
    row = Tried(name=rung.name, why=rung.why, steps=options_of(methods), epochs=rung.epochs)
    try:
        made = workshop.make(methods)
    except (CompressionError, ExportError, MeasurementError) as error:
        return row.model_copy(update={"reason": str(error)}), None
    ratio, drop = workshop.state_bytes / made.size_bytes, workshop.reference_accuracy - made.accuracy
    missed = []
    if made.size_bytes > (most := target.most_bytes(workshop.state_bytes)):
        missed.append(f"{ratio:.2f} × smaller, asked for {workshop.state_bytes / most:g} ×")
    if drop > target.max_accuracy_drop:
        missed.append(f"loses {100 * drop:.2f} points, allowed {100 * target.max_accuracy_drop:g}")
    figures = {
        "size_bytes": made.size_bytes,
        "compression_ratio": ratio,
        "accuracy": made.accuracy,
        "accuracy_drop": drop,
        "reason": " and ".join(missed) or None,
    }
    return row.model_copy(update=figures), made


def fitting(target: CompressTarget, facts: Facts, workshop: Workshop) -> Callable[[Steps], bool]:
    """Return whether a chain's file would be small enough: its weights counted, and the graph as that of 8 bits."""
    allowed = target.most_bytes(workshop.state_bytes) * MARGIN
    sizes: dict[str, int] = {}

    def weights_of(steps: Steps) -> tuple[nn.Module, int]:
        model = workshop.reference
        for method in methods_of(without_training(steps)):
            model = method.apply(model, replace(workshop.context, notes=Notes())).eval()
        return model, stored_bytes(model, facts.narrowest)

    def fits(steps: Steps) -> bool:
        if "graph" not in sizes:
            model, weights = weights_of(integers(facts, bits=8))
            sizes["graph"] = max(0, workshop.file_bytes(model) - weights)
        key = repr(without_training(steps))
        if key not in sizes:
            sizes[key] = weights_of(steps)[1]
        return sizes[key] + sizes["graph"] <= allowed

    return fits


def methods_of(steps: Steps) -> list[Method]:
    """Build the methods of a rung."""
    return built([Step.model_validate(step) for step in steps], TARGET_KEY)


def options_of(methods: Iterable[Method]) -> tuple[dict[str, Any], ...]:
    """Every step with every option, as `compress.steps` takes them."""
    return tuple({"method": name_of(method)} | asdict(method) for method in methods)  # type: ignore[call-overload]  # methods are dataclasses


def choice(target: CompressTarget, facts: Facts, workshop: Workshop, tried: list[Tried]) -> Choice:
    """Write the choice down."""
    return Choice(
        compression_ratio=ratio_of(target, workshop),
        max_accuracy_drop=target.max_accuracy_drop,
        max_epochs=target.max_epochs,
        facts=facts.told,
        reference_accuracy=workshop.reference_accuracy,
        n=workshop.n,
        tried=tuple(tried),
        chosen=tried[-1].name,
    )


def ratio_of(target: CompressTarget, workshop: Workshop) -> float:
    """How many times smaller the file is to be."""
    return workshop.state_bytes / target.most_bytes(workshop.state_bytes)


def told(row: Tried) -> str:
    """What a rung's file came to."""
    return (
        f"{row.name}: {row.size_bytes:,} bytes, {row.compression_ratio:.2f} × smaller, "
        f"{100 * (row.accuracy_drop or 0):.2f} points lost on the validation split"
    )


def refusal(target: CompressTarget, ratio: float, tried: list[Tried]) -> str:
    """Say what came nearest, and what each rung missed."""
    made = [row for row in tried if row.size_bytes is not None]
    nearest = min(made, key=lambda row: distance(row, ratio, target.max_accuracy_drop), default=None)
    rungs = "; ".join(f"{row.name}: {row.reason}" for row in tried)
    asked = f"{ratio:g} × smaller at {100 * target.max_accuracy_drop:g} points or less"
    best = f"nearest was {told(nearest)}" if nearest else "no chain could be made"
    return (
        f"{TARGET_KEY}: expected {asked}, got no chain that reaches it: {best} ({rungs}): "
        "lower the target, raise max_epochs, or write compress.steps"
    )


def distance(row: Tried, ratio: float, max_accuracy_drop: float) -> float:
    """How far a file is from the target, in shares of what was asked for; both ends count alike."""
    bytes_short = max(0.0, ratio / (row.compression_ratio or 1.0) - 1)
    too_much = max(0.0, (row.accuracy_drop or 0.0) - max_accuracy_drop)
    return bytes_short + too_much / max(max_accuracy_drop, LEAST_DROP)
