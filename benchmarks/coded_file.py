"""The coded file's own figures: `python benchmarks/coded_file.py speed|general|memory|markdown [--write]`.

``speed``: symbols a second of both profiles on integers like those of 8-bit weights, and what they take against the
entropy and zstd. ``general``: the integers of a small residual network and of an LSTM, trained on Fashion-MNIST and
quantized by this package, in the coded file, zstd-19, lzma, zlib and an ideal static code. ``memory``: synthetic
files of 8-bit weights with a scale for each 64, of ``--gigabytes`` each, in matrices of ``--rows`` × 11,008, through
the fast profile and back in processes whose peak memory is told, beside zstd. Results go to
`benchmarks/results/coded_file.json`, a part each, with the machine. Needs `pip install zstandard`.
"""

from __future__ import annotations

import argparse
import copy
import json
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.measurers.memory import peak_bytes

RESULTS = Path(__file__).parent / "results" / "coded_file.json"
SYMBOLS, REPEATS = 1 << 20, 5


def entropy_bytes(integers: np.ndarray) -> float:
    """What a code that knows the shares of the values takes [bytes]."""
    counts = np.unique(integers, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def zstd_bytes(data: bytes, level: int = 19) -> int:
    import zstandard

    return len(zstandard.ZstdCompressor(level=level).compress(data))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the median of the processor's seconds over REPEATS calls behind a first one."""
    result = work()
    took = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return result, statistics.median(took)


def speed() -> dict[str, Any]:
    """Both profiles on four distributions."""
    from compression_gate.codec.fast_stream import FastStream
    from compression_gate.codec.number_types import Numbers, type_named
    from compression_gate.codec.streams import MixedStream

    random = np.random.default_rng(0)
    shape = (1024, SYMBOLS // 1024)
    row_scales = random.uniform(0.5, 2, (shape[0], 1))
    cases = {
        "8 bits, wide": np.clip(np.rint(random.laplace(size=shape) * 25 * row_scales), -127, 127),
        "8 bits, narrow": np.clip(np.rint(random.laplace(size=shape) * 6 * row_scales), -127, 127),
        "4 bits": np.clip(np.rint(random.laplace(size=shape) * 1.5 * row_scales), -7, 7),
        "2 bits, 95 % zeros": np.where(random.random(shape) < 0.05, random.choice([-1, 1], shape), 0),
    }
    found: dict[str, Any] = {}
    kind = type_named("I8")
    for name, values in cases.items():
        integers = values.astype(np.int8)
        numbers = Numbers(kind, integers.view(np.uint8))
        row: dict[str, Any] = {
            "symbols": SYMBOLS,
            "entropy": entropy_bytes(integers),
            "zstd_19": zstd_bytes(integers.tobytes()),
        }
        for profile, stream in (("small", MixedStream), ("fast", FastStream)):
            row[profile] = there_and_back(stream, numbers)
        found[name] = row
        print(name, json.dumps(row))
    return found


def there_and_back(stream: Any, numbers: Any) -> dict[str, float]:
    """Bytes, and symbols a second each way."""
    from compression_gate.codec.tensors import code_tensor

    def encoded() -> bytes:
        writing = stream()
        code_tensor(writing, numbers.type, numbers.shape, numbers)
        return writing.finish()

    data, encode_s = timed(encoded)
    back, decode_s = timed(lambda: code_tensor(stream.reading(data), numbers.type, numbers.shape, None))
    assert np.array_equal(back.patterns, numbers.patterns)
    return {"bytes": len(data), "encoded_per_s": SYMBOLS / encode_s, "decoded_per_s": SYMBOLS / decode_s}


def lstm() -> Any:
    """Two layers of 128 units over the rows of an image; 214,000 weights."""
    from torch import nn

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(28, 128, 2, batch_first=True), nn.Linear(128, 10)

        def forward(self, images: Any) -> Any:
            return self.head(self.lstm(images.squeeze(1))[0][:, -1])

    return Rows()


def trained(model: Any, epochs: int, seed: int) -> tuple[Any, float]:
    """Train on Fashion-MNIST without its last 6,000 examples; return the model and its accuracy on those."""
    import torch
    from torch.nn import functional

    from compression_gate.tasks.fashion_mnist import load

    data = load("train")
    images = torch.stack([data[index][0] for index in range(len(data))])
    targets = torch.tensor([data[index][1] for index in range(len(data))])
    count = len(images) - 6000
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    steps = epochs * (count // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(count, generator=generator)[: count // 128 * 128].split(128):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in images[count:].split(500)]) == targets[count:]
    return model, float(right.float().mean())


def general(epochs: int, seeds: int) -> dict[str, Any]:
    """Integers of trained models, per tensor and per channel: of all weights, and of a quarter of them."""
    import torch

    from compression_gate.modules.quantized_weights import Scheme, quantized_weight

    sys.path.insert(0, str(Path(__file__).parent / "records"))
    from networks import ResidualNetwork

    found: dict[str, Any] = {}
    for name, build in (("residual network", ResidualNetwork), ("LSTM", lstm)):
        for seed in range(seeds):
            torch.manual_seed(seed)
            model, accuracy = trained(build(), epochs, seed)
            for sparsity in (0.0, 0.75):
                pruned = copy.deepcopy(model)
                weights = {key: value for key, value in pruned.state_dict().items() if value.dim() > 1}
                for value in weights.values():
                    value[value.abs() <= value.abs().quantile(sparsity)] *= float(sparsity == 0)
                for granularity in ("per_channel", "per_tensor"):
                    scheme = Scheme(bits=8, granularity=granularity)
                    integers = {
                        key: quantized_weight(value, scheme, "minmax").integers for key, value in weights.items()
                    }
                    row = sizes(integers) | {"validation_accuracy": accuracy}
                    found[f"{name}, {granularity}, {sparsity:.0%} zeros, seed {seed}"] = row
                    print(f"{name}, {granularity}, {sparsity:.0%} zeros, seed {seed}", json.dumps(row))
    return found


def sizes(integers: dict[str, Any]) -> dict[str, float]:
    """What tensors of int8 take: the coded file of them, and everybody else, who sees them one after the other."""
    from safetensors.torch import save_file

    from compression_gate.codec.coded_tensors import encode_tensors

    data = b"".join(value.numpy().tobytes() for value in integers.values())
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "integers.safetensors"
        save_file(integers, source)
        ours = {
            profile: encode_tensors(source, Path(name) / "x.cgz", fast=profile == "fast")
            for profile in ("small", "fast")
        }
    return {
        "numbers": len(data),
        **ours,
        "zstd_19": zstd_bytes(data),
        "lzma": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
        "zlib": len(zlib.compress(data, 9)),
        "static_entropy": sum(entropy_bytes(value.numpy()) for value in integers.values()),
    }


def synthetic(path: Path, gigabytes: float, rows: int) -> None:
    """Write weights as 8-bit integers, a float16 scale for each 64 of a row, matrices of ``rows`` × 11008."""
    random = np.random.default_rng(0)
    columns = 11008
    count = max(1, round(gigabytes * 2**30 / (rows * columns * (1 + 2 / 64))))
    # One matrix's numbers serve all of them, each shifted: making noise would take longer than coding it.
    weights = np.clip(np.rint(random.normal(size=(rows, columns)) * 28), -127, 127).astype(np.int8)
    scales = random.uniform(0.5e-3, 2e-3, (rows, columns // 64)).astype(np.float16)
    plain, position = {}, 0
    for index in range(count):
        for part, value, kind in (("weight", weights, "I8"), ("scale", scales, "F16")):
            plain[f"layers.{index}.{part}"] = {
                "dtype": kind, "shape": list(value.shape), "data_offsets": [position, position + value.nbytes]
            }  # fmt: skip
            position += value.nbytes
    text = json.dumps(plain).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for index in range(count):
            file.write(np.roll(weights, index * 977).tobytes())
            file.write(np.roll(scales, index * 977).tobytes())


def memory(sizes: list[float], folder: Path, workers: int, rows: int) -> dict[str, Any]:
    """Files of all these sizes [GiB]."""
    found = [there_and_back_on_disk(gigabytes, folder, workers, rows) for gigabytes in sizes]
    return {f"{row['gigabytes']:.2g} GiB, tensors of {row['largest'] / 2**20:.0f} MiB": row for row in found}


def there_and_back_on_disk(gigabytes: float, folder: Path, workers: int, rows: int) -> dict[str, Any]:
    """A large file there and back, each way in a process of its own, and zstd at two levels on 64 MiB of it."""
    import zstandard

    source, coded, again = folder / "large.safetensors", folder / "large.cgz", folder / "again.safetensors"
    synthetic(source, gigabytes, rows)
    row: dict[str, Any] = {"gigabytes": source.stat().st_size / 2**30, "workers": workers, "largest": rows * 11008}
    words = [sys.executable, str(Path(__file__).resolve()), "--workers", str(workers)]
    for what, given, made in (("encode", source, coded), ("decode", coded, again)):
        told = subprocess.run([*words, what, str(given), str(made)], check=True, capture_output=True, text=True).stdout
        row[what] = json.loads(told.splitlines()[-1])
    row["coded_bytes"], row["ratio"] = coded.stat().st_size, source.stat().st_size / coded.stat().st_size
    subprocess.run(
        ["cmp", "--ignore-initial", f"{header(source)}:{header(again)}", str(source), str(again)], check=True
    )
    with source.open("rb") as file:
        part = file.read(1 << 26)
    for level in (1, 19):
        packed, seconds = once(lambda level=level: zstandard.ZstdCompressor(level=level).compress(part))
        _, back = once(lambda packed=packed: zstandard.ZstdDecompressor().decompress(packed))
        row[f"zstd_{level}"] = {
            "ratio": len(part) / len(packed), "encode_mb_per_s": len(part) / seconds / 1e6,
            "decode_mb_per_s": len(part) / back / 1e6,
        }  # fmt: skip
    print(json.dumps(row))
    return row


def once(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the processor's seconds."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def header(path: Path) -> int:
    """Bytes before the first number of a safetensors file."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def one_way(what: str, source: Path, made: Path, workers: int) -> None:
    """In a process of its own: code or decode, and print seconds and peak memory."""
    from compression_gate.codec.coded_tensors import decode_tensors, encode_tensors

    start, wall = time.process_time(), time.perf_counter()
    if what == "encode":
        encode_tensors(source, made, fast=True, workers=workers)
    else:
        decode_tensors(source, made, workers=workers)
    peak = peak_bytes()  # of this very process: what a resource usage says includes what its parent held
    plain = max(source.stat().st_size, made.stat().st_size)
    cpu_s, wall_s = time.process_time() - start, time.perf_counter() - wall
    print(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s, "mb_per_cpu_s": plain / cpu_s / 1e6, "peak_bytes": peak}))


def markdown(stored: dict[str, Any]) -> str:
    """The tables of docs/coded.md."""
    lines = [
        "| 2²⁰ symbols | entropy | small, bytes | fast, bytes | zstd-19 | small: coded, decoded, million/s | fast |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in stored["speed"].items():
        rates = [
            f"{row[profile]['encoded_per_s'] / 1e6:.3g}, {row[profile]['decoded_per_s'] / 1e6:.3g}"
            for profile in ("small", "fast")
        ]
        sizes = [row["entropy"], row["small"]["bytes"], row["fast"]["bytes"], row["zstd_19"]]
        lines.append(f"| {name} | {' | '.join(f'{size:,.0f}' for size in sizes)} | {' | '.join(rates)} |")
    lines += ["", "| integers of | weights | coded | zstd-19 | lzma | zlib | entropy | below zstd-19 |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, row in stored["general"].items():
        sizes = [row[key] for key in ("numbers", "small", "zstd_19", "lzma", "zlib", "static_entropy")]
        gain = 1 - row["small"] / row["zstd_19"]
        lines.append(f"| {name} | {' | '.join(f'{size:,.0f}' for size in sizes)} | {gain:.1%} |")
    lines += ["", "| file | ratio | coded at, MB/s | decoded at | memory coding, MB | decoding | zstd-1 | zstd-19 |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, row in stored["memory"].items():
        peaks = [f"{row[way]['peak_bytes'] / 1e6:.0f}" for way in ("encode", "decode")]
        others = [
            f"{row[key]['ratio']:.3f}: {row[key]['encode_mb_per_s']:.3g}, {row[key]['decode_mb_per_s']:.3g}"
            for key in ("zstd_1", "zstd_19")
        ]
        rates = [f"{row[way]['mb_per_cpu_s']:.3g}" for way in ("encode", "decode")]
        lines.append(f"| {name} | {row['ratio']:.3f} | {' | '.join([*rates, *peaks, *others])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["speed", "general", "memory", "encode", "decode", "markdown"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--gigabytes", nargs="+", type=float, default=[0.25, 0.5, 1, 2, 4.2])
    parser.add_argument("--rows", type=int, default=4096, help="of a matrix of 11,008 columns")
    parser.add_argument("--folder", type=Path, default=None, help="where the large files go")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.part == "markdown":
        print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    if given.part in ("encode", "decode"):
        one_way(given.part, *given.files, given.workers)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        found = {
            "speed": speed,
            "general": lambda: general(given.epochs, given.seeds),
            "memory": lambda: memory(given.gigabytes, Path(name), given.workers, given.rows),
        }[given.part]()
    if given.write:
        stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        stored.setdefault(given.part, {}).update(found)
        stored["machine"] = machine_fingerprint() | {"load": os.getloadavg()[0]}
        RESULTS.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
