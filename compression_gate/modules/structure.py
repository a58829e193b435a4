"""How a changed model differs from the one that the task's factory builds, written down without pickle and code.

``structure.json`` names the modules that were replaced, each by a type of ``layer_types.py`` and its constructor's
arguments; which sizes and integer attributes of the others changed; which parameters are one. The factory's model and
this give the model back, but for its weights.
"""

from __future__ import annotations

import copy
import operator
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.modules.layer_types import LARGEST_INTEGER, LAYER_TYPES, Layer, Size, Sizes, layer_of
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.surgery import ties
from compression_gate.modules.weights_file import first_names
from compression_gate.records.base import Record

STRUCTURE_FILE = "structure.json"
MOST_REPEATS = 1024  # layers of one module: more than any model that is compressed, little enough to build at once
REPEATING = ("length", "num_layers")

ATTRIBUTES = (  # integers that a module's forward() may read its sizes from
    *("num_heads", "head_dim", "embed_dim", "kdim", "vdim", "d_model", "num_attention_heads", "attention_head_size"),
    *("all_head_size", "hidden_size", "input_size", "proj_size", "in_features", "out_features", "in1_features"),
    *("in2_features", "in_channels", "out_channels", "groups", "num_channels", "num_groups", "num_features"),
    *("num_parameters", "embedding_dim", "channels", "width", "dim", "inner_dim"),
    "activation_relu_or_gelu",  # 0 keeps a TransformerEncoderLayer from computing past its own linear layers
)


class Structure(Record):
    """What differs from the model the factory builds; all empty where nothing does.

    Args:
        layers: modules replaced, by name.
        attributes: integers of ``ATTRIBUTES`` that changed, by module and attribute.
        shapes: sizes of tensors that changed in modules that were not replaced.
        ties: all groups of names that are one parameter.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    layers: dict[str, Layer] = Field(default_factory=dict)
    attributes: dict[str, dict[str, Size]] = Field(default_factory=dict)
    shapes: dict[str, Sizes] = Field(default_factory=dict)
    ties: tuple[tuple[str, ...], ...] = ()


def describe(model: nn.Module, factory_model: nn.Module) -> Structure:
    """Write down how ``model`` differs from what the factory builds.

    Raises:
        CompressionError: a module differs in a way that the allow-list cannot say; it is named.
    """
    own = dict(factory_model.named_modules(remove_duplicate=False))
    layers: dict[str, Layer] = {}
    attributes: dict[str, dict[str, int]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        inside = any(name.startswith(f"{replaced}.") for replaced in layers)
        before = None if inside else own.get(name)
        layer = layer_of(module)
        if before is None or not of_one_class(before, module):
            if layer is None or not name:
                raise CompressionError(undescribed(name, module, before))
            layers[name] = layer
        elif layer is not None:
            if layer != layer_of(before):
                layers[name] = layer
        else:
            if changed := changed_attributes(module, before):
                attributes[name] = changed
            shapes |= changed_shapes(name, module, before)
    structure = Structure(layers=layers, attributes=attributes, shapes=shapes, ties=ties(model))
    check_complete(model, rebuilt(factory_model, structure, largest=LARGEST_INTEGER))
    return structure


def of_one_class(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have one class, or one that the factory defines inside itself: each call makes it anew."""
    first, second = type(one), type(other)
    named = (first.__module__, first.__qualname__) == (second.__module__, second.__qualname__)
    return first is second or ("<locals>" in first.__qualname__ and named)


def undescribed(name: str, module: nn.Module, before: nn.Module | None) -> str:
    """Say which module cannot be written down, and why."""
    place = f"in place of {type(before).__name__}" if before is not None else "where the factory's model has none"
    return (
        f"{name or 'the model itself'}: cannot be saved: {type(module).__name__} {place}: "
        f"expected one of {', '.join(LAYER_TYPES)}"
    )


def changed_attributes(module: nn.Module, before: nn.Module) -> dict[str, int]:
    """Return the integers of ``ATTRIBUTES`` that differ."""
    pairs = {name: (getattr(module, name, None), getattr(before, name, None)) for name in ATTRIBUTES}
    return {name: new for name, (new, old) in pairs.items() if type(new) is int and new != old}


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """Return the parameters and saved buffers that a module holds itself."""
    buffers = {name: value for name, value in module._buffers.items() if name not in module._non_persistent_buffers_set}
    return {**module._parameters, **buffers}


def changed_shapes(name: str, module: nn.Module, before: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes that differ, by the tensors' full names."""
    old = tensors_of(before)
    changed: dict[str, tuple[int, ...]] = {}
    for key, value in tensors_of(module).items():
        full, was = (f"{name}.{key}" if name else key), old.get(key)
        if (value is None) != (was is None):
            raise CompressionError(
                f"{full}: cannot be saved: the factory's model has {'no' if was is None else 'a'} such tensor"
            )
        if value is not None and was is not None and value.shape != was.shape:
            changed[full] = tuple(value.shape)
    return changed


def check_complete(model: nn.Module, again: nn.Module) -> None:
    """Make sure that the rebuilt model holds the tensors of the original, by name, shape and type.

    Raises:
        CompressionError: it does not; the first difference is named.
    """
    wanted, got = model.state_dict(), again.state_dict()
    for name in [*wanted, *(name for name in got if name not in wanted)]:
        left, right = wanted.get(name), got.get(name)
        if left is None or right is None or left.shape != right.shape or left.dtype != right.dtype:
            raise CompressionError(
                f"{name}: cannot be saved: the model holds {shown(left)}, rebuilt from its structure it would hold "
                f"{shown(right)}: change layers in ways that compression_gate.modules.structure can say"
            )
    held, theirs = first_names(model), first_names(again)
    for name, first in held.items():
        if theirs[name] != first:
            raise CompressionError(
                f"{name}: cannot be saved: the model holds it as {first}, rebuilt from its structure it would be held "
                f"as {theirs[name]}: keep one what is one in the factory's model, or tie parameters alone"
            )


def shown(tensor: torch.Tensor | None) -> str:
    """Name a tensor's type and shape."""
    return "none" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def rebuilt(factory_model: nn.Module, structure: Structure, *, largest: int) -> nn.Module:
    """Return a copy of the factory's model with the structure applied; new tensors hold no weights yet.

    A new layer's numbers are of the type that the factory's were in its place; integer layers have types of their own.
    Modules that are one in the factory's model stay one where what they became is written down alike.

    Args:
        largest: numbers that all replaced layers may hold together, checked before anything is allocated.

    Raises:
        CompressionError: an unknown type, module, attribute or tensor, arguments that no constructor takes, or more
            numbers than ``largest``.
    """
    model = copy.deepcopy(factory_model)
    own = dict(factory_model.named_modules(remove_duplicate=False))
    room, counted = largest, set[tuple[int, str, str]]()
    for name, layer in sorted(structure.layers.items(), key=lambda item: item[0].count(".")):
        stood, inside = stood_at(name, own)
        if (kind := (id(stood), inside, repr(layer))) not in counted:  # a file holds what is one once
            counted.add(kind)
            room -= numbers_of(name, layer)
        if room < 0:
            raise damaged(f"layers.{name}", f"at most {largest} numbers in all layers", layer.model_dump())
        put(model, name, as_typed(LAYER_TYPES[layer.type](**layer.arguments), stood))
    for name, changes in structure.attributes.items():
        set_attributes(model, name, changes)
    for name, shape in structure.shapes.items():
        room -= product(tuple(max(size, 1) for size in shape))  # nor may a size beside a zero be beyond all bounds
        if room < 0 or any(size < 0 for size in shape):
            raise damaged(f"shapes.{name}", f"at most {largest} numbers in all tensors", shape)
        resize(model, name, shape)
    tie(model, structure.ties)
    share(model, factory_model, structure)
    return model.eval()


def stood_at(name: str, modules: dict[str, nn.Module]) -> tuple[nn.Module, str]:
    """Return the factory's module of this name, or the nearest around it, and what of the name lies inside."""
    around = name
    while around not in modules:
        around = around.rpartition(".")[0]
    return modules[around], name[len(around) :]


def as_typed(layer: nn.Module, stood: nn.Module) -> nn.Module:
    """Give a new layer the floating type of what stood in its place; integer layers have their own."""
    tensors = (tensor for tensor in (*stood.parameters(), *stood.buffers()) if tensor.is_floating_point())
    first = None if isinstance(layer, QuantizedLayer) else next(tensors, None)
    return layer if first is None else layer.to(first.dtype)


def share(model: nn.Module, factory_model: nn.Module, structure: Structure) -> None:
    """Make replaced modules one that are one in the factory's model, unless their parameters are not."""
    firsts: dict[int, str] = {}
    for name, module in factory_model.named_modules(remove_duplicate=False):
        first = firsts.setdefault(id(module), name)
        if first == name or name not in structure.layers:
            continue
        one, other = model.get_submodule(first), model.get_submodule(name)
        alike = layers_in(first, structure) == layers_in(name, structure)
        if alike and all(map(operator.is_, one.parameters(), other.parameters())):
            put(model, name, one)


def layers_in(name: str, structure: Structure) -> dict[str, Layer]:
    """Return the layers at a name and inside it, by what of their names is behind it."""
    return {key[len(name) :]: layer for key, layer in structure.layers.items() if f"{key}.".startswith(f"{name}.")}


def damaged(where: str, expected: str, got: object) -> CompressionError:
    """Say what is wrong with a structure."""
    return CompressionError(
        f"{STRUCTURE_FILE}: {where}: expected {expected}, got {got!r}: "
        "the file is damaged, or was written for another model: run the compress stage again"
    )


def numbers_of(name: str, layer: Layer) -> int:
    """Count the numbers a layer would hold, without allocating any of them."""
    return sum(value.numel() for value in empty_of(name, layer).state_dict().values())


def empty_of(name: str, layer: Layer) -> nn.Module:
    """Build a layer that holds no numbers: its tensors have types and shapes alone.

    Raises:
        CompressionError: an unknown type, or arguments that its constructor does not take.
    """
    if layer.type not in LAYER_TYPES:
        raise damaged(f"layers.{name}.type", f"one of {', '.join(LAYER_TYPES)}", layer.type)
    for key in REPEATING:
        count = layer.arguments.get(key, 1)
        if not isinstance(count, int) or not 0 <= count <= MOST_REPEATS:
            raise damaged(f"layers.{name}.arguments.{key}", f"0 to {MOST_REPEATS}", count)
    try:
        with torch.device("meta"):
            return LAYER_TYPES[layer.type](**layer.arguments)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        ArithmeticError,
        AssertionError,
        IndexError,
        CompressionError,
    ) as error:
        raise damaged(f"layers.{name}.arguments", f"what {layer.type} takes ({error})", layer.arguments) from error


def product(shape: tuple[int, ...]) -> int:
    """Multiply in Python's integers, which do not overflow."""
    count = 1
    for size in shape:
        count *= size
    return count


def owner(model: nn.Module, name: str, where: str) -> tuple[nn.Module, str]:
    """Return the module that holds what ``name`` ends in, and that last part."""
    parent, _, last = name.rpartition(".")
    module: nn.Module | None = model
    for part in parent.split(".") if parent else ():
        module = module._modules.get(part) if module is not None else None
    if module is None:
        raise damaged(where, "the name of a module of task.model", name)
    return module, last


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a layer under exactly this name."""
    parent, last = owner(model, name, "layers")
    if last not in parent._modules:
        raise damaged("layers", "the name of a module of task.model", name)
    parent._modules[last] = module


def set_attributes(model: nn.Module, name: str, changes: dict[str, int]) -> None:
    """Set integers that the module has already."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        raise damaged("attributes", "the name of a module of task.model", name)
    for key, value in changes.items():
        if key not in ATTRIBUTES or type(getattr(modules[name], key, None)) is not int:
            raise damaged(f"attributes.{name}", "an integer attribute that the module has", key)
        setattr(modules[name], key, value)


def resize(model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Give a tensor of an unreplaced module its new shape."""
    module, last = owner(model, name, "shapes")
    old = tensors_of(module).get(last)
    if old is None:
        raise damaged("shapes", "the name of a tensor of task.model", name)
    new = torch.zeros(shape, dtype=old.dtype)
    if isinstance(old, nn.Parameter):
        setattr(module, last, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, last, new)


def tie(model: nn.Module, groups: tuple[tuple[str, ...], ...]) -> None:
    """Make each group of names one parameter, and all others parameters of their own."""
    for group in ties(model):
        for name in group[1:]:
            module, last = owner(model, name, "ties")
            setattr(module, last, nn.Parameter(module._parameters[last].detach().clone()))  # type: ignore[union-attr]
    for group in groups:
        first, last = owner(model, group[0], "ties") if group else (model, "")
        for name in group:
            module, key = owner(model, name, "ties")
            one, other = first._parameters.get(last), module._parameters.get(key)
            if one is None or other is None or one.shape != other.shape:
                raise damaged("ties", "names of parameters of one shape", group)
            module._parameters[key] = one
