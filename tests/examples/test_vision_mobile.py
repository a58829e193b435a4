"""MobileNetV2: CIFAR-10 from its folder in both forms, Fashion-MNIST where there is none, through the stages."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle

import numpy as np
import pytest
import torch

COUNT = 30
PIXELS = 3 * 32 * 32


class Evil:
    """What a pickle from somebody else may hold."""

    def __reduce__(self):
        return os.system, ("true",)


def batches(folder, form="py", count=COUNT):
    """Write a folder as CIFAR-10's archive unpacks to; the class of an image shows in its red."""
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]):
        random = np.random.default_rng(number)
        labels = np.arange(count) % 10
        pixels = random.integers(0, 60, (count, PIXELS), dtype=np.uint8)
        pixels[:, :1024] += (labels * 19).astype(np.uint8)[:, None]
        if form == "bin":
            records = np.concatenate([labels.astype(np.uint8)[:, None], pixels], 1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            values = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": name.encode()}
            # As numpy before its version 2, which wrote the published files, calls the module.
            content = pickle.dumps(values, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            (folder / name).write_bytes(content)
    return folder


def images_module(example):
    return example("vision-mobile"), importlib.import_module("images")


@pytest.mark.parametrize("form", ["py", "bin"])
def test_folder_of_cifar_is_read_in_both_forms(example, form, tmp_path):
    _, images = images_module(example)
    data = images.load("train", folder=str(batches(tmp_path / "cifar", form)))
    image, label = data[13]
    assert (len(data), data.classes[label], data.ids[13]) == (5 * COUNT, "cat", "cifar-10:train:13")
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
    pixels = np.random.default_rng(0).integers(0, 60, (COUNT, PIXELS), dtype=np.uint8)[13].reshape(3, 32, 32)
    np.testing.assert_allclose(image.numpy()[1:] * 255, pixels[1:], atol=1e-4)
    assert len(images.load("test", folder=str(tmp_path / "cifar"))) == COUNT


def test_images_at_once_are_those_one_by_one(example, tmp_path):
    _, images = images_module(example)
    data = images.load("test", folder=str(batches(tmp_path / "cifar")))
    for (one, label), index in zip(data.__getitems__([5, 2]), [5, 2], strict=True):
        torch.testing.assert_close(one, data[index][0])
        assert label == data[index][1]


def test_limit_takes_training_images_only(example, tmp_path):
    _, images = images_module(example)
    folder = str(batches(tmp_path / "cifar"))
    assert len(images.load("train", folder=folder, limit=7)) == 7
    assert len(images.load("test", folder=folder, limit=7)) == COUNT


def test_other_splits_are_cut_from_train(example):
    _, images = images_module(example)
    with pytest.raises(KeyError):
        images.load("validation")


def test_pickle_that_would_run_something_is_refused(example, tmp_path):
    _, images = images_module(example)
    folder = batches(tmp_path / "cifar")
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2))
    with pytest.raises(RuntimeError, match=r"test_batch: .*names \w+\.system, which no batch needs"):
        images.load("test", folder=str(folder))


FAULTS = {  # what lies there instead of a batch -> what the error says
    b"": "EOFError",
    pickle.dumps({b"labels": [1]}, protocol=2): "KeyError",
    pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]}, protocol=2): r"uint8 \(2, 3072\)",
    pickle.dumps({b"data": np.zeros((1, PIXELS), np.uint8), b"labels": [10]}, protocol=2): "labels 0 to 9",
}


@pytest.mark.parametrize("content", FAULTS, ids=["empty", "no data", "other shape", "hundred classes"])
def test_damaged_batch_is_named(example, tmp_path, content):
    _, images = images_module(example)
    folder = batches(tmp_path / "cifar")
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(RuntimeError, match=rf"test_batch: .*{FAULTS[content]}"):
        images.load("test", folder=str(folder))


def test_missing_and_cut_batches_are_named(example, tmp_path):
    _, images = images_module(example)
    folder = batches(tmp_path / "cifar", "bin")
    (folder / "test_batch.bin").write_bytes(b"\0" * 3000)
    with pytest.raises(RuntimeError, match=r"test_batch\.bin: expected records of 3073 bytes, got 3000"):
        images.load("test", folder=str(folder))
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(RuntimeError, match=r"expected data_batch_3 or data_batch_3\.bin"):
        images.load("train", folder=str(folder))


@pytest.mark.usefixtures("clothing")
def test_fashion_mnist_takes_the_place_of_an_absent_folder_and_says_so(example, caplog):
    _, images = images_module(example)
    with caplog.at_level(logging.WARNING):
        data = images.load("test", folder="nowhere")
    assert "no CIFAR-10" in caplog.text
    assert "Fashion-MNIST" in caplog.text
    assert (len(data), data.ids[0]) == (10_000, "fashion-mnist:test:0")
    image, _ = data[0]
    assert image.shape == (3, 32, 32)
    torch.testing.assert_close(image[0], image[2])
    assert not image[:, :2].any()


def test_cifar_runs_through_the_stages_and_ends_in_integers(example, tmp_path):
    import onnx

    suite, _ = images_module(example)
    suite.edit(task__data_args={"folder": str(batches(tmp_path / "cifar"))}, train__epochs=1)
    suite.edit(prepare__allow=["empty_classes"])
    suite.steps(quantization_aware_training={"epochs": 1})
    found = suite.run()
    assert found.n == COUNT
    steps = json.loads((suite.path / "reports/compression.json").read_text())["steps"]
    assert len(steps[-1]["covered"]) == 23
    graph = onnx.load(suite.path / "models/candidate/model.onnx").graph
    assert sum(node.op_type == "Conv" for node in graph.node) == 22
    assert not any(tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1 for tensor in graph.initializer)
