"""Weights from files: the user's own, and the reference's. Never a pickle that runs code."""

from __future__ import annotations

import itertools
import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compression_gate.errors import TaskError
from compression_gate.modules.normalized import unnormalized_shell
from compression_gate.modules.weights_file import load_weights, save_weights
from compression_gate.tasks.calling import named
from compression_gate.tasks.task import Task

STATE_FILE = "model.safetensors"
NESTED_UNDER = ("state_dict", "model_state_dict", "model")
MOST_NAMED = 5


def adopt_weights(model: nn.Module, path: Path, key: str = "task") -> None:
    """Load the user's weights into ``model``, on CPU, whatever device they were saved on.

    Args:
        key: of the params, under which ``weights`` and ``model`` stand; errors start with it.

    Raises:
        TaskError: the file is missing, needs code to be run, or its names or shapes are not this model's.
    """
    state = read_state(path, key)
    own = model.state_dict()
    kinds = (
        [f"not in the file: {name}" for name in own if name not in state],
        [f"not in the model: {name}" for name in state if name not in own],
        [
            f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(value.shape)}"
            for name, value in state.items()
            if name in own and own[name].shape != value.shape
        ],
    )
    # In turns, so that a prefix that all keys have is seen from both sides.
    problems = [problem for row in itertools.zip_longest(*kinds) for problem in row if problem]
    # Tied weights may be stored once only; they are not missing as long as the load below reaches them.
    if problems and not all(problem.startswith("not in the file") for problem in problems):
        raise weights_error(path, problems, key)
    missing, _ = model.load_state_dict(state, strict=False)
    reached = {value.data_ptr() for name, value in model.state_dict(keep_vars=True).items() if name in state}
    lost = [name for name in missing if model.state_dict(keep_vars=True)[name].data_ptr() not in reached]
    if lost:
        raise weights_error(path, [f"not in the file: {name}" for name in lost], key)


def weights_error(path: Path, problems: list[str], key: str) -> TaskError:
    """Say what does not fit, a few of many."""
    more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
    return TaskError(
        f"{key}.weights: {path}: expected the state dict of {key}.model, "
        f"got: {'; '.join(problems[:MOST_NAMED])}{more}: "
        "save `model.state_dict()` of the same class and arguments, or rename the keys"
    )


def read_state(path: Path, key: str = "task") -> dict[str, Tensor]:
    """Read a state dict from safetensors or anything ``torch.load`` reads without running code."""
    if not path.is_file():
        raise TaskError(f"{key}.weights: {path}: no such file: paths start at the suite's folder")
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        with warnings.catch_warnings(action="ignore"):  # what torch remarks on a file's age says nothing to a user
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TaskError(
            f"{key}.weights: {path}: holds more than tensors, and loading it would run its code: "
            f"save `model.state_dict()` instead ({str(error).splitlines()[0]})"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise TaskError(f"{key}.weights: {path}: damaged or of an unknown format: {error}") from error
    for name in NESTED_UNDER:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TaskError(f"{key}.weights: {path}: expected a state dict of tensors, got {type(state).__name__}")
    return state


def save_reference(model: nn.Module, folder: Path) -> None:
    """Write the weights, each tied one once."""
    save_weights(model, folder / STATE_FILE)


def build_reference(task: Task, *, normalize: bool) -> nn.Module:
    """Build the reference's module with whatever weights the factory gives, wrapped if it normalises its input."""
    model = task.build_model()
    if normalize:
        model = unnormalized_shell(model, channels(task))
    return model.eval()


def channels(task: Task) -> int:
    """How many channels the first input has: its axis 1."""
    return int(next(iter(named(task.example_inputs(1)).values())).shape[1])


def load_reference(task: Task, folder: Path, *, normalize: bool) -> nn.Module:
    """Rebuild the reference of ``models/reference``."""
    model = build_reference(task, normalize=normalize)
    try:
        load_weights(model, folder / STATE_FILE)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise TaskError(
            f"{folder / STATE_FILE}: does not fit what task.model builds: "
            f"{' '.join(str(error).split())}: run the train stage again"
        ) from error
    return model.eval()
