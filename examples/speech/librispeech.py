"""Keywords in a folder laid out as LibriSpeech is: ``<part>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt``.

Each line of a transcript is ``<utterance> <WORDS IN CAPITALS>``, and the utterance lies beside it as ``.flac`` or
``.wav``, one channel. In ``params.yaml``:

    task:
      data: librispeech:load
      data_args: {folder: /data/LibriSpeech, keywords: ["YES", "NO"]}
      model_args: {classes: 3}          # one more than keywords: class 0 has none of them
"""

from __future__ import annotations

import math
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from keywords import FEATURES
from torch import Tensor
from torch.utils.data import Dataset

PARTS = {"train": "train-clean-100", "validation": "dev-clean", "test": "test-clean"}
WINDOW_S, HOP_S, FILTERS = 0.025, 0.01, 26  # [s], [s]; as speech recognisers have them
LOWEST_HZ = 20.0
FLOOR = 1e-10  # of a filter's energy: the logarithm of silence


class Utterances(Dataset[tuple[Tensor, int]]):
    """Utterances of one part, read when asked for: frames ``(T, 13)`` and the class."""

    def __init__(self, found: list[tuple[Path, int]], classes: Sequence[str], seconds: float) -> None:
        self.found = found
        self.targets = np.array([label for _, label in found])
        self.classes = tuple(classes)
        self.seconds = seconds

    @property
    def ids(self) -> list[str]:
        """The utterances' own names."""
        return [path.stem for path, _ in self.found]

    @property
    def columns(self) -> dict[str, list[str]]:
        """Slices: a model must not lose one speaker."""
        return {"speaker": [path.stem.partition("-")[0] for path, _ in self.found]}

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.found[index]
        samples, rate_hz = read(path)
        return cepstra(samples[: int(self.seconds * rate_hz)], rate_hz), label


def load(split: str, *, folder: str, keywords: Sequence[str], seconds: float = 4.0) -> Utterances:
    """Return the utterances of a split, class ``k`` for those with the ``k``-th keyword and 0 for those with none.

    Utterances with several of the keywords are left out.

    Args:
        folder: holds the parts as LibriSpeech's archives unpack them (``train-clean-100``, …).
        seconds: how much of each utterance is taken, from its start.

    Raises:
        KeyError: a split that has no part here. FileNotFoundError: a part, or an utterance of it, is missing.
    """
    part = Path(folder) / PARTS[split]
    if split == "validation" and not part.is_dir():
        raise KeyError(split)  # it is then cut from the training utterances
    wanted = [word.upper() for word in keywords]
    found = []
    for path, words in transcribed(part):
        said = [index for index, word in enumerate(wanted, start=1) if word in words]
        if len(said) < 2:
            found.append((path, said[0] if said else 0))
    return Utterances(found, ("none of them", *keywords), seconds)


def transcribed(part: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield each utterance of a part and the words said in it, in the order of names."""
    transcripts = sorted(part.glob("*/*/*.trans.txt"))
    if not transcripts:
        raise FileNotFoundError(f"{part}: expected <speaker>/<chapter>/*.trans.txt there, got none: unpack {part.name}")
    for transcript in transcripts:
        for line in transcript.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            beside = [transcript.with_name(f"{name}{suffix}") for suffix in (".flac", ".wav")]
            path = next((path for path in beside if path.is_file()), None)
            if path is None:
                raise FileNotFoundError(f"{transcript}: {name}: expected {name}.flac or .wav beside it, got neither")
            yield path, set(text.upper().split())


def read(path: Path) -> tuple[np.ndarray, int]:
    """Read one channel: samples in −1 … 1 ``(S,)``, and how many a second [Hz]."""
    if path.suffix == ".flac":
        try:
            import soundfile
        except ImportError as error:
            raise RuntimeError(f"{path}: FLAC needs a package to be read: pip install soundfile") from error
        samples, rate_hz = soundfile.read(path, dtype="float32")
        return np.asarray(samples).reshape(len(samples), -1)[:, 0], int(rate_hz)
    with wave.open(str(path)) as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            raise RuntimeError(
                f"{path}: expected one channel of 16 bits, got {file.getnchannels()} of {8 * file.getsampwidth()}"
            )
        content = file.readframes(file.getnframes())
        return np.frombuffer(content, dtype="<i2").astype(np.float32) / 32768, file.getframerate()


def cepstra(samples: np.ndarray, rate_hz: int) -> Tensor:
    """Mel-frequency cepstral coefficients ``(T, 13)``, each of mean 0 and deviation 1 over the utterance.

    Source: S. Davis, P. Mermelstein, Comparison of Parametric Representations for Monosyllabic Word Recognition, IEEE
        Transactions on Acoustics, Speech, and Signal Processing 28, 1980, section II.
    """
    width, hop = round(WINDOW_S * rate_hz), round(HOP_S * rate_hz)
    padded = np.pad(samples, (0, max(0, width - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop] * np.hamming(width)
    size = 2 ** math.ceil(math.log2(width))
    power = np.abs(np.fft.rfft(frames, size)) ** 2 / size
    energies = np.log(np.maximum(power @ mel_filters(size, rate_hz).T, FLOOR))
    place = np.arange(FILTERS) + 0.5
    basis = np.cos(np.pi / FILTERS * np.outer(np.arange(FEATURES), place))
    coefficients = energies @ basis.T
    deviation = np.maximum(coefficients.std(0), 1e-5)
    return torch.from_numpy(((coefficients - coefficients.mean(0)) / deviation).astype(np.float32))


def mel_filters(size: int, rate_hz: int) -> np.ndarray:
    """Triangles ``(26, size / 2 + 1)`` spaced evenly on the mel scale, 2595·log10(1 + f/700)."""
    lowest, highest = (2595 * math.log10(1 + hz / 700) for hz in (LOWEST_HZ, rate_hz / 2))
    corners_hz = 700 * (10 ** (np.linspace(lowest, highest, FILTERS + 2) / 2595) - 1)
    bins_hz = np.fft.rfftfreq(size, 1 / rate_hz)
    rising = (bins_hz - corners_hz[:-2, None]) / np.diff(corners_hz)[:-1, None]
    falling = (corners_hz[2:, None] - bins_hz) / np.diff(corners_hz)[1:, None]
    return np.clip(np.minimum(rising, falling), 0, None)
