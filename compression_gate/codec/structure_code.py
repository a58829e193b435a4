"""What differs from the factory's model, in a few bits: places by number, sizes against those that were there before.

Names are never written: a module is its place among those of the factory's model and the children of what was put in,
an argument is its place in the constructor's list. No pickle, no code, no import by name from a file.
"""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from compression_gate.codec.streams import Stream, code_whole
from compression_gate.errors import CodecError, CompressionError
from compression_gate.modules.layer_types import (
    ARGUMENTS,
    BUILT_IN_TYPES,
    LARGEST_INTEGER,
    LAYER_TYPES,
    NAMES,
    WITH_BIAS,
    Argument,
    Layer,
    layer_of,
)
from compression_gate.modules.structure import ATTRIBUTES, Structure, empty_of, rebuilt, tensors_of
from compression_gate.modules.surgery import ties

TYPES = BUILT_IN_TYPES  # their order, and that of the words, is part of the format: new ones go to the end
WORDS = (
    *("per_tensor", "per_channel", "per_group", "static", "dynamic", "float"),
    *("zeros", "same", "valid", "reflect", "replicate", "circular"),
)
NONE, FALSE, TRUE, WHOLE, REAL, WORD, SIZES, AT_MOST = range(8)
LONGEST_LIST = 1 << 20
MOST_INSIDE = 1 << 14  # modules and tensors that all replacements may hold: more than any model, and quickly built
LONGEST_SIZES = 8
TYPE_BITS, WORD_BITS = {1: 5, 2: 6}, {1: 4, 2: 5}  # by schema
LENGTH_BITS = 6  # of a text


def code_structure(
    stream: Stream, factory_model: nn.Module, structure: Structure | None, largest: int
) -> tuple[Structure, nn.Module]:
    """Write a structure, or read one; return it with the model it gives, whose new tensors hold no weights yet.

    Args:
        largest: numbers that all replaced layers may hold together, checked before anything is allocated.

    Raises:
        CodecError: what is read is the structure of no model like this.
    """
    given = structure or Structure()
    try:
        layers = code_layers(stream, factory_model, given.layers)
        whole = Structure(layers=layers, attributes=code_attributes(stream, factory_model, given.attributes))
        # Attributes change no names, and a model may be large: it is copied for its names only where they changed.
        model = rebuilt(factory_model, whole, largest=largest) if layers else factory_model
        shapes = code_shapes(stream, model, given.shapes)
        kept = kept_ties(factory_model, [*layers, *shapes])
        groups = code_ties(stream, model, kept, given.ties if structure else None)
        found = Structure(layers=layers, attributes=whole.attributes, shapes=shapes, ties=groups)
        return found, rebuilt(factory_model, found, largest=largest)
    except CompressionError as error:
        raise CodecError(f"structure: {error}") from error


def code_place(stream: Stream, places: Sequence[Any], place: Any) -> Any:
    """Write or read one of a list that both sides know."""
    if stream.encoding and place not in places:
        raise CodecError(f"structure: {place!r}: cannot be coded: expected one of {len(places)} that are known")
    number = stream.number(places.index(place) if stream.encoding else 0, max(len(places) - 1, 0).bit_length())
    if number >= len(places):
        raise CodecError(f"structure: expected one of {len(places)} places, got number {number}")
    return places[number]


def code_type(stream: Stream, kind: str) -> str:
    """Write or read the type of a layer: its place in our list, or the name that it was registered under."""
    found = code_listed(stream, TYPES, kind, TYPE_BITS)
    if found not in LAYER_TYPES:
        raise CodecError(
            f"structure: layer type: expected one that is known, got {found!r}: import what registers it first "
            "(compression_gate.modules.layer_types.register_layer)"
        )
    return found


def code_listed(stream: Stream, listed: Sequence[str], text: str, bits: Mapping[int, int]) -> str:
    """Write or read a text: its place in a list, or itself where it is not there.

    Args:
        bits: of a place, by schema; the last place is for what is spelt out, which schema 1 did not do.
    """
    last = (1 << bits[stream.schema]) - 1
    spelt = last if stream.schema > 1 else len(listed)
    place = stream.number(listed.index(text) if text in listed else spelt, bits[stream.schema])
    if place < len(listed):
        return listed[place]
    if place != spelt or stream.schema == 1:
        raise CodecError(f"structure: expected one of {len(listed)} places, got number {place}")
    letters = text.encode()
    if len(letters) >= 1 << LENGTH_BITS:
        raise CodecError(f"structure: expected a name of at most {(1 << LENGTH_BITS) - 1} bytes, got {text!r}")
    count = stream.number(len(letters), LENGTH_BITS)
    found = bytes(stream.number(letters[index] if stream.encoding else 0, 8) for index in range(count))
    try:
        return found.decode()
    except UnicodeDecodeError as error:
        raise CodecError(f"structure: expected a name in UTF-8, got {found!r}") from error


def unnamed(name: str, found: Container[str]) -> str:
    """A name that stands in a list once: of one place a number takes no bits, and lists of it would go on for ever.

    Raises:
        CodecError: it was there before.
    """
    if name in found:
        raise CodecError(f"structure: expected each name once, got {name!r} twice")
    return name


def code_count(stream: Stream, count: int, most: int = LONGEST_LIST) -> int:
    """Write or read how many of something follow."""
    count = code_whole(stream, count)
    if not 0 <= count <= most:
        raise CodecError(f"structure: expected a list of at most {most}, got {count}")
    return count


def code_layers(stream: Stream, factory_model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Write or read which modules were replaced, and by what."""
    own = dict(factory_model.named_modules(remove_duplicate=False))
    places, found = list(own), dict[str, Layer]()
    latest: dict[str, Layer] = {}
    known, room = set(places), MOST_INSIDE
    given = list(layers.items())
    for index in range(code_count(stream, len(given))):
        name, layer = given[index] if given else ("", None)
        name = unnamed(code_place(stream, places, name), found)
        before = layer_of(own[name]) if name in own else None
        kind = code_type(stream, layer.type if layer else "")
        expected = {
            **defaults_of(kind),
            **(latest[kind].arguments if kind in latest else {}),
            **(before.arguments if before is not None else {}),
        }
        latest[kind] = found[name] = Layer(
            type=kind, arguments=code_arguments(stream, kind, layer.arguments if layer else None, expected)
        )
        children, tensors = inside_of(found[name])
        room -= len(children) + tensors
        if room < 0:
            raise CodecError(f"structure: expected at most {MOST_INSIDE} modules and tensors in what was replaced")
        new = [f"{name}.{child}" for child in children if f"{name}.{child}" not in known]
        places += new
        known.update(new)
    return found


def names_of(kind: str) -> tuple[str, ...]:
    """The constructor arguments of a layer type, in order."""
    made = LAYER_TYPES[kind]
    if isinstance(made, type) and made in ARGUMENTS and made not in NAMES:
        return (*ARGUMENTS[made], *(("bias",) if issubclass(made, WITH_BIAS) else ()))
    return tuple(inspect.signature(made).parameters)


def defaults_of(kind: str) -> dict[str, Argument]:
    """What a constructor does without."""
    parameters = inspect.signature(LAYER_TYPES[kind]).parameters
    return {name: one.default for name, one in parameters.items() if one.default is not inspect.Parameter.empty}


def inside_of(layer: Layer) -> tuple[list[str], int]:
    """Names of the modules inside a layer, and how many tensors it holds, found without allocating it."""
    empty = empty_of(layer.type, layer)
    return [name for name, _ in empty.named_modules() if name], len(empty.state_dict())


def code_arguments(
    stream: Stream, kind: str, arguments: Mapping[str, Argument] | None, expected: Mapping[str, Argument]
) -> dict[str, Argument]:
    """Write or read constructor arguments; those that are as expected take a bit each."""
    names = names_of(kind)
    if arguments is not None and set(arguments) != set(names):
        raise CodecError(f"structure: {kind}: expected arguments {', '.join(names)}, got {', '.join(arguments)}")
    found: dict[str, Argument] = {}
    for name in names:
        value, before = arguments[name] if arguments is not None else None, expected.get(name)
        same = stream.number(type(value) is type(before) and value == before, 1)
        found[name] = before if same else code_value(stream, value, before)
    return found


def code_value(stream: Stream, value: Argument, before: Argument) -> Argument:
    """Write or read one argument: what it is, and then that."""
    kind = stream.number(kind_of(value, before), 3)
    if kind in (NONE, FALSE, TRUE):
        return {NONE: None, FALSE: False, TRUE: True}[kind]
    if kind == WHOLE:
        return bounded(code_whole(stream, value if isinstance(value, int) else 0))
    if kind == REAL:
        return code_real(stream, value if isinstance(value, float) else 0.0)
    if kind == WORD:
        return code_listed(stream, WORDS, value if isinstance(value, str) else "", WORD_BITS)
    if kind == SIZES:
        sizes = tuple(value) if isinstance(value, tuple) else ()
        count = code_count(stream, len(sizes), LONGEST_SIZES)
        return tuple(bounded(code_whole(stream, sizes[i] if sizes else 0)) for i in range(count))
    if type(before) is not int or before < 0:
        raise CodecError(f"structure: expected an argument that was a whole number before, got {before!r}")
    return stream.number(value if isinstance(value, int) else 0, before.bit_length())


def kind_of(value: Argument, before: Argument) -> int:
    """How a value is written."""
    if value is None or isinstance(value, bool):
        return {None: NONE, False: FALSE, True: TRUE}[value]
    if isinstance(value, int):
        return AT_MOST if type(before) is int and 0 <= value <= before else WHOLE
    return {float: REAL, str: WORD, tuple: SIZES}[type(value)]


def code_real(stream: Stream, value: float) -> float:
    """Write or read a finite float64, by its bits."""
    pattern = int.from_bytes(torch.tensor(value, dtype=torch.float64).numpy().tobytes(), "little")
    pattern = stream.number(pattern >> 32, 32) << 32 | stream.number(pattern & 0xFFFFFFFF, 32)
    found = torch.frombuffer(bytearray(pattern.to_bytes(8, "little")), dtype=torch.float64).item()
    if found != found or abs(found) == float("inf"):
        raise CodecError(f"structure: expected a finite number, got {found}")
    return float(found)


def bounded(number: int) -> int:
    """A size that records take.

    Raises:
        CodecError: it is too large.
    """
    if abs(number) > LARGEST_INTEGER:
        raise CodecError(f"structure: expected a number of at most {LARGEST_INTEGER}, got {number}")
    return number


def code_attributes(
    stream: Stream, factory_model: nn.Module, attributes: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Write or read integers that modules of other types hold."""
    places = [name for name, _ in factory_model.named_modules(remove_duplicate=False)]
    given = [(name, key, value) for name, changes in attributes.items() for key, value in changes.items()]
    found: dict[str, dict[str, int]] = {}
    for index in range(code_count(stream, len(given))):
        name, key, value = given[index] if given else ("", "", 0)
        name = code_place(stream, places, name)
        key = unnamed(code_place(stream, ATTRIBUTES, key), found.setdefault(name, {}))
        found[name][key] = bounded(code_whole(stream, value))
    return found


def code_shapes(stream: Stream, model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Write or read shapes of tensors in modules that were not replaced."""
    places = [
        f"{name}.{key}" if name else key
        for name, module in model.named_modules(remove_duplicate=False)
        for key in tensors_of(module)
    ]
    given = list(shapes.items())
    found: dict[str, tuple[int, ...]] = {}
    for index in range(code_count(stream, len(given))):
        name, shape = given[index] if given else ("", ())
        name = unnamed(code_place(stream, places, name), found)
        count = code_count(stream, len(shape), LONGEST_SIZES)
        found[name] = tuple(bounded(code_whole(stream, shape[i] if shape else 0)) for i in range(count))
    return found


def kept_ties(factory_model: nn.Module, changed: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """What is left of the factory's ties where modules were replaced and tensors got other shapes."""
    gone = set(changed)
    groups = [
        tuple(name for name in group if not gone.intersection(accumulate(name.split("."), "{}.{}".format)))
        for group in ties(factory_model)
    ]
    return tuple(group for group in groups if len(group) > 1)


def code_ties(
    stream: Stream, model: nn.Module, before: tuple[tuple[str, ...], ...], groups: tuple[tuple[str, ...], ...] | None
) -> tuple[tuple[str, ...], ...]:
    """Write or read which parameters are one; a bit where they are as ``before``."""
    if stream.number(groups is not None and set(groups) == set(before), 1):
        return before
    places = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    given = groups or ()
    found: list[tuple[str, ...]] = []
    tied: set[str] = set()
    for index in range(code_count(stream, len(given), len(places))):
        group, names = given[index] if given else (), list[str]()
        for place in range(code_count(stream, len(group), len(places))):
            names.append(unnamed(code_place(stream, places, group[place] if group else ""), tied))
            tied.add(names[-1])
        found.append(tuple(names))
    return tuple(found)
