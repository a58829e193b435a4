"""What each piece of `runtimes/integer_flow.py` brings: 8-bit nets timed with it and without, in pairs, one thread.

    nice -n 10 python benchmarks/integer_flow_table.py [NET …]

Nets: the MobileNetV2 of `examples/vision-mobile` (`mobilenet`), the same with ReLU6 (`mobilenet6`), a ResNet of six
blocks on 32×32 images (`resnet`), and the default task's net (`default`). Each is trained briefly on 8,000 images of
Fashion-MNIST, quantized by `static_quantization` with 512 of them, and asked 2,000 others. Rows go to
`benchmarks/results/integer_flow_table.json`: the time with everything over the time without the piece, and how far the
file's outputs are from the integer module's, as a share of these. A piece that changes nothing in a file has no row.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from compression_gate.measurers.latency import Setting, measure_pair
from compression_gate.methods.base import Context
from compression_gate.methods.static_quantization import StaticQuantization
from compression_gate.records.params import TrainParams
from compression_gate.runtimes import integer_flow
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.tasks.fashion_mnist import Net, load
from compression_gate.tasks.task import Batch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/integer_flow_table.json"
TRAINED, ASKED, CALIBRATED, EPOCHS = 8000, 2000, 512, 3
BUDGET_S = 12.0
bounds_of = integer_flow.bounds_of
PIECES = {  # what is put in a function's place
    "bounds other than ReLU": {"bounds_of": lambda node: bounds_of(node) if node.op_type == "Relu" else None},
    "equal roundings shared": {"share_roundings": lambda graph, value: None},
    "sums of unknown range": {"round_sum": lambda graph, node: None},
    "means as pools": {"mean_as_pool": lambda graph, node: None},
    "rounding before a reshape": {"round_before": lambda node: None},
}


class Block(nn.Module):
    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm, self.last = nn.BatchNorm2d(channels_out), nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(channels_out))

    def forward(self, maps):
        inner = self.norm(self.first(maps)).relu()
        return (self.last(self.second(inner)) + self.shortcut(maps)).relu()


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
        self.blocks = nn.Sequential(*(Block(*one) for one in sizes))
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        maps = nn.functional.max_pool2d(self.norm(self.stem(images)).relu(), 2)
        return self.head(self.blocks(maps).mean((2, 3)))


def mobilenet() -> nn.Module:
    spec = importlib.util.spec_from_file_location("mobilenet", ROOT / "examples/vision-mobile/mobilenet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MobileNetV2()


def mobilenet6() -> nn.Module:
    model = mobilenet()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU):
            model.set_submodule(name, nn.ReLU6())
    return model


NETS = {"mobilenet": mobilenet, "mobilenet6": mobilenet6, "resnet": ResNet, "default": Net}


class Calibration:
    """A task that has calibration data and nothing else."""

    def __init__(self, images):
        self.images = images

    def batches(self, split, size):
        assert split == "calibration"
        for images in self.images.split(size):
            yield Batch(inputs=images, targets=torch.zeros(len(images)), positions=None)


def images_for(name):
    data = load("train")
    images = data.pixels[: TRAINED + ASKED].unsqueeze(1).float() / 255
    if name != "default":
        images = nn.functional.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
    return images, data.labels[: TRAINED + ASKED].long()


def trained(name, images, labels):
    torch.manual_seed(0)
    model = NETS[name]()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=EPOCHS * TRAINED // 100)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(TRAINED).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def exported(model, images, path, pieces=()):
    with ExitStack() as stack:
        for piece in pieces:
            for name, stand_in in PIECES[piece].items():
                stack.enter_context(patch.object(integer_flow, name, stand_in))
        OnnxRuntime().export(model, images[:1], path, {})
    return path


def asked(path, runtime, images, labels, expected):
    from compression_gate.runtimes.openvino import OpenVino

    session = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}[runtime]().load(path, 1)
    answers = session({"input": images.numpy()})
    return {
        "accuracy": float((answers.argmax(1) == labels.numpy()).mean()),
        "apart": float(np.linalg.norm(answers - expected) / np.linalg.norm(expected)),
    }


@torch.no_grad()
def rows_of(name, folder):
    images, labels = images_for(name)
    with torch.enable_grad():
        model = trained(name, images, labels)
    context = Context(task=Calibration(images[:CALIBRATED]), reference=model, train=TrainParams())
    quantized = StaticQuantization().apply(model, context).eval()
    images, labels = images[TRAINED:], labels[TRAINED:]
    expected = quantized(images).numpy()
    whole = exported(quantized, images, folder / f"{name}.onnx")
    for number, pieces in enumerate([*((piece,) for piece in PIECES), tuple(PIECES)]):
        other = exported(quantized, images, folder / f"{name}.{number}.onnx", pieces)
        if other.read_bytes() == whole.read_bytes():
            continue
        for runtime in ("onnxruntime", "openvino"):
            setting = Setting(runtime=runtime, threads=1, inputs={"input": images[:1].numpy()}, limits=(1.02, 0.98))
            timing = measure_pair(other, whole, setting, BUDGET_S).timing
            yield {
                "net": name,
                "runtime": runtime,
                "without": pieces[0] if len(pieces) == 1 else "all of these",
                "ratio": timing.ratio,
                "interval": timing.interval,
                "confidence": timing.confidence,
                "pairs": timing.pairs,
                "control_ratio": timing.control_ratio,
                "n": ASKED,
                "module_accuracy": float((expected.argmax(1) == labels.numpy()).mean()),
                "with_it": asked(whole, runtime, images, labels, expected),
                "without_it": asked(other, runtime, images, labels, expected),
            }


def main(names):
    torch.set_num_threads(1)
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    for name in names or NETS:
        with tempfile.TemporaryDirectory() as folder:
            rows = list(rows_of(name, Path(folder)))
        kept = [row for row in kept if row["net"] != name] + rows
        RESULTS.write_text(json.dumps({"rows": kept}, indent=1) + "\n", encoding="utf-8")
        for row in rows:
            print(f"{row['net']} {row['runtime']} without {row['without']}: {row['ratio']:.3f} {row['interval']}")


if __name__ == "__main__":
    main(sys.argv[1:])
