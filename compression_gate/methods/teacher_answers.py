"""What a teacher answers to the training set: asked once and kept where that is the same, else asked batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compression_gate import __version__
from compression_gate.methods.base import Context
from compression_gate.methods.features import captured, shaped
from compression_gate.modules.surgery import state_digest
from compression_gate.records.base import digest_of, digest_of_file, replacing
from compression_gate.tasks.calling import call, moved, named
from compression_gate.tasks.sources import first_party_sources, follow, import_roots, module_files
from compression_gate.tasks.task import Batch, Task, seed_everything
from compression_gate.tasks.training import uses_bfloat16

FOLDER = Path(".compression_gate/teachers")
LARGEST_BYTES = 2**28  # kept in memory while the student is trained
MOST_FILES = 8
BATCH_SIZE = 256
OUTPUT = "output"


@dataclass(frozen=True, kw_only=True)
class TeacherAnswers:
    """A teacher's answers to a batch: outputs ``(N, …)`` and, by layer, features ``(N, C, …)``; float32."""

    outputs: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)


Ask = Callable[[Batch], TeacherAnswers]


@dataclass(frozen=True, kw_only=True)
class Unkept:
    """Why answers are not kept."""

    reason: str


def answering(teacher: nn.Module, layers: Sequence[str], context: Context, device: torch.device) -> Ask:
    """Return a function that gives the teacher's answers to a batch of the train split.

    They are kept, in memory and in the suite's ``.compression_gate``, under a digest of the teacher and of the data,
    with their code; those that are kept were given in float32, others are in the precision of ``train``. None are kept
    where inputs differ from epoch to epoch or with the batch they are in, and the notes say so.
    """
    teacher = teacher.to(device)

    half = uses_bfloat16(context.train, device)

    @torch.no_grad()
    def ask(batch: Batch, *, half: bool = False) -> TeacherAnswers:
        with captured(teacher, layers) as seen, torch.autocast(device.type, torch.bfloat16, enabled=half):
            outputs = call(teacher, moved(batch.inputs, device)).float()
        return TeacherAnswers(outputs=outputs, features=shaped(teacher, seen))

    kept = kept_answers(teacher, layers, ask, context)
    if isinstance(kept, Unkept):
        context.notes.remarks.append(f"the teacher is asked anew for every batch: {kept.reason}")
        return partial(ask, half=half)
    outputs, features = kept.outputs, kept.features

    def look_up(batch: Batch) -> TeacherAnswers:
        found = {name: values[batch.positions].to(device) for name, values in features.items()}
        return TeacherAnswers(outputs=outputs[batch.positions].to(device), features=found)

    context.notes.remarks.append(f"the teacher's answers to {len(outputs):,} training examples were asked for once")
    return look_up


def kept_answers(teacher: nn.Module, layers: Sequence[str], ask: Ask, context: Context) -> TeacherAnswers | Unkept:
    """Return the answers to the whole train split in its order, from the file if there is one."""
    task, count = context.task, len(context.task.split("train"))
    if context.train.augment:
        return Unkept(reason=f"train.augment changes the inputs ({', '.join(context.train.augment)})")
    if not fixed_shapes(task):
        return Unkept(reason="task.collate pads, so that an input depends on the batch it is in")
    first = ask(next(task.batches("train", BATCH_SIZE)))
    numbers = sum(value[0].numel() for value in (first.outputs, *first.features.values()))
    if numbers * 4 * count > LARGEST_BYTES:
        return Unkept(reason=f"they would take {numbers * 4 * count:,} bytes, more than {LARGEST_BYTES:,}")
    # Two readings under two seeds: a dataset that draws its augmentation itself gives two contents.
    content = content_digest(task, 0)
    path = task.folder / FOLDER / f"answers-{key_of(teacher, layers, content, task)}.safetensors"
    if path.exists():
        tensors = load_file(path)
        return TeacherAnswers(
            outputs=tensors.pop(OUTPUT), features={name[1:]: value for name, value in tensors.items()}
        )
    seed_everything(1)
    digest = hashlib.sha256()
    rows: list[TeacherAnswers] = []
    for batch in task.batches("train", BATCH_SIZE):
        feed(digest, batch)
        rows.append(ask(batch))
    if digest.hexdigest() != content:
        return Unkept(reason="the dataset gives other inputs every time it is read")
    together = joined(rows)
    keep(together, path)
    return together


def key_of(teacher: nn.Module, layers: Sequence[str], content: str, task: Task) -> str:
    """Return what answers follow from, as a digest of 16 digits: weights, layers, data, and the code of all of them."""
    roots = import_roots(task.folder)
    sources = set(first_party_sources(task.params, task.folder))
    for name in {type(module).__module__ for module in teacher.modules()}:
        follow(module_files(name, roots), roots, sources)
    digests = [digest_of_file(path) for path in sorted(sources)]
    return digest_of([__version__, state_digest(teacher), str(teacher), *layers, content, digests])[:16]


def joined(rows: Sequence[TeacherAnswers]) -> TeacherAnswers:
    """Put the answers to all batches together, on CPU."""
    return TeacherAnswers(
        outputs=torch.cat([row.outputs.cpu() for row in rows]),
        features={name: torch.cat([row.features[name].cpu() for row in rows]) for name in rows[0].features},
    )


def keep(answers: TeacherAnswers, path: Path) -> None:
    """Write the answers, and let go of the oldest files."""
    tensors = {OUTPUT: answers.outputs, **{f".{name}": value for name, value in answers.features.items()}}
    with replacing(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, str(temporary))
    files = sorted(path.parent.glob("answers-*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    for old in files[:-MOST_FILES]:
        old.unlink(missing_ok=True)


def content_digest(task: Task, seed: int) -> str:
    """SHA-256 over inputs and targets of the train split in its order, read under a seed."""
    seed_everything(seed)
    digest = hashlib.sha256()
    for batch in task.batches("train", BATCH_SIZE):
        feed(digest, batch)
    return digest.hexdigest()


def feed(digest: hashlib._Hash, batch: Batch) -> None:
    """Add a batch to a digest."""
    for name, value in (*named(batch.inputs).items(), ("target", batch.targets)):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def fixed_shapes(task: Task, most: int = 512) -> bool:
    """Whether examples alone in a batch all have one shape, so that none is padded for the sake of another."""
    if task.params.collate is None:  # the default joins equal shapes only
        return True
    split = task.split("train")
    shapes = set()
    for position in range(min(len(split), most)):
        inputs, _ = task.collated(split.items([position]), "train")
        shapes.add(tuple(tuple(value.shape) for value in named(inputs).values()))
    return len(shapes) == 1
