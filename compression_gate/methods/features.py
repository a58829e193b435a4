"""What layers give inside a model: caught while it is called, paired between two models, and made comparable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.errors import CompressionError
from compression_gate.modules.surgery import CONVOLUTIONS, WEIGHTED
from compression_gate.registry import nearest
from compression_gate.tasks.calling import Inputs, call

CHANNELS_FIRST = (*CONVOLUTIONS, nn.modules.batchnorm._BatchNorm)
Pairs = tuple[tuple[str, str], ...]


@contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping in which the outputs of the named modules appear whenever the model is called.

    Of a module that is called several times the last output stays.
    """
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules(remove_duplicate=False))

    def noting(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                seen[name] = tensor

        return hook

    hooks = [modules[name].register_forward_hook(noting(name)) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def first_tensor(output: Any) -> Tensor | None:
    """Return the output itself or the first tensor in it: what an LSTM or an attention gives beside its states."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return next((item for item in output if isinstance(item, Tensor)), None)
    return None


def shaped(model: nn.Module, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return features as float32 with the channels on axis 1: ``(N, C)`` or ``(N, C, …)``.

    Convolutions have them there; anything else has its features last.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    result = {}
    for name, value in seen.items():
        first = any(isinstance(module, CHANNELS_FIRST) for module in modules[name].modules())
        result[name] = (value if first or value.dim() < 3 else value.movedim(-1, 1)).float()
    return result


def layer_pairs(student: nn.Module, teacher: nn.Module, given: Pairs, inputs: Inputs) -> Pairs:
    """Return the pairs of layers (student's, teacher's) whose features are compared.

    Args:
        given: names of modules; where empty two are chosen: of the layers with weights, in the order in which they
            are called and without the last, which gives the answer, the middle one and the last. The teacher's is
            the layer of the same name, else the one at the same share of its depth.

    Raises:
        CompressionError: a name that is not there, or that gives no features ``(N, C, …)`` when the model is called.
    """
    for position, (model, whose) in enumerate(((student, "student"), (teacher, "teacher"))):
        names = dict(model.named_modules(remove_duplicate=False))
        for pair in given:
            if pair[position] not in names:
                raise CompressionError(
                    f"layers: the {whose} has no module {pair[position]!r}{nearest(pair[position], names)}: "
                    f"expected one of {', '.join(name for name in names if name)}"
                )
    if given:
        check_features(student, teacher, given, inputs)
        return given
    own, others = hidden_layers(student, inputs), hidden_layers(teacher, inputs)
    if not own or not others:
        raise CompressionError("layers: found no hidden layer with weights to compare: name pairs of modules")
    places = sorted({len(own) // 2, len(own) - 1})
    return tuple(
        (own[place], own[place] if own[place] in others else others[far(place, own, others)]) for place in places
    )


def far(place: int, own: Sequence[str], others: Sequence[str]) -> int:
    """Return the place in ``others`` at the same share of the depth."""
    return round(place / max(1, len(own) - 1) * (len(others) - 1))


@torch.no_grad()
def hidden_layers(model: nn.Module, inputs: Inputs) -> list[str]:
    """Return the layers with weights that give one feature vector an example or more, in order, without the last."""
    names = [name for name, module in model.named_modules() if name and has_weights(module)]
    with captured(model, names) as seen:
        outputs = call(model, inputs)
    # A dict keeps the place of a key's first insertion: the order of the calls.
    found = [name for name, value in seen.items() if value.dim() >= 2 and len(value) == len(outputs)]
    return found[:-1]


def has_weights(module: nn.Module) -> bool:
    """Whether a layer is of a known type with weights, or holds a matrix or kernel itself, integers included."""
    if isinstance(module, WEIGHTED):
        return True
    own = (*module._parameters.values(), *module._buffers.values())
    return not any(module.children()) and any(value is not None and value.dim() >= 2 for value in own)


@torch.no_grad()
def check_features(student: nn.Module, teacher: nn.Module, pairs: Pairs, inputs: Inputs) -> None:
    """Refuse modules that are not called, or give no tensor with a batch and a channel axis."""
    for position, (model, whose) in enumerate(((student, "student"), (teacher, "teacher"))):
        names = [pair[position] for pair in pairs]
        with captured(model, names) as seen:
            count = len(call(model, inputs))
        for name in names:
            if name not in seen or seen[name].dim() < 2 or len(seen[name]) != count:
                got = f"shape {tuple(seen[name].shape)}" if name in seen else "nothing"
                raise CompressionError(
                    f"layers: the {whose}'s {name!r}: expected features (N, C, …) when the model is called, got {got}: "
                    "name another module"
                )


@torch.no_grad()
def projections(student: nn.Module, teacher: nn.Module, pairs: Pairs, inputs: Inputs) -> nn.ModuleList:
    """Return, for each pair, a learned projection of the channels where their numbers differ, else nothing to do.

    Source: A. Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, §2.2: a regressor on the student's guided
        layer. Ours is linear in the channels and acts on every place alike; sizes in space are averaged to the smaller.
    """
    channels = []
    for position, model in enumerate((student, teacher)):
        with captured(model, [pair[position] for pair in pairs]) as seen:
            call(model, inputs)
        found = shaped(model, seen)
        channels.append([found[pair[position]].shape[1] for pair in pairs])
    return nn.ModuleList(
        nn.Identity() if own == other else nn.Linear(own, other) for own, other in zip(*channels, strict=True)
    )


def projected(values: Tensor, projection: nn.Module) -> Tensor:
    """Apply a projection to the channels, axis 1 of ``(N, C, …)``."""
    return values if isinstance(projection, nn.Identity) else projection(values.movedim(1, -1)).movedim(-1, 1)


def aligned(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Average both over space to the smaller size; to none where they differ in the number of axes."""
    if own.dim() != other.dim():
        return flat(own), flat(other)
    if own.shape[2:] == other.shape[2:]:
        return own, other
    size = [min(pair) for pair in zip(own.shape[2:], other.shape[2:], strict=True)]
    pools = {1: functional.adaptive_avg_pool1d, 2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}
    if len(size) not in pools:
        return flat(own), flat(other)
    pool: Any = pools[len(size)]
    return pool(own, size), pool(other, size)


def flat(values: Tensor) -> Tensor:
    """Average ``(N, C, …)`` over everything but examples and channels; ``(N,)`` is one channel."""
    if values.dim() == 1:
        return values[:, None]
    return values.flatten(2).mean(2) if values.dim() > 2 else values


def distance(own: Tensor, other: Tensor) -> Tensor:
    """Return the mean squared distance of features, as a share of the teacher's mean square.

    Source: Romero et al. 2015, eq. 3; the division is ours: layers of any scale count alike.
    """
    own, other = aligned(own, other)
    return (own - other).square().mean() / other.square().mean().clamp_min(1e-8)
