"""Which chains to try for a target, in which order and why: rules on layer types, runtime, file format and sizes.

Sizes do not depend on what weights are learned, so that how far a rung must go is known before anything is trained: a
rung is what reaches the bytes, and training decides whether it keeps the accuracy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from compression_gate.codec.coded_size import framing_bytes
from compression_gate.errors import CompressionError, ExportError, ParamsError
from compression_gate.modules.quantized_weights import MOST_BITS
from compression_gate.modules.surgery import CONVOLUTIONS
from compression_gate.records.params import FILE_NAME, Params
from compression_gate.runtimes.placement import narrowest_bits

Steps = tuple[dict[str, Any], ...]
INTEGER_RUNTIMES = ("onnxruntime", "openvino")  # those that multiply integers; elsewhere they are computed in float
HELD = {2: "half and a quarter of a byte", 4: "half a byte each", 8: "a byte each"}  # 4 and 2 bits, by narrowest type
ROUNDED_BY_RANGE, STORED = (nn.Linear, *CONVOLUTIONS), (nn.Embedding, nn.RNNBase)
TUNING_EPOCHS = 2  # of distillation behind pruning, and of quantization-aware training: the methods' own default
BUDGETS = tuple(quarter / 4 for quarter in range(8, 32))  # mean bits, 2 to 7.75
RATIOS = tuple(twentieth / 20 for twentieth in range(1, 19))  # pruning ratios, 0.05 to 0.9
TRAINED_BITS = (2, 4, 8)
PRICED_EPOCHS = 6
PRICED_SHARE = 0.985  # of the bytes left for tensors: what a target is met within, and saying which units are gone


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules go by.

    Args:
        rounded: whether there are layers whose inputs can be rounded to a range; ``stored``: others with weights that
            can only be stored as integers.
        integers: whether the runtime multiplies integers.
        narrowest: bits that an integer takes at least in the file that ships.
        coded: whether the coded file ships; ``framing_bytes``: what it takes beside the tensors.
    """

    rounded: bool
    stored: bool
    integers: bool
    narrowest: int
    told: tuple[str, ...]
    coded: bool = False
    framing_bytes: int = 0

    @property
    def packed(self) -> bool:
        """Whether the file holds 4 bits in less than a byte."""
        return self.narrowest < MOST_BITS


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A chain to try, or why there is none."""

    name: str
    why: str
    steps: Steps = ()
    epochs: int = 0
    reason: str | None = None


Fits = Callable[[Steps], bool]


def check_target(params: Params) -> None:
    """Refuse a target that nothing can be held against.

    Raises:
        ParamsError: the task has no accuracy.
    """
    if params.compress.target is not None and params.task.kind != "classification":
        raise ParamsError(
            f"{FILE_NAME}: compress.target.max_accuracy_drop: expected task.kind classification, which has an "
            f"accuracy, got {params.task.kind!r}: write compress.steps"
        )


def facts_of(model: nn.Module, runtime: str, file_format: str) -> Facts:
    """Look at a model's layers and at what it ships as."""
    kinds: dict[str, int] = {}
    for module in model.modules():
        if isinstance(module, (*ROUNDED_BY_RANGE, *STORED, nn.MultiheadAttention)):
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            kinds[type(module).__name__] = kinds.get(type(module).__name__, 0) + own
    layers = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
    integers, narrowest = runtime in INTEGER_RUNTIMES, narrowest_bits(runtime, file_format)
    return Facts(
        rounded=any(isinstance(module, (*ROUNDED_BY_RANGE, nn.MultiheadAttention)) for module in model.modules()),
        stored=any(isinstance(module, STORED) for module in model.modules()),
        integers=integers,
        narrowest=narrowest,
        coded=file_format == "coded",
        framing_bytes=framing_bytes(model, model) if file_format == "coded" else 0,
        told=(
            f"weights by layer type: {layers or 'none of a known type'}",
            f"{runtime} {'multiplies integers' if integers else 'computes integers in float'}",
            f"{file_format} holds 4 and 2 bits in {HELD[narrowest]}",
        ),
    )


def integers(facts: Facts, **options: Any) -> Steps:
    """Quantize without training: layers that the runtime multiplies in integers, then what is left by weights alone."""
    static, weights = {"method": "static_quantization"} | options, {"method": "weight_only_quantization"} | options
    if not (facts.integers and facts.rounded):
        return (weights,)
    return (static, weights) if facts.stored else (static,)


def trained_integers(bits: int) -> Steps:
    """Quantize while training, taught by the reference."""
    return ({"method": "quantization_aware_training", "bits": bits, "epochs": TUNING_EPOCHS, "distill": True},)


def priced(tensor_bytes: float) -> Steps:
    """Train with the price of bits in the loss, to tensors of at most so many bytes."""
    aim = max(1, int(tensor_bytes * PRICED_SHARE))
    return ({"method": "rate_aware_training", "target_bytes": aim, "epochs": PRICED_EPOCHS},)


def narrowed(ratio: float) -> Steps:
    """Remove channels, and learn from the reference."""
    return (
        {"method": "structured_pruning", "pruning_ratio": ratio},
        {"method": "distillation", "epochs": TUNING_EPOCHS},
    )


def ladder(facts: Facts, most_bytes: float, state_bytes: int, fits: Fits) -> Iterator[Rung]:
    """Yield the rungs in order: what costs nothing first, then what costs training, then what costs channels too.

    Args:
        most_bytes: that the file may take; state_bytes: of the reference's plain weights.
        fits: whether a chain's file would be small enough, told without training it.
    """
    need = f"{state_bytes / most_bytes:g} × smaller"
    yield checked("8 bits", "nothing is trained, and 8 bits lose least", integers(facts, bits=8), fits, need)
    if facts.packed:
        yield searched(
            "bits by sensitivity",
            "nothing is trained: each layer gets as many bits as it needs",
            BUDGETS[::-1],
            lambda budget: integers(facts, budget=budget),
            fits,
            need,
            smallest=integers(facts, bits=2),
        )
    if facts.coded:
        yield Rung(
            name="priced bits",
            why="training pays for every bit of the coded file, so that its bytes come out as asked",
            steps=priced(most_bytes - facts.framing_bytes),
            epochs=PRICED_EPOCHS,
        )
    yield searched(
        "trained bits",
        "training moves weights to where rounding costs least",
        [bits for bits in TRAINED_BITS[::-1] if bits >= facts.narrowest],
        trained_integers,
        fits,
        need,
        epochs=TUNING_EPOCHS,
    )
    yield searched(
        "narrow, 8 bits",
        "fewer channels make files and calls smaller; distillation brings back what they knew",
        RATIOS,
        lambda ratio: (*narrowed(ratio), *integers(facts, bits=8)),
        fits,
        need,
        epochs=TUNING_EPOCHS,
    )
    if facts.packed:
        yield searched(
            "narrow, 4 trained bits",
            "half the bits leave room for more channels",
            RATIOS,
            lambda ratio: (*narrowed(ratio), *trained_integers(4)),
            fits,
            need,
            epochs=2 * TUNING_EPOCHS,
        )


def checked(name: str, why: str, steps: Steps, fits: Fits, need: str) -> Rung:
    """Return the rung, with the reason where its file would be too large."""
    return searched(name, why, (0,), lambda _: steps, fits, need)


def searched(
    name: str,
    why: str,
    values: Sequence[float],
    steps_of: Callable[[Any], Steps],
    fits: Fits,
    need: str,
    *,
    epochs: int = 0,
    smallest: Steps | None = None,
) -> Rung:
    """Return the rung of the gentlest value whose file is small enough; ``values`` are in order of gentleness.

    Args:
        smallest: what is as small as the last value and told sooner; the last value itself if None.
    """
    try:
        if not fits(smallest or steps_of(values[-1])):
            return Rung(name=name, why=why, reason=f"its file would not be {need}")
        index = bisect_left(values, True, key=lambda value: fits(steps_of(value)))
    except (CompressionError, ExportError) as error:
        return Rung(name=name, why=why, reason=str(error))
    return Rung(name=name, why=why, steps=steps_of(values[index]), epochs=epochs)


def without_training(steps: Steps) -> Steps:
    """Return steps whose result has the same size, none of them trained."""
    found = []
    for step in steps:
        if step["method"] == "quantization_aware_training":
            found.append({"method": "weight_only_quantization", "bits": step["bits"]})
        elif step["method"] != "distillation":
            found.append(step)
    return tuple(found)
