"""The layers that may take another's place in a saved model: an allow-list, by name and constructor arguments.

Types of one's own join it by :func:`register_layer`; a file names them and never imports them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.modules import attention, quantized
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.records.base import Record

LARGEST_INTEGER = 2**31 - 1

CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")


def placeholders(length: int) -> nn.Sequential:
    """Build an ``nn.Sequential`` whose children are put in afterwards."""
    return nn.Sequential(*(nn.Identity() for _ in range(length)))


LAYER_TYPES: dict[str, Callable[..., nn.Module]] = {
    **{
        kind.__name__: kind
        for kind in (
            *(nn.Linear, nn.Bilinear, nn.Embedding, nn.LSTM, nn.GRU, nn.Identity, nn.PReLU),
            *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
            *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm),
            *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        )
    },
    **quantized.LAYER_TYPES,
    **attention.LAYER_TYPES,
    "Sequential": placeholders,
}

BUILT_IN_TYPES = tuple(LAYER_TYPES)  # the others were registered
LONGEST_NAME = 63

ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {  # read from the attributes of the same name
    nn.Linear: ("in_features", "out_features"),
    nn.Bilinear: ("in1_features", "in2_features", "out_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq"),
    nn.PReLU: ("num_parameters",),
    nn.Identity: (),
    nn.LSTM: (*RECURRENT, "proj_size"),
    nn.GRU: RECURRENT,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), CONVOLUTION),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), (*CONVOLUTION, "output_padding")),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), NORM),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), NORM),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
}
NAMES: dict[type[nn.Module], str] = {}  # of registered types
WITH_BIAS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.LayerNorm)  # hold a tensor or None under that name

Size = Annotated[StrictInt, Field(ge=-LARGEST_INTEGER, le=LARGEST_INTEGER)]
Sizes = Annotated[tuple[Size, ...], Field(max_length=8)]
Argument = StrictBool | Size | StrictFloat | Annotated[StrictStr, Field(max_length=64)] | Sizes | None


class Layer(Record):
    """A module that takes another's place: a name of ``LAYER_TYPES`` and what its constructor is called with."""

    type: str
    arguments: dict[str, Argument]


def register_layer(name: str, kind: type[nn.Module], arguments: tuple[str, ...]) -> None:
    """Let layers of one's own type take the place of others, in ``structure.json`` and in a coded file.

    Files name the type and never import it: whoever reads one must have registered it before, as the module of a task
    or of a method does when it is imported.

    Args:
        name: with a dot in it, so that no layer of ours ever has it: ``my_package.Butterfly``.
        kind: the class itself, none that inherits from it.
        arguments: of the constructor, all of them; each is read from the attribute of the same name.

    Raises:
        CompressionError: no such name, one that is taken, or arguments that are not the constructor's.
    """
    if "." not in name or len(name.encode()) > LONGEST_NAME:
        raise CompressionError(f"{name!r}: expected a name with a dot in it, of at most {LONGEST_NAME} bytes")
    names = {made: own for own, made in LAYER_TYPES.items()}
    if names.get(kind, name) != name or LAYER_TYPES.get(name, kind) is not kind:
        holder = LAYER_TYPES.get(name, kind)
        raise CompressionError(
            f"{name}: expected a name for {kind.__qualname__} alone, got that of {holder.__qualname__} "
            f"({names[holder]}): choose another, or register it once"
        )
    if (taken := tuple(inspect.signature(kind).parameters)) != arguments:
        expected, got = (", ".join(names) or "none" for names in (taken, arguments))
        raise CompressionError(f"{name}: arguments of {kind.__qualname__}: expected {expected}, got {got}")
    LAYER_TYPES[name] = kind
    ARGUMENTS[kind] = arguments
    NAMES[kind] = name


def layer_of(module: nn.Module) -> Layer | None:
    """Return how the module is written down, or None for a type outside the allow-list."""
    if type(module) in NAMES:
        arguments = {name: getattr(module, name) for name in ARGUMENTS[type(module)]}
        return Layer(type=NAMES[type(module)], arguments=arguments)
    if isinstance(module, (QuantizedLayer, attention.HeadAttention)):
        return Layer(type=type(module).__name__, arguments=module.constructor_arguments())
    if type(module) is nn.Sequential:
        return Layer(type="Sequential", arguments={"length": len(module)})
    names = ARGUMENTS.get(type(module))
    if names is None:
        return None
    arguments = {name: getattr(module, name) for name in names}
    if isinstance(module, WITH_BIAS):
        arguments["bias"] = module.bias is not None
    return Layer(type=type(module).__name__, arguments=arguments)
