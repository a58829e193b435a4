"""Keywords: packed and padded sequences answer alike; the spoken digits; a folder laid out as LibriSpeech is."""

from __future__ import annotations

import importlib
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

DIGITS = Path(__file__).parents[2] / "examples/speech/data"
RATE_HZ = 8000


def modules(example, *names):
    folder = example("speech")
    return [folder, *(importlib.import_module(name) for name in names)]


def sequences(*lengths):
    return [(torch.randn(length, 13), index) for index, length in enumerate(lengths)]


def test_packed_and_padded_sequences_answer_alike(example):
    """Training packs, everything else pads: the reference that is judged is the one that was trained."""
    _, keywords = modules(example, "keywords")
    torch.manual_seed(0)
    model = keywords.Classifier(hidden=8)
    inputs, _ = keywords.pad(sequences(3, 9, 1))
    torch.testing.assert_close(model.eval()(**inputs), model.train()(**inputs))


def test_longer_padding_changes_no_answer(example):
    _, keywords = modules(example, "keywords")
    model = keywords.Classifier(hidden=8).eval()
    alone, beside = sequences(4, 4), sequences(4, 30)
    beside[0] = alone[0]
    first, second = (model(**keywords.pad(batch)[0])[0] for batch in (alone, beside))
    torch.testing.assert_close(first, second)


def test_test_recordings_are_a_hundred_of_each_digit_and_in_no_other_split(example):
    _, digits = modules(example, "spoken_digits")
    labels = np.arange(3000) % 10
    cut = digits.cut(labels)
    assert np.bincount(labels[cut["test"]]).tolist() == [100] * 10
    assert sorted([*cut["train"], *cut["test"]]) == list(range(3000))


def test_another_file_than_the_published_one_is_refused(example, tmp_path):
    _, digits = modules(example, "spoken_digits")
    (tmp_path / "digits.npz").write_bytes(b"something else")
    with pytest.raises(RuntimeError, match=r"digits\.npz: expected SHA-256 27a7.* 14 bytes"):
        digits.load("test", folder=str(tmp_path))


def test_spoken_digits_run_through_the_stages(example):
    if not (DIGITS / "digits.npz").is_file():
        pytest.skip("the spoken digits are not here: python examples/speech/spoken_digits.py fetches them")
    suite = example("speech")
    suite.edit(
        task__data_args={"folder": str(DIGITS), "limit": 300},
        task__model_args={"hidden": 16},
        prepare__allow=["empty_classes"],
        train__epochs=2,
    )
    suite.steps(distillation={"epochs": 1})
    found = suite.run()
    assert found.n == 300
    assert set(found.models["candidate"].slices["accuracy"]) >= {"length=short", "length=long"}
    assert_compressed(suite)


def assert_compressed(suite):
    """The units are gone, and what is left of the recurrent layers is integers in the runtime's file."""
    import onnx

    steps = json.loads((suite.path / "reports/compression.json").read_text())["steps"]
    assert [step["method"] for step in steps] == ["structured_pruning", "distillation", "dynamic_quantization"]
    assert steps[0]["covered"]
    kinds = {node.op_type for node in onnx.load(suite.path / "models/candidate/model.onnx").graph.node}
    assert "DynamicQuantizeLSTM" in kinds
    assert "LSTM" not in kinds


def tone(path, hertz, seconds, seed):
    """Write a tone under noise as 16-bit samples."""
    random = np.random.default_rng(seed)
    count = int(seconds * RATE_HZ)
    samples = np.sin(2 * np.pi * hertz * np.arange(count) / RATE_HZ) * 8000 + random.normal(0, 300, count)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.astype("<i2").tobytes())


TEXTS = ("PLEASE STOP NOW", "GO ON THEN", "NOTHING OF THE KIND")
HERTZ = {1: 400, 2: 1200, 0: 2500}


def librispeech(folder, counts=(("train-clean-100", 60), ("test-clean", 24))):
    """Lay out parts with two speakers, each with one chapter."""
    for part, count in counts:
        for speaker in ("19", "26"):
            chapter = folder / part / speaker / "198"
            chapter.mkdir(parents=True)
            lines = []
            for number in range(count // 2):
                name, kind = f"{speaker}-198-{number:04d}", number % 3
                lines.append(f"{name} {TEXTS[kind]}")
                seed = len(part) * 1000 + int(speaker) * 100 + number
                tone(chapter / f"{name}.wav", HERTZ[(kind + 1) % 3], 0.15 + 0.01 * (number % 7), seed)
            (chapter / f"{speaker}-198.trans.txt").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_folder_of_librispeech_gives_keywords_as_classes(example, tmp_path):
    _, loader = modules(example, "librispeech")
    data = loader.load("test", folder=librispeech(tmp_path / "LibriSpeech"), keywords=["stop", "go"])
    frames, label = data[0]
    assert data.classes == ("none of them", "stop", "go")
    assert (data.ids[0], data.columns["speaker"][0], label) == ("19-198-0000", "19", 1)
    assert np.bincount(data.targets).tolist() == [8, 8, 8]
    assert frames.dtype == torch.float32
    assert frames.shape[1] == 13
    torch.testing.assert_close(frames.mean(0), torch.zeros(13), atol=1e-4, rtol=0)


def test_utterances_with_two_keywords_are_left_out(example, tmp_path):
    _, loader = modules(example, "librispeech")
    data = loader.load("test", folder=librispeech(tmp_path / "LibriSpeech"), keywords=["please", "stop"])
    assert np.bincount(data.targets, minlength=3).tolist() == [16, 0, 0]


def test_validation_is_cut_where_its_part_is_absent(example, tmp_path):
    _, loader = modules(example, "librispeech")
    with pytest.raises(KeyError):
        loader.load("validation", folder=librispeech(tmp_path / "LibriSpeech"), keywords=["stop"])


def test_missing_parts_and_utterances_are_named(example, tmp_path):
    _, loader = modules(example, "librispeech")
    folder = librispeech(tmp_path / "LibriSpeech")
    (Path(folder) / "test-clean/26/198/26-198-0003.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"26-198\.trans\.txt: 26-198-0003: expected .*\.flac or"):
        loader.load("test", folder=folder, keywords=["stop"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        loader.load("train", folder=str(tmp_path / "nowhere"), keywords=["stop"])


def test_cepstra_tell_pitch_apart_and_match_a_transform_by_hand(example):
    """Against the definition written out for one frame: window, power, triangles, logarithm, cosines."""
    _, loader = modules(example, "librispeech")
    seconds = np.arange(RATE_HZ) / RATE_HZ
    samples = np.sin(2 * np.pi * (300 + 1500 * seconds) * seconds).astype(np.float32)
    frames = loader.cepstra(samples, RATE_HZ)
    assert frames.shape == (98, 13)
    filters = loader.mel_filters(256, RATE_HZ)
    raw = []
    for start in range(0, 98 * 80, 80):
        power = np.abs(np.fft.rfft(samples[start : start + 200] * np.hamming(200), 256)) ** 2 / 256
        logs = np.log(np.maximum(filters @ power, loader.FLOOR))
        raw.append([sum(v * np.cos(np.pi * k * (i + 0.5) / 26) for i, v in enumerate(logs)) for k in range(13)])
    expected = (np.array(raw) - np.mean(raw, 0)) / np.std(raw, 0)
    np.testing.assert_allclose(frames.numpy(), expected, atol=1e-4)


def test_filters_peak_at_their_centres_and_overlap_to_one(example):
    _, loader = modules(example, "librispeech")
    filters = loader.mel_filters(2**14, RATE_HZ)
    middle = filters[:, filters.argmax(1)[0] + 1 : filters.argmax(1)[-1]].sum(0)
    np.testing.assert_allclose(middle, 1, atol=1e-6)


def test_folder_of_librispeech_runs_through_the_stages(example, tmp_path):
    suite = example("speech")
    suite.edit(
        task__data="librispeech:load",
        task__data_args={"folder": librispeech(tmp_path / "LibriSpeech"), "keywords": ["stop", "go"]},
        task__model_args={"classes": 3, "hidden": 16},
        train__epochs=4,
    )
    suite.steps(distillation={"epochs": 1})
    found = suite.run()
    assert found.n == 24
    assert set(found.models["candidate"].slices["accuracy"]) >= {"speaker=19", "speaker=26"}
    assert_compressed(suite)
