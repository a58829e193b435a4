"""A compressed model in a folder: what differs from the factory's in ``structure.json``, weights as safetensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from compression_gate.errors import CompressionError, MetricsError
from compression_gate.modules.structure import STRUCTURE_FILE, Structure, damaged, describe, rebuilt
from compression_gate.modules.weights_file import load_weights, save_weights

WEIGHTS_FILE = "model.safetensors"


def save_model(model: nn.Module, factory_model: nn.Module, folder: Path) -> Structure:
    """Write ``model.safetensors`` (tied weights once) and ``structure.json``; nothing is written unless both can be.

    Raises:
        CompressionError: the model cannot be described; the module is named.
    """
    structure = describe(model, factory_model)
    save_weights(model, folder / WEIGHTS_FILE)
    structure.write(folder / STRUCTURE_FILE)
    return structure


def load_model(factory_model: nn.Module, folder: Path) -> nn.Module:
    """Return the model that :func:`save_model` wrote, in eval mode; ``factory_model`` stays as it is.

    Raises:
        CompressionError: a file is missing, damaged, hostile, or of another model.
    """
    weights = folder / WEIGHTS_FILE
    try:
        structure = Structure.read(folder / STRUCTURE_FILE)
        # Every number takes a byte or more in the file. Tied ones are stored once, hence the factor.
        largest = 2 * weights.stat().st_size
        model = rebuilt(factory_model, structure, largest=largest)
        check_types(model, weights)
        load_weights(model, weights)
    except (MetricsError, SafetensorError, RuntimeError, OSError) as error:
        raise CompressionError(
            f"{folder}: expected the {STRUCTURE_FILE} and {WEIGHTS_FILE} of a compressed task.model: {error}: "
            "run the compress stage again"
        ) from error
    return model.eval()


def check_types(model: nn.Module, path: Path) -> None:
    """Make sure that loading would not silently convert one number type into another."""
    own = model.state_dict()
    for name, dtype in types_in(path):
        if name in own and own[name].dtype != dtype:
            raise damaged(f"{WEIGHTS_FILE}: {name}", str(own[name].dtype), str(dtype))


def types_in(path: Path) -> Iterator[tuple[str, torch.dtype]]:
    """Yield each tensor's name and type."""
    with safe_open(str(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a mapping: it cannot be iterated)
            yield name, file.get_tensor(name).dtype
