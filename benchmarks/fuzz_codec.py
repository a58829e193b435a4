"""Coverage-guided fuzzing of the decoder of coded files: does anything but a CodecError ever come out?

    uv pip install --no-deps atheris      # wheels for Linux on x86-64; elsewhere it is built with clang
    python benchmarks/fuzz_codec.py [--form compiled plain] [--inputs 500000] [--seconds 3600] [--write]

An input's first byte says what the rest is: a whole file, a model's pool, a directory with its pool, one tensor's
stream, segments, or a graph. Lengths and checksums are made right, so that the fuzzer gets past them; what was decoded
is decoded again and must be the same. Two forms: the kernels compiled, with checks of every index, and in plain Python,
where the fuzzer sees their branches too. Tensors count as large from 128 bytes on instead of 64 KiB, so that segments
are small, and planes from 16 symbols on instead of 1,024.

A run is taken up again in the folder that `--work` names; `--inputs 0` with it only tells what was found so far.
atheris is no dependency of the development extra, since it has wheels for one platform only. Inputs of which something
else came out are kept in `--findings`; `--replay FILE` hands one to the decoder again.
"""

from __future__ import annotations

import argparse
import copy
import json
import lzma
import mmap
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "fuzz_codec.json"
# Compiled from their bytecode as it is.
KERNELS = ["range_coder", "symbol_model", "plain_coder", "fast_coder", "fast_stream"]
LARGE_BYTES = 128
LARGE_PLANE = 16
LONGEST_INPUT = {"compiled": 320, "plain": 96}
SLOWEST_S, MOST_MIB = {"compiled": 60, "plain": 120}, 3000
COUNTED = ("inputs", "decoded", "refused")
STATISTICS = ("number_of_executed_units", "average_exec_per_sec")  # of libFuzzer
FORMS = {
    "compiled": {"NUMBA_BOUNDSCHECK": "1"},
    "plain": {"NUMBA_DISABLE_JIT": "1"},
}


class Counts:
    """Counters in a file that outlive a crash of the process."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(COUNTED)))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.numbers = memoryview(self.memory).cast("Q")

    def add(self, what: str) -> None:
        self.numbers[COUNTED.index(what)] += 1

    def all(self) -> dict[str, int]:
        return dict(zip(COUNTED, self.numbers, strict=True))


class Decoder:
    """What an input is made into, and what reads it."""

    def __init__(self, folder: Path) -> None:
        warnings.simplefilter("ignore")  # torch's, of layers without numbers
        import numpy as np
        import torch
        from torch import nn

        from compression_gate.codec import (
            coded_graph,
            coded_model,
            coded_tensors,
            container,
            number_types,
            segments,
            streams,
            tensors,
        )
        from compression_gate.errors import CodecError

        np.seterr(all="ignore")
        torch.set_num_threads(1)
        torch.manual_seed(0)
        container.LARGE_BYTES, streams.LARGE_PLANE = LARGE_BYTES, LARGE_PLANE
        self.model, self.tensors, self.graph, self.container = coded_model, coded_tensors, coded_graph, container
        self.types, self.streams, self.forms, self.segments = number_types, streams, tensors, segments
        self.error: type[Exception] = CodecError
        memory = Path("/dev/shm")  # renaming a file on a disk takes milliseconds
        self.folder = Path(tempfile.mkdtemp(dir=memory)) if memory.is_dir() else folder

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.convolution, self.recurrent = nn.Conv2d(1, 2, 3), nn.GRU(2, 1)
                self.first, self.again = nn.Linear(4, 4), nn.Linear(4, 4)
                self.again.weight = self.first.weight

        self.nn, self.torch = nn, torch
        self.factories: list[nn.Module] = [
            nn.Linear(3, 2).eval(),
            nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval(),
            Net().eval(),
        ]

    def one(self, data: bytes) -> bool:
        """Decode an input; whether it could be. Anything but a CodecError is a finding."""
        kind, rest = (data[0], data[1:]) if data else (0, b"")
        try:
            first = self.read(kind, rest)
        except self.error:
            return False
        assert self.read(kind, rest) == first, "decoded twice, different things came out"
        return True

    def read(self, kind: int, rest: bytes) -> bytes:
        """Decode an input; return the bits that came out."""
        readers: list[Callable[[bytes], bytes]] = [
            self.read_file,
            self.read_pool,
            self.read_directory,
            self.read_stream,
            self.read_segments,
            self.read_alike,
            self.read_segments,
            self.read_graph,
        ]
        return readers[kind % len(readers)](rest)

    def read_file(self, rest: bytes) -> bytes:
        """Flags, then all that is behind the checksum."""
        flags, body = (rest[0], rest[1:]) if rest else (0, b"")
        if flags & self.container.MODEL:
            factory = self.factories[(flags >> 4) % len(self.factories)]
            signature = self.model.signature_of(factory).to_bytes(2, "little")
            return self.decoded_model(factory, self.sealed(flags & 15, signature + body))
        return self.decoded_tensors(self.sealed(flags & 15, body))

    def read_pool(self, rest: bytes) -> bytes:
        """Which factory, then the pool of one of its models."""
        number, pool = (rest[0], rest[1:]) if rest else (0, b"")
        factory = self.factories[number % len(self.factories)]
        signature = self.model.signature_of(factory).to_bytes(2, "little")
        return self.decoded_model(factory, self.sealed(self.container.MODEL, signature + pool))

    def read_directory(self, rest: bytes) -> bytes:
        """The length of a directory, it, and the pool."""
        length, body = (rest[0], rest[1:]) if rest else (0, b"")
        packed = zlib.compress(body[:length])
        return self.decoded_tensors(self.sealed(0, self.container.varint(len(packed)) + packed + body[length:]))

    def read_graph(self, rest: bytes) -> bytes:
        """The lengths of a directory and a graph, both, and the pool."""
        length, size, body = (rest[0], rest[1], rest[2:]) if len(rest) > 1 else (0, 0, b"")
        packed, graph = zlib.compress(body[:length]), lzma.compress(body[length : length + size], preset=0)
        head = self.container.varint(len(packed)) + packed + self.container.varint(len(graph)) + graph
        return self.graph.decode_graph(self.sealed(self.container.GRAPH, head + body[length + size :]))

    def read_stream(self, rest: bytes) -> bytes:
        """A type, up to four axes, and the stream of such a tensor."""
        return self.read_tensors(rest, 1)

    def read_alike(self, rest: bytes) -> bytes:
        """The same, of a stream with three of them: the others may be told by the first."""
        return self.read_tensors(rest, 3)

    def read_tensors(self, rest: bytes, count: int) -> bytes:
        """So many tensors of one type and shape."""
        kind = self.types.TYPES[rest[0] % len(self.types.TYPES) if rest else 0]
        axes = rest[1] % 5 if len(rest) > 1 else 0
        shape = tuple(size % 9 for size in rest[2 : 2 + axes])
        stream = self.streams.MixedStream.reading(rest[2 + axes :])
        found = [self.forms.code_tensor(stream, kind, shape, None).patterns.tobytes() for _ in range(count)]
        stream.check_end()
        return b"".join(found)

    def read_segments(self, rest: bytes) -> bytes:
        """A profile and a type, two axes, and one segment."""
        flags, axes, segment = (rest[0], rest[1:3], rest[3:]) if len(rest) > 3 else (0, b"\x10\x10", b"")
        kind = self.types.TYPES[(flags >> 1) % len(self.types.TYPES)]
        entry = self.container.Entry("a", kind, tuple(size % 32 for size in axes))
        frames = [(len(segment), zlib.crc32(segment))] if entry.size and entry.large else []
        fast = bool(flags & 1)
        head = self.container.head_bytes(
            signature=None, directory=[entry], graph=None, frames=frames, pool=b"", fast=fast
        )
        return self.decoded_tensors(head + segment if frames else head)

    def sealed(self, flags: int, body: bytes) -> bytes:
        """A file with a length and a checksum that are right, and right checksums of its segments if it has some."""
        beginning = self.container.MAGIC + bytes([self.container.SCHEMA, flags])
        fixed = len(beginning) + 4 + len(body)
        length = next(size for size in range(1, 10) if len(self.container.varint(fixed + size)) == size)
        beginning += self.container.varint(fixed + length)
        return beginning + zlib.crc32(body, zlib.crc32(beginning)).to_bytes(4, "little") + body

    def decoded_model(self, factory: Any, data: bytes) -> bytes:
        model = self.model.decode_model(factory, data)
        return b"".join(
            value.detach().contiguous().reshape(-1).view(self.torch.uint8).numpy().tobytes()
            for value in model.state_dict().values()
        )

    def decoded_tensors(self, data: bytes) -> bytes:
        path = self.folder / "decoded.safetensors"
        self.tensors.decode_tensors(data, path)
        return path.read_bytes()

    def seeds(self) -> list[bytes]:
        """Inputs that decode."""
        from safetensors.torch import save_file

        nn, torch, container = self.nn, self.torch, self.container
        found = []
        changes: list[Callable[[Any], None]] = [
            lambda model: None,
            lambda model: [nn.init.ones_(value) for value in model.parameters() if value.dim() > 1],
            lambda model: [value.data.mul_(8).round_().mul_(0.25) for value in model.parameters()],
        ]
        for number, factory in enumerate(self.factories):
            for change in changes:
                with torch.no_grad():
                    model = copy.deepcopy(factory)
                    change(model)
                    found += self.pools_of(number, factory, model)
        replaced = copy.deepcopy(self.factories[1])
        replaced[0] = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(1, 3))
        replaced[1] = nn.Identity()
        found += self.pools_of(1, self.factories[1], replaced.eval())
        tensors = [torch.arange(9.0), torch.randn(3, 4), torch.randint(-3, 4, (4, 12), dtype=torch.int8)]
        tensors += [torch.zeros(5, 5), torch.tensor(True), torch.randint(2**40, (3, 3)), torch.zeros(0, 3)]
        for tensor in tensors:
            for fast in (False, True):
                source, path = self.folder / "seed.safetensors", self.folder / "seed.cgz"
                save_file({"a": tensor, "b": tensor.reshape(-1)[:1].clone()}, source)
                self.tensors.encode_tensors(source, path, fast=fast)
                data = path.read_bytes()
                found.append(bytes([0, data[4]]) + body_of(data))
                head = container.read_head(path.open("rb"), "seed")
                text = json.dumps([[e.name, e.type.name, list(e.shape)] for e in head.directory]).encode()
                found.append(bytes([2, min(len(text), 255)]) + text + head.pool)
        found += self.graphs()
        for place, kind in enumerate(self.types.TYPES):
            for shape in [(), (3,), (2, 5), (2, 3, 2, 2)]:
                patterns = torch.randint(2, (10, *shape)).numpy()[0].astype(kind.patterns)
                stream = self.streams.MixedStream()
                self.forms.code_tensor(stream, kind, shape, self.types.Numbers(kind, patterns))
                found.append(bytes([3, place, len(shape), *shape]) + stream.finish())
                found.append(bytes([5, place, len(shape), *shape]) + self.alike(kind, shape))
            for fast in (False, True):
                shape = (16, 20)
                patterns = torch.randint(2, shape).numpy().astype(kind.patterns)
                entry = container.Entry("a", kind, shape)
                (segment,) = self.segments.coded_segments([entry], [self.types.Numbers(kind, patterns)], fast=fast)
                found.append(bytes([4, place << 1 | fast, *shape]) + segment)
        return found

    def alike(self, kind: Any, shape: tuple[int, ...]) -> bytes:
        """A stream of three tensors with few values in common, the last of them close to the first."""
        stream = self.streams.MixedStream()
        values = self.torch.randint(2**8 if kind.size > 1 and kind.name != "BOOL" else 2, (4,)).numpy()
        for turn in (0, 1, 0):
            places = (self.torch.arange(max(1, self.torch.Size(shape).numel())).numpy() * (turn + 1)) % 4
            patterns = values[places].reshape(shape).astype(kind.patterns)
            self.forms.code_tensor(stream, kind, shape, self.types.Numbers(kind, patterns))
        return bytes(stream.finish())

    def graphs(self) -> list[bytes]:
        """ONNX graphs as inputs."""
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper, save

        found = []
        for held, values in [(TensorProto.FLOAT, np.arange(20) * 0.5), (TensorProto.INT4, np.arange(17) % 7)]:
            plain = numpy_helper.from_array(values.astype(np.float32), "w")
            packed = helper.make_tensor("w", held, values.shape, values.astype(int).tolist())
            source, path = self.folder / "seed.onnx", self.folder / "seed.cgz"
            save(helper.make_model(helper.make_graph([], "g", [], [], [plain if held == 1 else packed])), source)
            self.graph.encode_graph(source, path)
            with path.open("rb") as file:
                head = self.container.read_head(file, "seed")
            text = json.dumps([[e.name, e.type.name, list(e.shape)] for e in head.directory]).encode()
            found.append(bytes([7, len(text), len(head.graph)]) + text + head.graph + head.pool)
        return found

    def pools_of(self, number: int, factory: Any, model: Any) -> list[bytes]:
        """A model as an input of each kind that takes one."""
        path = self.folder / "seed.cgz"
        self.model.encode_model(model, factory, path)
        data = path.read_bytes()
        with path.open("rb") as file:
            head = self.container.read_head(file, "seed")
        return [bytes([1, number]) + head.pool, bytes([0, data[4] | number << 4]) + body_of(data)[2:]]


def body_of(data: bytes) -> bytes:
    """What is behind a file's checksum."""
    length = next(place for place in range(5, len(data)) if data[place] < 128)
    return data[length + 5 :]


def fuzz(arguments: argparse.Namespace) -> None:
    """The child: libFuzzer's loop, which ends the process."""
    import atheris

    form = "plain" if os.environ.get("NUMBA_DISABLE_JIT") == "1" else "compiled"
    exclude = [] if form == "plain" else [f"compression_gate.codec.{name}" for name in KERNELS]
    with atheris.instrument_imports(include=["compression_gate"], exclude=exclude):
        decoder = Decoder(arguments.work)
    corpus = arguments.work / f"corpus-{form}"
    if not corpus.exists():
        corpus.mkdir()
        for place, seed in enumerate(decoder.seeds()):
            assert decoder.one(seed), f"seed {place} does not decode: {seed.hex()}"
            (corpus / f"seed-{place}").write_bytes(seed)
    counts = Counts(arguments.work / f"counts-{form}")

    def one(data: bytes) -> None:
        counts.add("inputs")
        counts.add("decoded" if decoder.one(data) else "refused")

    options = [f"-runs={arguments.inputs}", f"-max_len={LONGEST_INPUT[form]}", f"-timeout={SLOWEST_S[form]}",
               f"-rss_limit_mb={MOST_MIB}", f"-artifact_prefix={arguments.findings}/", f"-seed={arguments.seed}",
               f"-max_total_time={arguments.seconds}", "-print_final_stats=1", "-verbosity=1", str(corpus)]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def run(form: str, arguments: argparse.Namespace) -> None:
    """The parent: children until enough inputs were tried, each beginning behind the last one's finding."""
    began, counts = time.monotonic(), Counts(arguments.work / f"counts-{form}")
    while (left := arguments.inputs - counts.all()["inputs"]) > 0:
        seconds = arguments.seconds - (time.monotonic() - began)
        if seconds < 1:
            break
        number = len(list(arguments.work.glob(f"log-{form}-*"))) + arguments.seed
        command = [sys.executable, __file__, "--child", "--inputs", str(left), "--seconds", str(int(seconds))]
        command += ["--seed", str(number), "--work", str(arguments.work), "--findings", str(arguments.findings)]
        cache = arguments.work / f"numba-{form}"  # what is compiled with checks is not what others are to find
        environment = os.environ | FORMS[form] | {"NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
        with (arguments.work / f"log-{form}-{number}").open("w") as log:
            subprocess.run(command, env=environment, stderr=log, check=False)


def figures(form: str, work: Path) -> dict[str, Any]:
    """What the children's logs and the counters in a folder say."""
    seconds, edges, findings = 0.0, 0, []
    for log in sorted(work.glob(f"log-{form}-*")):
        text = log.read_text()
        edges = max([edges, *map(int, re.findall(r" cov: (\d+)", text))])
        units, speed = (re.findall(rf"stat::{name}:\s+(\d+)", text) for name in STATISTICS)
        seconds += int(units[0]) / max(int(speed[0]), 1) if units and speed else 0
        lines = re.findall(r"^(?:\w*(?:Error|Exception|Warning)\b|==\d+==).*", text, re.MULTILINE)
        kept = re.findall(r"Test unit written to (\S+)", text)
        if lines and "run interrupted" not in lines[-1]:
            findings.append({"what": lines[-1][:300], "input": kept[-1:]})
    found = {**Counts(work / f"counts-{form}").all(), "seconds": round(seconds), "edges": edges}
    return {**found, "longest_input_bytes": LONGEST_INPUT[form], "findings": findings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--inputs", type=int, default=500_000)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--findings", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--write", action="store_true", help=f"add the figures to {RESULTS.name}")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work = (arguments.work or Path(tempfile.mkdtemp(prefix="fuzz-codec-"))).resolve()
    arguments.findings = (arguments.findings or arguments.work / "findings").resolve()
    arguments.findings.mkdir(parents=True, exist_ok=True)
    if arguments.replay:
        print("decoded" if Decoder(arguments.work).one(arguments.replay.read_bytes()) else "refused")
    elif arguments.child:
        fuzz(arguments)
    else:
        for form in arguments.form:
            run(form, arguments)
        report = {form: figures(form, arguments.work) for form in arguments.form}
        print(json.dumps(report, indent=2))
        if arguments.write:
            runs = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
            commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
            runs += [{"form": form, "commit": commit.stdout.strip(), **report[form]} for form in report]
            total = {what: sum(one[what] for one in runs) for what in (*COUNTED, "seconds")}
            about = {"python": platform.python_version(), "machine": platform.machine()}
            RESULTS.write_text(json.dumps({**about, **total, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
