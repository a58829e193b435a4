"""LeNet-300-100 and LeNet-5 on MNIST by `rate_aware_training`: bytes of a coded file against its errors.

    python benchmarks/records/lenet.py FOLDER [--recipes NAME …] [--seeds 0 1 2] [--test]

FOLDER holds the four idx files of MNIST, packed or not. Everything is done by the product's general methods; the two
nets are defined here and nowhere else. Of the 60,000 training images 5,000 are for validation (permutation of seed 0),
by which settings are chosen. Every row is a file on disk, decoded by a process of its own. The test images are asked
once for each file, and only with --test. Rows that are there are not made again; a run that was killed goes on behind
its last epoch. Seconds are those of all epochs, of the teacher's too, beside whatever else the machine was doing.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.codec.coded_model import decode_model, encode_model
from compression_gate.methods.base import Context
from compression_gate.methods.chain import factory_of, method_of
from compression_gate.modules.checkpoints import STATE_FILE, load_reference, save_reference
from compression_gate.records.base import digest_of, replacing, write_text
from compression_gate.records.params import Params, Step
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Fitting, fit

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "lenet.json"
WORK = Path(".compression_gate/records/lenet")
FILES = {"train": "train", "test": "t10k"}
VALIDATION, SIDE, BATCH = 5_000, 28, 1_000
ROTATION, SCALE, SHEAR, SHIFT, ELASTIC = 6.0, 0.06, 0.1, 0.6, 0.6  # degrees, shares, pixels; standard deviations
MLP, CNN = {"model": "lenet:Mlp"}, {"model": "lenet:LeNet5"}
TEACHER = {**CNN, "train": {"epochs": 1, "learning_rate": 0.002}}
MLP_DENSE = {"epochs": 4, "batch_size": 256, "learning_rate": 0.002}
# copies: warped copies of the training images beside the clean ones; dense: how the reference is trained.
RECIPES: dict[str, dict[str, Any]] = {
    "mlp first": {
        "task": MLP,
        "copies": 3,
        "dense": MLP_DENSE,
        "steps": [{"method": "rate_aware_training", "strength": 12.0, "levels": 2, "epochs": 6}],
    },
    "mlp taught by a CNN": {
        "task": MLP,
        "copies": 3,
        "dense": MLP_DENSE,
        "steps": [{"method": "rate_aware_training", "strength": 12.0, "levels": 2, "epochs": 6, "teacher": TEACHER}],
    },
}


class Mlp(nn.Module):
    """LeNet-300-100: 266,610 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, 10)`` of images ``(N, 1, 28, 28)``."""
        return self.third(self.second(self.first(images.flatten(1)).relu()).relu())


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it, 431,080 parameters, with ReLU behind the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.third, self.fourth = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, 10)`` of images ``(N, 1, 28, 28)``."""
        maps = functional.max_pool2d(self.first(images).relu(), 2)
        maps = functional.max_pool2d(self.second(maps).relu(), 2)
        return self.fourth(self.third(maps.flatten(1)).relu())


class Images:
    """Images ``(N, 28, 28)`` as bytes, handed out as floats of 0 to 1."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        images = self.images[indices].unsqueeze(1).float() / 255
        return list(zip(images, self.targets[indices].tolist(), strict=True))


@cache
def read(folder: str, name: str) -> tuple[Tensor, Tensor]:
    """Return all images ``(N, 28, 28)`` and labels ``(N,)`` of one idx pair."""
    parts = []
    for kind, offset in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8)):
        path = Path(folder) / f"{FILES[name]}-{kind}"
        data = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
        parts.append(torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=offset).copy()))
    return parts[0].view(-1, SIDE, SIDE), parts[1].long()


def load(split: str, folder: str, copies: int) -> Images:
    """Return a split; the training images come with warped copies, always the same."""
    if split == "calibration":
        raise KeyError(split)
    images, targets = read(folder, "test" if split == "test" else "train")
    if split == "test":
        return Images(images, targets)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    chosen = order[:VALIDATION] if split == "validation" else order[VALIDATION:]
    images, targets = images[chosen], targets[chosen]
    if split == "train":
        pool = [images, *(warped(images, number) for number in range(copies))]
        images, targets = torch.cat(pool), targets.repeat(len(pool))
    return Images(images, targets)


def warped(images: Tensor, number: int) -> Tensor:
    """Return a copy of all images, each turned, scaled, sheared, shifted and bent a little.

    Source: P. Simard et al., Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis,
        ICDAR 2003, §2 (elastic distortions).
    """
    random = torch.Generator().manual_seed(1_000 + number)
    done = []
    for batch in images.split(5_000):
        count = len(batch)
        angle, scale, shear = (
            torch.randn(count, generator=random) * size for size in (ROTATION * torch.pi / 180, SCALE, SHEAR)
        )
        shift = torch.randn(count, 2, generator=random) * SHIFT * 2 / SIDE
        cosine, sine, size = angle.cos(), angle.sin(), 1 + scale
        rows = [
            torch.stack([size * cosine, size * (shear * cosine - sine), shift[:, 0]], 1),
            torch.stack([size * sine, size * (shear * sine + cosine), shift[:, 1]], 1),
        ]
        grid = functional.affine_grid(torch.stack(rows, 1), [count, 1, SIDE, SIDE], align_corners=False)
        coarse = torch.randn(count, 2, 5, 5, generator=random) * ELASTIC * 2 / SIDE
        bent = functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
        moved = functional.grid_sample(batch.unsqueeze(1).float(), grid + bent.permute(0, 2, 3, 1), align_corners=False)
        done.append(moved.squeeze(1).round().clamp(0, 255).byte())
    return torch.cat(done)


def params_of(recipe: dict[str, Any], seed: int, folder: Path) -> Params:
    """Return the params that a suite of this recipe would have."""
    data = {"folder": str(folder.resolve()), "copies": recipe["copies"]}
    return Params.model_validate(
        {
            "task": recipe["task"] | {"data": "lenet:load", "data_args": data},
            "train": {"precision": "float32", "seed": seed} | recipe["dense"],
        }
    )


def reference_of(task: Task, params: Params, folder: Path) -> tuple[nn.Module, float]:
    """Train the reference, or load it; return it with the seconds that it took."""
    clock = folder / "seconds.json"
    if not clock.exists():
        start, model = time.monotonic(), task.build_model()
        checkpoint = folder / "checkpoint.pt"
        folder.mkdir(parents=True, exist_ok=True)
        fit(model, task, Fitting(options=params.train, label="reference", checkpoint=checkpoint))
        save_reference(model, folder)
        write_text(clock, json.dumps(time.monotonic() - start))
    assert (folder / STATE_FILE).exists()
    return load_reference(task, folder, normalize=False), float(json.loads(clock.read_text()))


def made(name: str, seed: int, data: Path) -> dict[str, Any]:
    """Train, compress, encode, and measure on the validation images; return the row."""
    recipe = RECIPES[name]
    params = params_of(recipe, seed, data)
    task = open_task(params, WORK)
    dense = digest_of([recipe["task"], recipe["copies"], recipe["dense"], seed])[:16]
    model, dense_seconds = reference_of(task, params, WORK / f"dense-{dense}")
    reference = model
    methods = [method_of(Step.model_validate(step)) for step in recipe["steps"]]
    remarks, curves, training_seconds = [], {}, 0.0
    for number, method in enumerate(methods):
        checkpoint = WORK / f"step-{digest_of([recipe, seed, number])[:16]}.pt"
        context = Context(task=task, reference=reference, train=params.train, checkpoint=checkpoint)
        model = method.apply(model, context).eval()
        remarks += context.notes.remarks
        curves |= {label: [row.validation_quality for row in curve] for label, curve in context.notes.curves.items()}
        training_seconds += sum(row.seconds for curve in context.notes.curves.values() for row in curve)
    factory = factory_of(methods, task.build_model(), task)
    path = WORK / f"{name.replace(' ', '-')}-{seed}.cgz"
    size = encode_model(model, factory, path)
    parameters = 4 * sum(value.numel() for value in task.build_model().parameters())
    return {
        "recipe": name,
        "seed": seed,
        "settings": recipe,
        "bytes": size,
        "ratio": round(parameters / size, 1),
        "dense_validation_error": errors_of(WORK / f"dense-{dense}", recipe, data, "validation"),
        "validation_error": errors_of(path, recipe, data, "validation"),
        "test_error": None,
        "nonzeros": sum(int((value != 0).sum()) for value in model.parameters()),
        "dense_seconds": round(dense_seconds),
        "seconds": round(training_seconds),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "remarks": remarks,
        "validation_accuracy_by_epoch": curves,
    }


def errors_of(path: Path, recipe: dict[str, Any], data: Path, split: str) -> float:
    """Return the share of wrong answers [%] that a process of its own finds with nothing but the file."""
    command = [sys.executable, __file__, str(data), "--answer", str(path), "--split", split]
    command += ["--model", recipe["task"]["model"].partition(":")[2]]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def answered(path: Path, kind: str, data: Path, split: str) -> float:
    """Decode a file, or read a reference's folder, and return the share of wrong answers [%]."""
    model: nn.Module = {"Mlp": Mlp, "LeNet5": LeNet5}[kind]()
    if path.is_dir():
        from safetensors.torch import load_model

        load_model(model, str(path / STATE_FILE))
    else:
        model = decode_model(model, path)
    images = load(split, str(data), 0)
    wrong = 0
    for start in range(0, len(images), BATCH):
        items = images.__getitems__(list(range(start, min(start + BATCH, len(images)))))
        answers = model.eval()(torch.stack([image for image, _ in items])).argmax(1)
        wrong += int((answers != torch.tensor([target for _, target in items])).sum())
    return 100 * wrong / len(images)


def written(rows: list[dict[str, Any]]) -> None:
    """Store the rows."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Make the rows that are missing, ask the test images where that was not done, and show all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--test", action="store_true")
    for hidden in ("--answer", "--split", "--model"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.answer:
        print(answered(Path(asked.answer), asked.model, asked.data, asked.split))
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.path.insert(0, str(HERE))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in asked.recipes:
        for seed in asked.seeds:
            own = [row for row in rows if (row["recipe"], row["seed"], row["settings"]) == (name, seed, RECIPES[name])]
            row = own[0] if own else made(name, seed, asked.data)
            if not own:
                rows.append(row)
                written(rows)
            path = WORK / row["file"]
            if asked.test and row["test_error"] is None and path.exists():
                if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
                    sys.exit(f"{path}: is not the file of this row: remove the row and make it again")
                row["test_error"] = errors_of(path, RECIPES[name], asked.data, "test")
                written(rows)
            keys = ("recipe", "seed", "bytes", "ratio", "validation_error", "test_error", "dense_seconds", "seconds")
            print("  ".join(f"{key} {row[key]}" for key in keys))


if __name__ == "__main__":
    main()
