"""The training loop: seeded, resumable from the last epoch, one for the reference and for methods that train."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compression_gate import __version__
from compression_gate.errors import CompressionGateError, TaskError
from compression_gate.progress import tracked
from compression_gate.records.base import digest_of, replacing
from compression_gate.records.params import TrainParams
from compression_gate.tasks.augment import augmented
from compression_gate.tasks.calling import call, line_of, moved
from compression_gate.tasks.task import Batch, Task, seed_everything

log = logging.getLogger("compression_gate")
StepLoss = Callable[[Tensor, Batch], Tensor]
AfterStep = Callable[[nn.Module], None]
WEIGHT_DECAY = 0.01
LEAST_EXAMPLES = 2  # in a batch: batch norms refuse a single one, so that one left over joins the batch before it
WARM_UP_SHARE = 0.2  # of all steps; on the default task a longer one costs accuracy at 4 epochs


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of the training curve."""

    epoch: int
    loss: float
    validation_loss: float
    validation_quality: float | None
    seconds: float


class Companion(Protocol):
    """Something that changes while a model is trained, and must be where it was when training is continued."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Take them back."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What :func:`fit` is asked: the options, the loss of one batch, and where to continue from.

    Args:
        loss: callable(outputs, batch) -> scalar; the task's own loss if None. ``batch`` holds the augmented inputs.
        after_step: called after each optimizer step, e.g. to keep pruned weights at zero.
        checkpoint: written after each epoch, read if it was written by the same fitting, gone when done.
        label: what the progress bar says.
        key: distinguishes fittings that differ in more than their options (a digest of the start, say).
        companions: what the loss trains or counts beside the model; kept in the checkpoint.
    """

    options: TrainParams
    loss: StepLoss | None = None
    after_step: AfterStep | None = None
    checkpoint: Path | None = None
    label: str = "train"
    key: str = ""
    companions: tuple[Companion, ...] = ()


def in_turn(first: AfterStep, second: AfterStep | None) -> AfterStep:
    """Return what does both after each step."""

    def after_step(model: nn.Module) -> None:
        first(model)
        if second:
            second(model)

    return after_step


def device_of(options: TrainParams) -> torch.device:
    """The device asked for; ``auto`` is CUDA where there is one."""
    wanted = options.device if options.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TaskError("params.yaml: train.device: expected a CUDA device, found none: use auto or cpu")
    return torch.device(wanted)


def uses_bfloat16(options: TrainParams, device: torch.device) -> bool:
    """Whether to train under bfloat16 autocast: if asked, or under ``auto`` where the processor has it natively."""
    if options.precision != "auto":
        return options.precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fit(model: nn.Module, task: Task, fitting: Fitting) -> list[Epoch]:
    """Train ``model`` in place on the train split and leave it in eval mode on the CPU.

    Same seed, same weights on the same machine and thread count. Nothing is selected: the last epoch's weights stay.

    Raises:
        TaskError: the loss is not finite, or the loss is not a scalar.
    """
    options, device = fitting.options, device_of(fitting.options)
    if options.epochs == 0:
        return []
    arranged(model, layout_of(model, task, device), device).train()
    count, examples = batches_an_epoch(task, options), len(task.split("train"))
    optimizer = optimizer_of(model, options)
    schedule = schedule_of(optimizer, options, count)
    curve = resumed(model, optimizer, schedule, fitting)
    for number in range(len(curve), options.epochs):
        start = time.monotonic()
        seed = options.seed * 10_007 + number
        seed_everything(seed)
        batches = task.batches("train", options.batch_size, shuffle_seed=seed, least=LEAST_EXAMPLES)
        total = 0.0
        for batch in tracked(batches, count, f"{fitting.label} {number + 1}/{options.epochs}"):
            total += train_step(model, batch, task, fitting, optimizer, device) * len(batch.positions)
            schedule.step()
        loss, quality = validated(model, task, options.batch_size, device)
        row = Epoch(
            epoch=number + 1,
            loss=total / examples,
            validation_loss=loss,
            validation_quality=quality,
            seconds=time.monotonic() - start,
        )
        curve.append(row)
        shown = "" if quality is None else f", validation accuracy {quality:.4f}"
        log.info(
            "%s: epoch %d of %d: loss %.4f%s, %.0f s",
            fitting.label,
            row.epoch,
            options.epochs,
            row.loss,
            shown,
            row.seconds,
        )
        save_checkpoint(model, optimizer, schedule, curve, fitting)
    if fitting.checkpoint is not None:
        fitting.checkpoint.unlink(missing_ok=True)
    model.zero_grad(set_to_none=True)
    arranged(model, torch.contiguous_format, torch.device("cpu")).eval()
    return curve


def batches_an_epoch(task: Task, options: TrainParams) -> int:
    """Return how many steps :func:`fit` takes in an epoch."""
    full, rest = divmod(len(task.split("train")), options.batch_size)
    return max(1, full + (rest >= LEAST_EXAMPLES))


def layout_of(model: nn.Module, task: Task, device: torch.device) -> torch.memory_format:
    """Return channels last for networks with convolutions over images, which it is faster for, where it works.

    It does not where the model or the loss reads maps by ``view``, or where a tensor has five axes: tried on a copy.
    """
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return torch.contiguous_format
    try:
        trial = arranged(copy.deepcopy(model), torch.channels_last, device).train()
        batch = next(task.batches("train", 2))
        outputs = call(trial, moved(batch.inputs, device)).float()
        targets = batch.targets.to(device)
        (task.loss(outputs, targets) if task.has_loss else outputs.sum()).backward()
    except Exception as error:  # noqa: BLE001  # a user's code may fail in any way; what is no fault of it passes without
        log.debug("trained without channels last, which fails: %s", error)
        return torch.contiguous_format
    return torch.channels_last


def arranged(model: nn.Module, layout: torch.memory_format, device: torch.device) -> nn.Module:
    """Move the model to a device, in place, its tensors of four axes in this layout."""
    return model.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # torch's types lack it


def train_step(
    model: nn.Module, batch: Batch, task: Task, fitting: Fitting, optimizer: torch.optim.Optimizer, device: torch.device
) -> float:
    """One batch forward and back; returns its loss."""
    inputs = moved(augmented(batch.inputs, fitting.options.augment), device)
    batch = Batch(inputs=inputs, targets=batch.targets.to(device), positions=batch.positions)
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(fitting.options, device)):
        outputs = call(model, inputs)
    outputs = outputs.float()
    loss = loss_of(outputs, batch, task, fitting.loss)
    if not torch.isfinite(loss):
        raise TaskError(
            f"{fitting.label}: expected a finite loss, got {float(loss.detach())}: "
            "lower train.learning_rate, or look for NaN in the data and the model"
        )
    optimizer.zero_grad(set_to_none=True)
    try:
        loss.backward()
    except Exception as error:  # what autograd refuses, or a user's own backward() raises
        raise TaskError(
            f"task.loss: expected a loss that can be followed back to the weights, got that backward() raised "
            f"{type(error).__name__}: {error}: keep to torch's operations from the inputs to the loss"
        ) from error
    optimizer.step()
    if fitting.after_step:
        fitting.after_step(model)
    return float(loss.detach())


def loss_of(outputs: Tensor, batch: Batch, task: Task, own: StepLoss | None = None) -> Tensor:
    """Compute the loss of one batch, the task's unless a method brings its ``own``.

    Raises:
        TaskError: the loss does not take these outputs and targets, or is no scalar.
    """
    targets, labels = batch.targets, task.params.kind == "classification"
    try:
        loss = own(outputs, batch) if own else task.loss(outputs, targets)
    except CompressionGateError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise TaskError(
            f"task.loss: outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)} of {targets.dtype}"
            f"{f', {targets.min()} to {targets.max()}' if targets.numel() else ''}: {type(error).__name__}: {error}"
            f"{line_of(error)}: {'labels must be 0 to classes - 1, and ' if labels else ''}"
            "the loss must take what the model returns"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(f"task.loss: expected a scalar tensor, got {got}: return the mean over the batch")
    return loss


def optimizer_of(model: nn.Module, options: TrainParams) -> torch.optim.Optimizer:
    """The optimizer named in the params, over the weights that are not frozen."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise TaskError("task.model: expected weights to train, got none: set train.epochs to 0, or unfreeze some")
    if options.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=options.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=WEIGHT_DECAY)


def schedule_of(
    optimizer: torch.optim.Optimizer, options: TrainParams, batches: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate's course over all batches."""
    steps = batches * options.epochs
    if options.schedule == "one_cycle":
        # One step up at least: torch divides by their number.
        share = max(WARM_UP_SHARE, 2 / (steps + 1))
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, options.learning_rate, total_steps=steps + 1, pct_start=share
        )
    if options.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


@torch.no_grad()
def validated(model: nn.Module, task: Task, batch_size: int, device: torch.device) -> tuple[float, float | None]:
    """Return the mean loss on the validation split, and accuracy where there are classes; train mode is back after.

    The loss is NaN where the task has none: whoever trains brings one then, which need not suit labels.
    """
    if not task.has_loss:
        return math.nan, None
    model.eval()
    total, right, count = 0.0, 0, 0
    for batch in task.batches("validation", max(batch_size, 512)):
        outputs = call(model, moved(batch.inputs, device)).float()
        batch = Batch(inputs=batch.inputs, targets=batch.targets.to(device), positions=batch.positions)
        total += float(loss_of(outputs, batch, task)) * len(batch.targets)
        count += len(batch.targets)
        if task.params.kind == "classification":
            right += int((outputs.argmax(1) == batch.targets).sum())
    model.train()
    return total / count, right / count if task.params.kind == "classification" else None


def key_of(fitting: Fitting) -> str:
    """What a checkpoint must have been written by to be continued; another version may keep other things in it."""
    return digest_of([__version__, fitting.options.model_dump(mode="json"), fitting.label, fitting.key])


def save_checkpoint(model: nn.Module, optimizer: Any, schedule: Any, curve: list[Epoch], fitting: Fitting) -> None:
    """Write everything the next epoch starts from."""
    if fitting.checkpoint is None:
        return
    state = {
        "key": key_of(fitting),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "companions": [companion.state_dict() for companion in fitting.companions],
        "curve": [vars(row) for row in curve],
    }
    with replacing(fitting.checkpoint) as temporary:
        torch.save(state, temporary)


def resumed(model: nn.Module, optimizer: Any, schedule: Any, fitting: Fitting) -> list[Epoch]:
    """Load the checkpoint of this very fitting, if there is one, and return the epochs it holds."""
    if fitting.checkpoint is None or not fitting.checkpoint.exists():
        return []
    try:
        state = torch.load(fitting.checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  # a damaged file may fail in any way; training starts over
        log.warning("%s: cannot be continued from (%s): starting over", fitting.checkpoint, type(error).__name__)
        return []
    if not isinstance(state, dict) or state.get("key") != key_of(fitting):
        return []
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    for companion, values in zip(fitting.companions, state["companions"], strict=True):
        companion.load_state_dict(values)
    log.info("%s: continued after epoch %d", fitting.label, len(state["curve"]))
    return [Epoch(**row) for row in state["curve"]]
