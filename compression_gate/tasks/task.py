"""The user's task, opened: model factory, data splits, loss and scores, every contract checked where it enters."""

from __future__ import annotations

import importlib
import inspect
import os
import random
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from compression_gate.errors import CompressionGateError, DataUnreachableError, ParamsError, TaskError
from compression_gate.records.params import Params, TaskParams
from compression_gate.tasks.calling import Inputs, line_of
from compression_gate.tasks.sources import import_roots

SPLITS = ("train", "validation", "calibration", "test")
OPTIONAL_SPLITS = ("validation", "calibration", "holdout")
CHUNK = 512
VALIDATION_SHARE = 0.1
CALIBRATION_SHARE, CALIBRATION_MOST = 0.05, 1024


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some examples: inputs as the model takes them, targets ``(N, …)``, and their positions in the split."""

    inputs: Inputs
    targets: Tensor
    positions: Tensor


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples of one split: the dataset they come from and which of its items they are."""

    name: str
    dataset: Any
    indices: np.ndarray
    cut_from_train: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def items(self, positions: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return the examples at ``positions``."""
        wanted = [int(self.indices[position]) for position in positions]
        items = self.fetched(wanted)
        if len(items) != len(wanted):
            raise TaskError(
                f"task.data: split {self.name!r}: expected {len(wanted)} items from __getitems__, got {len(items)}: "
                "return one for each index"
            )
        for index, item in zip(wanted, items, strict=True):
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise TaskError(
                    f"task.data: split {self.name!r}, item {index}: expected a pair (input, target), "
                    f"got {type(item).__name__}{f' of {len(item)}' if isinstance(item, (tuple, list)) else ''}: "
                    "return two things from __getitem__"
                )
        return items

    def fetched(self, wanted: list[int]) -> list[Any]:
        """Ask the dataset for items by its own indices, all at once where it offers that."""
        here = wanted
        try:
            if hasattr(self.dataset, "__getitems__"):
                return list(self.dataset.__getitems__(wanted))
            items = []
            for index in wanted:
                here = [index]
                items.append(self.dataset[index])
            return items
        except CompressionGateError:
            raise
        except Exception as error:
            kind = DataUnreachableError if says_unreachable(error) else TaskError
            raise kind(
                f"task.data: split {self.name!r}, item {here[0]}{f' to {here[-1]}' if len(here) > 1 else ''}: "
                f"raised {type(error).__name__}: {error}{line_of(error)}: mend __getitem__, or leave the item out"
            ) from error

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        return self.items([range(len(self))[position]])[0]

    @cached_property
    def ids(self) -> list[str]:
        """Unique names of the examples: the dataset's own, else ``split:index``."""
        own = offered(self.dataset, "ids")
        if own is None:
            source = "train" if self.cut_from_train else self.name
            return [f"{source}:{index}" for index in self.indices]
        if len(own) != len(self.dataset):
            raise TaskError(
                f"task.data: split {self.name!r}: expected {len(self.dataset)} ids, got {len(own)}: give one an example"
            )
        names = [str(name) for name in own]
        return [names[index] for index in self.indices]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What ``task`` of the params names, imported. Build one with :func:`open_task`."""

    params: TaskParams
    folder: Path
    seed: int
    splits: dict[str, Split] = field(default_factory=dict)

    def build_model(self) -> nn.Module:
        """Call the factory, on CPU, and return its module in eval mode."""
        seed_everything(self.seed)
        model = called("task.model", self.params.model, self.params.model_args)
        if not isinstance(model, nn.Module):
            raise TaskError(
                f"task.model: {self.params.model}: expected a torch.nn.Module, got {type(model).__name__}: "
                "name a module class or a function that returns a module"
            )
        return model.eval()

    def split(self, name: str) -> Split:
        """Return a split; validation and calibration are cut from train where the data have none.

        Raises:
            KeyError: an optional split that does not exist (``holdout``).
            TaskError: the data callable did not return a map-style dataset.
        """
        if name not in self.splits:
            self.splits.update(self.opened(name))
        return self.splits[name]

    def opened(self, name: str) -> dict[str, Split]:
        """Open one split, or everything that is cut from train together."""
        if name not in ("train", "validation", "calibration"):
            dataset = self.dataset(name)
            return {name: Split(name=name, dataset=dataset, indices=np.arange(len(dataset)))}
        train = self.dataset("train")
        splits: dict[str, Split] = {}
        for part in ("validation", "calibration"):
            try:
                dataset = self.dataset(part)
            except (KeyError, ValueError):
                continue
            splits[part] = Split(name=part, dataset=dataset, indices=np.arange(len(dataset)))
        wanted = {
            "validation": round(len(train) * VALIDATION_SHARE),
            "calibration": min(CALIBRATION_MOST, round(len(train) * CALIBRATION_SHARE)),
        }
        missing = [part for part in wanted if part not in splits]
        labels = targets_of(train) if missing and self.params.kind == "classification" else None
        rest = np.arange(len(train))
        for part in missing:
            rest, cut = self.without(rest, max(1, wanted[part]), labels)
            splits[part] = Split(name=part, dataset=train, indices=cut, cut_from_train=True)
        if len(rest) == 0:
            raise TaskError(
                f"task.data: split 'train': expected more than {len(missing)} examples, since {' and '.join(missing)} "
                f"{'are' if len(missing) > 1 else 'is'} cut from train, got {len(train)}: add examples"
            )
        return {**splits, "train": Split(name="train", dataset=train, indices=rest)}

    def dataset(self, name: str) -> Any:
        """Call the data callable for one split."""
        dataset = called("task.data", self.params.data, self.params.data_args, name)
        wanted = f"task.data: {self.params.data}({name!r}): expected a map-style dataset with __len__ and __getitem__"
        if not hasattr(dataset, "__getitem__") or isinstance(dataset, (dict, str)):
            raise TaskError(f"{wanted}, got {type(dataset).__name__}")
        try:
            count = len(dataset)
        except Exception as error:
            raise TaskError(f"{wanted}, got {type(dataset).__name__}: {error}{line_of(error)}") from error
        if count == 0:
            raise TaskError(f"task.data: split {name!r}: expected examples, got none")
        return dataset

    def without(self, indices: np.ndarray, count: int, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Cut ``count`` indices out, each class of ``labels`` in its share, and return (rest, cut), both in order."""
        random = np.random.default_rng(self.seed)
        order = random.permutation(indices)
        if labels is not None:
            labels = np.unique(labels[order], return_inverse=True)[1]
            # Rank within the class, as a share of it: the smallest shares of all classes together are stratified.
            by_class = np.argsort(labels, kind="stable")
            share = np.empty(len(order))
            starts = np.searchsorted(labels[by_class], labels[by_class])
            sizes = np.bincount(labels)[labels[by_class]]
            share[by_class] = (np.arange(len(order)) - starts + 0.5) / sizes
            order = order[np.argsort(share, kind="stable")]
        return np.sort(order[count:]), np.sort(order[:count])

    def batches(
        self, split: str, batch_size: int, *, shuffle_seed: int | None = None, least: int = 1
    ) -> Iterator[Batch]:
        """Yield batches in order, or shuffled by ``shuffle_seed``; a rest under ``least`` joins the last batch."""
        examples = self.split(split)
        order = torch.arange(len(examples))
        if shuffle_seed is not None:
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(shuffle_seed))
        parts = list(order.split(batch_size))
        if len(parts) > 1 and len(parts[-1]) < min(least, batch_size):
            parts[-2:] = [torch.cat(parts[-2:])]
        for positions in parts:
            inputs, targets = self.collated(examples.items(positions.tolist()), split)
            yield Batch(inputs=inputs, targets=targets, positions=positions)

    def collated(self, items: list[tuple[Any, Any]], split: str) -> tuple[Inputs, Tensor]:
        """Join examples into one batch."""
        collate = self.collate
        try:
            with torch.no_grad():  # an embedding that a loader computes may still hang on its weights
                inputs, targets = collate(items) if collate else default_collate(items)
            targets = torch.as_tensor(targets)
        except Exception as error:  # a user's function may raise anything
            way_out = "mend it" if collate else "inputs of various lengths need task.collate: callable(examples)"
            raise TaskError(
                f"task.collate: split {split!r}: cannot join {len(items)} examples: {type(error).__name__}: {error}"
                f"{line_of(error)}: {way_out}"
            ) from error
        if targets.shape[:1] != (len(items),):
            got = len(targets) if targets.dim() else "a single value"
            raise TaskError(
                f"task.collate: split {split!r}: expected {len(items)} targets, got {got}: keep every example"
            )
        if isinstance(inputs, list):
            inputs = tuple(inputs)
        elif isinstance(inputs, Mapping):
            inputs = dict(inputs)
        values = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else [inputs]
        for value in [*values, targets]:
            if not isinstance(value, Tensor):
                raise TaskError(
                    f"task.data: split {split!r}: expected inputs that are a tensor, a tuple or a dict of tensors, "
                    f"got {type(value).__name__}"
                )
            if value.dtype == torch.bfloat16:  # runtimes are given numpy's arrays
                raise TaskError(
                    f"task.data: split {split!r}: expected tensors of a type that numpy has, got {value.dtype}: "
                    "return float32, and let the model convert"
                )
        return inputs, targets

    @cached_property
    def collate(self) -> Callable[[list[Any]], tuple[Any, Any]] | None:
        """The user's collate function, if any."""
        return function("task.collate", self.params.collate, "examples") if self.params.collate else None

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss: the user's, or that of the task's kind."""
        return self.params.loss is not None or self.params.kind != "custom"

    @cached_property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The user's loss, else cross-entropy or mean squared error by the kind of the task."""
        if self.params.loss:
            return function("task.loss", self.params.loss, "outputs", "targets")
        if self.params.kind == "classification":
            return nn.functional.cross_entropy
        if self.params.kind == "regression":
            return lambda outputs, targets: nn.functional.mse_loss(
                outputs.reshape(targets.shape), targets.to(outputs.dtype)
            )
        raise ParamsError("params.yaml: task.loss: expected a callable(outputs, targets) for kind custom, got none")

    @cached_property
    def scorer(self) -> Callable[[Tensor, Tensor], dict[str, Any]] | None:
        """The user's scorer, for kind custom."""
        return function("task.scorer", self.params.scorer, "outputs", "targets") if self.params.scorer else None

    def example_inputs(self, count: int = 1, split: str = "train") -> Inputs:
        """Return ``count`` real examples as the model takes them."""
        examples = self.split(split)
        inputs, _ = self.collated(examples.items(range(min(count, len(examples)))), split)
        return inputs


def open_task(params: Params, suite: Path) -> Task:
    """Make the suite's and the repository's folders importable and return the task."""
    for root in reversed(import_roots(suite)):
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
    os.environ["COMPRESSION_GATE_SUITE"] = str(suite.resolve())
    return Task(params=params.task, folder=suite, seed=params.train.seed)


def imported(key: str, path: str) -> Any:
    """Import ``package.module:name``.

    Raises:
        ParamsError: the module or the name is not there, or importing it failed.
    """
    module, _, attribute = path.partition(":")
    try:
        target: Any = importlib.import_module(module)
        for part in attribute.split("."):
            target = getattr(target, part)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ParamsError(
            f"params.yaml: {key}: expected something to import at {path!r}, got {type(error).__name__}: {error}: "
            "paths start at the suite's folder or the repository's root"
        ) from error
    if not callable(target):
        raise ParamsError(f"params.yaml: {key}: {path}: expected a callable, got {type(target).__name__}")
    return target


def function(key: str, path: str, *arguments: str) -> Callable[..., Any]:
    """Import a user's function that is to be called with ``arguments`` by position.

    Raises:
        ParamsError: it is not there, a class, or its signature takes other arguments.
    """
    target = imported(key, path)
    wanted = f"expected a callable({', '.join(arguments)})"
    if inspect.isclass(target):
        raise ParamsError(
            f"params.yaml: {key}: {path}: {wanted}, got a class: name a function, or an object made of it"
        )
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some builtins have no signature to check
        return target
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ParamsError(f"params.yaml: {key}: {path}: {wanted}, got {path}{signature}: {error}") from error
    return target


def called(key: str, path: str, arguments: dict[str, Any], *positional: Any) -> Any:
    """Import and call a user's factory.

    Raises:
        ParamsError: its signature does not take these arguments.
        DataUnreachableError: a data callable could not get at its files or network.
        TaskError: it raised. ``KeyError`` and ``ValueError`` of a data callable pass: they say "no such split".
    """
    target = imported(key, path)
    given = ", ".join([*map(repr, positional), *(f"{name}={value!r}" for name, value in arguments.items())])
    try:
        inspect.signature(target).bind(*positional, **arguments)
    except TypeError as error:
        raise ParamsError(
            f"params.yaml: {key}: {path} cannot be called with ({given}): {error}: mend it, or {key}_args"
        ) from error
    except ValueError:  # some builtins have no signature to check
        pass
    try:
        return target(*positional, **arguments)
    except CompressionGateError:
        raise
    except Exception as error:
        if isinstance(error, (KeyError, ValueError)) and positional and positional[0] in OPTIONAL_SPLITS:
            raise
        if key == "task.data" and says_unreachable(error):
            raise DataUnreachableError(
                f"{key}: {path}({given}): the data could not be had: {type(error).__name__}: {error}"
            ) from error
        raise TaskError(
            f"{key}: {path}({given}): raised {type(error).__name__}: {error}{line_of(error)}: mend it, or {key}_args"
        ) from error


# Libraries that fetch, whose refusals are not all of Python's own kind.
FETCHERS = {
    "aiohttp",
    "azure",
    "boto3",
    "botocore",
    "dvc",
    "fsspec",
    "gcsfs",
    "google",
    "httpx",
    "requests",
    "s3fs",
    "urllib3",
}


def says_unreachable(error: BaseException | None) -> bool:
    """Whether an error of a data callable says that files or a network are not to be had, not that code is wrong."""
    while error is not None:
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in FETCHERS:
            return True
        error = error.__cause__
    return False


def seed_everything(seed: int) -> None:
    """Seed every generator that a user's model, dataset or loop may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # the global generator is what users' datasets draw from
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every generator while the block runs, and give each back the state that it had."""
    own, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        seed_everything(seed)
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpys)


def offered(dataset: Any, name: str) -> Any:
    """What a dataset offers beside its items (``targets``, ``ids``, …); None where a method has that name.

    Raises:
        TaskError: the dataset's own code raised.
    """
    try:
        own = getattr(dataset, name, None)
    except Exception as error:
        raise TaskError(
            f"task.data: {type(dataset).__name__}.{name}: raised {type(error).__name__}: {error}{line_of(error)}"
        ) from error
    return own if isinstance(own, Sized) else None


def targets_of(dataset: Any) -> np.ndarray:
    """Every class number ``(N,)`` of a dataset, from its ``targets`` where these are such, else by reading each item.

    Raises:
        TaskError: a target is no class number.
    """
    own = offered(dataset, "targets")
    if own is not None and len(own) == len(dataset) and (labels := class_numbers(own)) is not None:
        return labels
    split = Split(name="train", dataset=dataset, indices=np.arange(len(dataset)))
    parts = (range(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK))
    read = [target for part in parts for _, target in split.items(part)]
    labels = class_numbers(read)
    if labels is None:
        index = next((index for index, target in enumerate(read) if class_numbers([target]) is None), 0)
        raise TaskError(
            f"task.data: split 'train', item {index}: expected a class number as target, got "
            f"{reprlib.repr(read[index])}: return an integer, or set task.kind"
        )
    return labels


def class_numbers(targets: Any) -> np.ndarray | None:
    """The targets as whole numbers ``(N,)``, or None where some are none."""
    if isinstance(targets, (list, tuple)):
        targets = [
            target.item() if isinstance(target, Tensor) and target.numel() == 1 else target for target in targets
        ]
    try:
        labels = np.asarray(targets)
        with np.errstate(invalid="ignore"):  # NaN is refused by the comparison below
            whole = labels.astype(np.int64)
        fine = labels.ndim == 1 and labels.dtype.kind in "iufb" and bool((labels == whole).all())
    except (TypeError, ValueError, RuntimeError):
        return None
    return whole if fine else None
