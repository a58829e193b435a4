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
import lzma
import math
import os
import subprocess
import sys
import time
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared_kernels import SharedKernels
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.codec.coded_model import decode_model, encode_model
from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.methods.base import Context, Notes
from compression_gate.methods.chain import built
from compression_gate.modules.checkpoints import STATE_FILE, load_reference, save_reference
from compression_gate.records.base import digest_of, replacing, write_text
from compression_gate.records.params import Params, Step
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Fitting, fit

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "lenet.json"
WORK = HERE.parents[1] / ".compression_gate/records/lenet"
FILES = {"train": "train", "test": "t10k"}
VALIDATION, SIDE, BATCH = 5_000, 28, 1_000
ROTATION, SCALE, SHEAR, SHIFT, ELASTIC = 6.0, 0.06, 0.1, 0.6, 0.6  # degrees, shares, pixels; standard deviations
MLP, CNN = {"model": "lenet:Mlp"}, {"model": "lenet:LeNet5"}
CNN_DENSE = {"epochs": 2, "batch_size": 256, "learning_rate": 0.002}
MLP_DENSE = {"epochs": 2, "batch_size": 256, "learning_rate": 0.003}
CNN_SEED = 0  # of LeNet-5's reference, whatever the seed of a row: it takes longer to train than all that follows
DENSE_DATA = {"copies": 7, "clean": 1}
POOL = {"copies": 5, "clean": 3, "teacher": True}  # eight times the training images: an epoch is eight short ones
ALONE = {"copies": 0, "clean": 1, "teacher": False}  # like the papers: no augmentation, no teacher


def mlp(*steps: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe of LeNet-300-100: rate-aware training behind its own reference, once or twice."""
    method = {"method": "rate_aware_training"}
    return {"task": MLP, "dense": MLP_DENSE, "steps": [method | step for step in steps]}


def tied(*steps: dict[str, Any], second: int, epochs: int = 1) -> dict[str, Any]:
    """Return a recipe of LeNet-300-100 with a first layer of shared kernels, then rate-aware training."""
    student = {"model": "lenet:tied_mlp", "model_args": {"second": second}}
    first = {"method": "distillation", "student": student, "epochs": epochs, "temperature": 2.0, "learning_rate": 0.004}
    return mlp(*steps) | {"steps": [first, *({"method": "rate_aware_training"} | one for one in steps)]}


def cnn(
    *steps: dict[str, Any], widths: tuple[int, int, int] = (10, 20, 40), epochs: int = 1, alpha: float = 0.7
) -> dict[str, Any]:
    """Return a recipe of LeNet-5: a narrower student, then rate-aware training, once or twice."""
    arguments = dict(zip(("first", "second", "third"), widths, strict=True)) | {"dropout": 0.0}
    student = {"model": "lenet:LeNet5", "model_args": arguments}
    soft = {"temperature": 2.0, "alpha": alpha, "learning_rate": 0.004}
    first = {"method": "distillation", "student": student, "epochs": epochs} | soft
    return {
        "task": CNN,
        "dense": CNN_DENSE,
        "steps": [first, *({"method": "rate_aware_training"} | one for one in steps)],
    }


LIGHT = {"strength": 5.0, "levels": 3, "epochs": 7, "learning_rate": 0.004}
LIGHT_CNN = {"strength": 14.0, "levels": 2, "epochs": 5, "learning_rate": 0.004}
SHORT = {"levels": 2, "epochs": 8, "learning_rate": 0.003, "alpha": 0.0}
# copies, clean: how often warped copies and the training images themselves are in an epoch; dense: how the reference is
# trained; teacher: whether LeNet-5's reference teaches LeNet-300-100.
RECIPES: dict[str, dict[str, Any]] = {
    "mlp 1.0": mlp(LIGHT) | POOL,
    "mlp 1.64": mlp({"strength": 15.0, "levels": 2, "epochs": 5, "learning_rate": 0.004}) | POOL,
    "mlp tied": tied({"strength": 28.0, "levels": 2, "epochs": 5, "learning_rate": 0.004}, second=50) | POOL,
    "cnn 0.75": cnn(LIGHT_CNN) | POOL | {"teacher": False},
    "cnn 1.0": cnn(LIGHT_CNN | {"strength": 28.0, "epochs": 4}, widths=(8, 16, 32)) | POOL | {"teacher": False},
    # Like for like with the papers.
    "mlp alone": mlp({"strength": 0.3, "levels": 2, "epochs": 20, "learning_rate": 0.003, "alpha": 0.0}) | ALONE,
    "cnn alone": cnn(
        {"strength": 0.4, "levels": 2, "epochs": 12, "learning_rate": 0.004, "alpha": 0.0}, epochs=3, alpha=0.0
    )
    | ALONE,
    # Tried, on validation only: from the lighter one on, and a target beside a price.
    "mlp continued": mlp(LIGHT, {"strength": 18.0, "levels": 2, "epochs": 4, "learning_rate": 0.003}) | POOL,
    "cnn continued": cnn(LIGHT_CNN, {"strength": 40.0, "levels": 2, "epochs": 3, "learning_rate": 0.003})
    | POOL
    | {"teacher": False},
    "price kept": mlp({"strength": 1.0} | SHORT) | ALONE,
    "target": mlp({"target_bytes": 3_063} | SHORT) | ALONE,
}
VALIDATION_ONLY = ("mlp continued", "cnn continued", "price kept", "target")


class Mlp(nn.Module):
    """LeNet-300-100: 266,610 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, 10)`` of images ``(N, 1, 28, 28)``."""
        return self.third(self.second(self.first(images.flatten(1)).relu()).relu())


def tied_mlp(second: int) -> Mlp:
    """Return LeNet-300-100 whose first 300 units are 12 kernels of 8 × 8 at 25 places, with so many behind them."""
    model = Mlp()
    model.first = SharedKernels(12, SIDE, 8, 5)  # type: ignore[assignment]  # it takes the linear layer's place
    model.second, model.third = nn.Linear(300, second), nn.Linear(second, 10)
    return model


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it, 431,080 parameters, with ReLU behind the convolutions; or narrower."""

    def __init__(self, first: int = 20, second: int = 50, third: int = 500, dropout: float = 0.3) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, first, 5), nn.Conv2d(first, second, 5)
        self.third, self.fourth = nn.Linear(16 * second, third), nn.Linear(third, 10)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, 10)`` of images ``(N, 1, 28, 28)``."""
        maps = functional.max_pool2d(self.first(images).relu(), 2)
        maps = functional.max_pool2d(self.second(maps).relu(), 2)
        return self.fourth(self.dropout(self.third(maps.flatten(1)).relu()))


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


def load(split: str, folder: str, copies: int, clean: int = 1) -> Images:
    """Return a split; the training images come ``clean`` times, with warped copies, which are always the same."""
    if split == "calibration":
        raise KeyError(split)
    images, targets = read(folder, "test" if split == "test" else "train")
    if split == "test":
        return Images(images, targets)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    chosen = order[:VALIDATION] if split == "validation" else order[VALIDATION:]
    images, targets = images[chosen], targets[chosen]
    if split == "train":
        images, targets = pool_of(images, copies, clean), targets.repeat(clean + copies)
    return Images(images, targets)


def pool_of(images: Tensor, copies: int, clean: int) -> Tensor:
    """Return the images so many times, and warped copies of them, which are made once and kept."""
    pool = [images] * clean
    for number in range(copies):
        path = WORK / f"copy-{digest_of([number, ROTATION, SCALE, SHEAR, SHIFT, ELASTIC])[:16]}.pt"
        if not path.exists():
            start = time.monotonic()
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                torch.save(warped(images, number), temporary)
            write_text(path.with_suffix(".json"), json.dumps(time.monotonic() - start))
        pool.append(torch.load(path, weights_only=True))
    return torch.cat(pool)


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
    data = {"folder": str(folder.resolve()), "copies": recipe["copies"], "clean": recipe["clean"]}
    return Params.model_validate(
        {
            "task": recipe["task"] | {"data": "lenet:load", "data_args": data},
            "train": {"seed": seed} | recipe["dense"],
        }
    )


def elsewhere(model: nn.Module) -> dict[str, int]:
    """Return what the same integers take without their steps, one byte each, in general compressors [bytes].

    ``static``: their order-0 entropy, each tensor with its own, and a byte for each entry of its table.
    """
    import zstandard  # no dependency: pip install zstandard

    planes = [integers_of(value.detach()) for value in model.parameters()]
    flat = b"".join(plane.numpy().tobytes() for plane in planes)
    static = 0.0
    for plane in planes:
        counts = plane.flatten().to(torch.int64).add(128).bincount().double()
        counts = counts[counts > 0]
        static += len(counts) - float((counts * (counts / counts.sum()).log2()).sum()) / 8
    return {
        "zlib": len(zlib.compress(flat, 9)),
        "lzma": len(lzma.compress(flat, format=lzma.FORMAT_ALONE, preset=lzma.PRESET_EXTREME | 9)),
        "zstd-19": len(zstandard.ZstdCompressor(level=19, write_content_size=False).compress(flat)),
        "static": math.ceil(static),
    }


def integers_of(values: Tensor) -> Tensor:
    """Return the whole multiples of one step that the values are, int8."""
    sizes = values[values != 0].abs()
    for divisor in range(1, 64) if len(sizes) else ():
        step = sizes.min() / divisor
        integers = (values / step).round()
        if torch.equal(integers * step, values):
            return integers.to(torch.int8)
    if len(sizes):
        raise ValueError(f"expected multiples of one step, got {sizes.unique()[:4]}")
    return torch.zeros_like(values, dtype=torch.int8)


def reference_of(recipe: dict[str, Any], seed: int, data: Path) -> tuple[Path, dict[str, float]]:
    """Train the reference, if there is none; return its folder, and the seconds that it and the warped copies took."""
    recipe = recipe | (DENSE_DATA if recipe["copies"] else {})
    seed = CNN_SEED if recipe["task"] == CNN else seed
    folder = WORK / f"dense-{digest_of([recipe[key] for key in ('task', 'copies', 'clean', 'dense')] + [seed])[:16]}"
    clock = folder / "seconds.json"
    if not clock.exists():
        params = params_of(recipe, seed, data)
        task = open_task(params, WORK)
        count = len(task.split("train"))  # makes the copies, which are not the reference's time
        start, model = time.monotonic(), task.build_model()
        folder.mkdir(parents=True, exist_ok=True)
        label, checkpoint = f"reference, {count:,} images", folder / "checkpoint.pt"
        fit(model, task, Fitting(options=params.train, label=label, checkpoint=checkpoint))
        save_reference(model, folder)
        write_text(clock, json.dumps(time.monotonic() - start))
    copies = sum(float(json.loads(path.read_text())) for path in WORK.glob("copy-*.json"))
    return folder, {"copies": copies if recipe["copies"] else 0.0, "reference": float(json.loads(clock.read_text()))}


def made(name: str, seed: int, data: Path) -> dict[str, Any]:
    """Train, compress, encode, and measure on the validation images; return the row."""
    recipe = RECIPES[name]
    params = params_of(recipe, seed, data)
    task = open_task(params, WORK)
    dense, seconds = reference_of(recipe, seed, data)
    reference, steps = load_reference(task, dense, normalize=False), recipe["steps"]
    if recipe["teacher"]:
        steps, taken = taught(recipe, seed, data)
        seconds |= taken
    model, notes, seconds["steps"] = compressed(steps, task, reference, params, recipe)
    path = WORK / f"{name.replace(' ', '-')}-{seed}.cgz"
    size = encode_model(model, task.build_model(), path)
    parameters = 4 * sum(value.numel() for value in task.build_model().parameters())
    return {
        "recipe": name,
        "seed": seed,
        "settings": recipe,
        "bytes": size,
        "ratio": round(parameters / size, 1),
        "dense_validation_error": errors_of(dense, recipe, data, "validation"),
        "validation_error": errors_of(path, recipe, data, "validation"),
        "test_error": None,
        "nonzeros": sum(int((value != 0).sum()) for value in model.parameters()),
        "elsewhere": elsewhere(model),
        "shapes": {key: list(value.shape) for key, value in model.named_parameters() if value.dim() > 1},
        "seconds": {key: round(value) for key, value in seconds.items()},
        "load": round(os.getloadavg()[0], 2),
        "machine": {key: machine_fingerprint()[key] for key in ("processor", "cores", "torch", "python")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "remarks": notes.remarks,
        "validation_accuracy_by_epoch": {
            label: [row.validation_quality for row in curve] for label, curve in notes.curves.items()
        },
    }


def taught(recipe: dict[str, Any], seed: int, data: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the steps with LeNet-5's reference as their teacher, and the seconds that it took."""
    folder, seconds = reference_of(recipe | {"task": CNN, "dense": CNN_DENSE}, seed, data)
    teacher = {**CNN, "weights": str((folder / STATE_FILE).relative_to(WORK))}
    return [step | {"teacher": teacher} for step in recipe["steps"]], {"teacher": seconds["reference"]}


def compressed(
    steps: list[dict[str, Any]], task: Task, reference: nn.Module, params: Params, recipe: dict[str, Any]
) -> tuple[nn.Module, Notes, float]:
    """Apply the steps one after the other; what a step made is kept for recipes that begin alike.

    Returns:
        The model, what the steps said, and their seconds, also those of steps that were kept.
    """
    model, notes, seconds = reference, Notes(), 0.0
    parts = [recipe[key] for key in ("task", "copies", "clean", "dense")] + [params.train.seed]
    for number, method in enumerate(built([Step.model_validate(step) for step in steps], "steps")):
        path = WORK / f"step-{digest_of([*parts, steps[: number + 1]])[:16]}.pt"
        context = Context(task=task, reference=reference, train=params.train, checkpoint=path, notes=notes)
        kept = path.with_suffix(".kept")
        if not kept.exists():
            start = time.monotonic()
            model = method.apply(model, context).eval()
            epochs = sum(row.seconds for curve in notes.curves.values() for row in curve)
            torch.save((model, notes, max(epochs, seconds + time.monotonic() - start)), kept)  # it may be continued
        model, notes, seconds = torch.load(kept, weights_only=False)  # written by this script
    return model, notes, seconds


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
            if asked.test and name not in VALIDATION_ONLY and row["test_error"] is None and path.exists():
                if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
                    sys.exit(f"{path}: is not the file of this row: remove the row and make it again")
                row["test_error"] = errors_of(path, RECIPES[name], asked.data, "test")
                written(rows)
            keys = ("recipe", "seed", "bytes", "ratio", "validation_error", "test_error", "seconds")
            print("  ".join(f"{key} {row[key]}" for key in keys))


if __name__ == "__main__":
    main()
