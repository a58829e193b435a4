"""Beside what one would take instead: `python benchmarks/rivals_table.py --work FOLDER`.

For each seed the reference of `params.yaml` is trained once and kept in FOLDER. Every row of `WAYS` starts from its
weights, with the same calibration split where one is needed; the other tools are used as their own documents say. A row
is of the file that ships, loaded again: accuracy on the test split, bytes, and the time of one call by this package's
own paired timing against the same reference in the same runtime. Where two ways of one comparison share a runtime they
are timed against each other too. Nothing is chosen here; what is chosen elsewhere was chosen on the validation split.

Rows go to `benchmarks/results/rivals_table.json`; what is there is not measured again. nncf and torchao are no
dependencies of this package: their rows are left out where they are not installed. `--ways` and `--seeds` pick rows,
`--markdown` prints the tables of the documents.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import importlib.metadata
import importlib.util
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from compression_gate import registry
from compression_gate.gate.proportions import tango_interval
from compression_gate.measurers.latency import Setting, measure_pair
from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.measurers.quality import predict
from compression_gate.records.base import replacing
from compression_gate.runtimes import RUNTIMES
from compression_gate.runtimes.tracing import quietly
from compression_gate.tasks.fashion_mnist_files import ENVIRONMENT_VARIABLE, locate
from compression_gate.tasks.training import Fitting, fit

if TYPE_CHECKING:
    from distillation_table import Bench

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "rivals_table.json"
BUDGET_S = 25.0
EPOCHS = 2
HALF: dict[str, Any] = {"method": "structured_pruning", "pruning_ratio": 0.5}
LABELS: dict[str, Any] = {"method": "distillation", "epochs": EPOCHS, "alpha": 0.0}  # what torch-pruning's gets too
DEFAULT: dict[str, Any] = {"method": "distillation", "epochs": EPOCHS, "temperature": 2.0, "alpha": 0.3}  # params.yaml
# The best of the grid of distillation_table.py, on the validation split of seed 0; the first of equals.
CHOSEN: dict[str, Any] = {"method": "distillation", "epochs": EPOCHS, "kind": "hard", "alpha": 0.3}
INTEGERS: dict[str, Any] = {"method": "static_quantization", "bits": 8}
NO_EXAMPLES_LEFT = None


@dataclass(frozen=True, kw_only=True)
class Way:
    """One row: how a reference becomes the file that ships.

    Args:
        comparison: rows of one comparison stand beside each other.
        make: called with the bench and the path of the file.
        ours: the row is this package's own.
        needs: the library, where it is no dependency of this package's development.
    """

    comparison: str
    make: Callable[[Bench, Path], None]
    tool: str
    settings: str
    runtime: str = "onnxruntime"
    file_name: str = "model.onnx"
    ours: bool = False
    needs: str | None = None


def exported(steps: list[dict[str, Any]], runtime: str = "onnxruntime") -> Callable[[Bench, Path], None]:
    """A row of our own: the steps, then the runtime's export."""

    def make(bench: Bench, path: Path) -> None:
        model, _ = bench.applied(steps)
        registry.load("runtimes", runtime, RUNTIMES)().export(model, bench.task.example_inputs(1), path, {})

    return make


def torch_pruning(epochs: int) -> Callable[[Bench, Path], None]:
    """Half the channels as torch-pruning's quick start says, then training on the labels."""

    def make(bench: Bench, path: Path) -> None:
        import torch_pruning

        model = copy.deepcopy(bench.reference)
        pruner = torch_pruning.pruner.BasePruner(
            model,
            bench.task.example_inputs(1),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[model.model.fc2],
            round_to=8,
        )
        pruner.step()
        options = bench.params.train.model_copy(update={"epochs": epochs})
        fit(model, bench.task, Fitting(options=options, label="torch-pruning", checkpoint=path.with_name("state.pt")))
        plainly_exported(model.eval(), bench, path)

    return make


def plainly_exported(model: nn.Module, bench: Bench, path: Path) -> None:
    """ONNX as torch's documents say, in one file."""
    inputs = bench.task.example_inputs(2)
    with quietly(), torch.no_grad():
        torch.onnx.export(
            copy.deepcopy(model).eval(),
            (inputs,),
            str(path),
            dynamo=True,
            external_data=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )


def quantize_static(**settings: str | bool) -> Callable[[Bench, Path], None]:
    """ONNX by onnxruntime's own tool: its preprocessing, then integers; types by name."""

    def make(bench: Bench, path: Path) -> None:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(quantization.CalibrationDataReader):
            def __init__(self) -> None:
                self.batches = iter(calibration(bench, 32))

            def get_next(self) -> dict[str, np.ndarray] | None:
                values = next(self.batches, NO_EXAMPLES_LEFT)
                return None if values is None else {"input": values.numpy()}

        plain, prepared = path.with_name("plain.onnx"), path.with_name("prepared.onnx")
        plainly_exported(bench.reference, bench, plain)
        quant_pre_process(str(plain), str(prepared))
        types = {
            name: getattr(quantization.QuantType, value) if isinstance(value, str) else value
            for name, value in settings.items()
        }
        form = quantization.QuantFormat.QDQ
        quantization.quantize_static(str(prepared), str(path), Reader(), quant_format=form, **types)
        plain.unlink()
        prepared.unlink()

    return make


def nncf_quantized(bench: Bench, path: Path) -> None:
    """OpenVINO's form by nncf, with its defaults: 300 examples."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as where it is not installed: nothing is sent
    import nncf
    import openvino

    model = openvino.Core().read_model(reference_file(bench, "openvino"))
    data = nncf.Dataset([{"input": values.numpy()} for values in calibration(bench, 1)])
    openvino.save_model(nncf.quantize(model, data), path)


def torchao_converted(bench: Bench) -> torch.export.ExportedProgram:
    """Static integers by torchao's PT2E for x86, calibrated one by one."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer

    inputs = (bench.task.example_inputs(1),)
    quantizer = x86_inductor_quantizer.X86InductorQuantizer()
    quantizer.set_global(x86_inductor_quantizer.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(bench.reference, inputs).module(), quantizer)
        for values in calibration(bench, 1):
            prepared(values)
        return torch.export.export(convert_pt2e(prepared), inputs)


def torchao_compiled(bench: Bench, path: Path) -> None:
    """The same, lowered by torch's compiler; the exported program beside it is what needs the compiler to ship."""
    from compiled_torch import compile_ahead

    program = torchao_converted(bench)
    torch.export.save(program, path.with_name("exported.pt2"))
    compile_ahead(program, path)


def calibration(bench: Bench, batch_size: int) -> Iterator[torch.Tensor]:
    """Inputs of the calibration split."""
    return (batch.inputs for batch in bench.task.batches("calibration", batch_size))


PRUNED, TUNED = "half the channels", f"half the channels, {EPOCHS} epochs of training"
ORT, OPENVINO, TORCH = "8 bits, onnxruntime", "8 bits, OpenVINO", "8 bits, torch"
OURS = "compression-gate"
WAYS: dict[str, Way] = {
    "torch-pruning": Way(
        comparison=PRUNED,
        tool="torch-pruning",
        settings="`BasePruner`, `GroupMagnitudeImportance(p=2)`, `round_to=8`",
        make=torch_pruning(0),
    ),
    "structured_pruning": Way(
        comparison=PRUNED, tool=OURS, settings="`structured_pruning`", make=exported([HALF]), ours=True
    ),
    "onnxruntime, defaults": Way(
        comparison=ORT,
        tool="onnxruntime",
        settings="`quantize_static`, its defaults: S8S8, per tensor",
        make=quantize_static(),
    ),
    "onnxruntime, U8S8 per channel": Way(
        comparison=ORT,
        tool="onnxruntime",
        settings="`quantize_static`, U8S8, per channel",
        make=quantize_static(activation_type="QUInt8", weight_type="QInt8", per_channel=True),
    ),
    "static_quantization": Way(
        comparison=ORT, tool=OURS, settings="`static_quantization`", make=exported([INTEGERS]), ours=True
    ),
    "nncf": Way(
        comparison=OPENVINO,
        tool="nncf",
        settings="`nncf.quantize`, its defaults",
        make=nncf_quantized,
        runtime="openvino",
        file_name="model.xml",
        needs="nncf",
    ),
    "static_quantization, OpenVINO": Way(
        comparison=OPENVINO,
        tool=OURS,
        settings="`static_quantization`",
        make=exported([INTEGERS], "openvino"),
        runtime="openvino",
        ours=True,
    ),
    "torchao": Way(
        comparison=TORCH,
        tool="torchao",
        settings="PT2E, `X86InductorQuantizer`, compiled ahead",
        make=torchao_compiled,
        runtime="compiled_torch",
        file_name="model.pt2",
        needs="torchao",
    ),
    "static_quantization, torch": Way(
        comparison=TORCH,
        tool=OURS,
        settings="`static_quantization`, operator by operator",
        make=exported([INTEGERS], "torch"),
        runtime="torch",
        file_name="model.pt2",
        ours=True,
    ),
    "torch-pruning, trained": Way(
        comparison=TUNED,
        tool="torch-pruning",
        settings="as above, then the labels",
        make=torch_pruning(EPOCHS),
    ),
    "structured_pruning, trained": Way(
        comparison=TUNED,
        tool=OURS,
        settings="`structured_pruning`, then the labels: `distillation` with `alpha: 0`",
        make=exported([HALF, LABELS]),
        ours=True,
    ),
    "structured_pruning, distillation chosen": Way(
        comparison=TUNED,
        tool=OURS,
        settings="`structured_pruning`, `distillation` (`kind: hard`, `alpha: 0.3`)",
        make=exported([HALF, CHOSEN]),
        ours=True,
    ),
    "structured_pruning, distillation": Way(
        comparison=TUNED,
        tool=OURS,
        settings="`structured_pruning`, `distillation` as in `params.yaml`",
        make=exported([HALF, DEFAULT]),
        ours=True,
    ),
}
ACROSS = [("static_quantization", "torchao")]  # each in the runtime that it is made for
APART = 6  # processes of each


def runtime_of(name: str) -> Any:
    """A runtime by its name."""
    return registry.load("runtimes", name, RUNTIMES)()


def reference_file(bench: Bench, runtime: str) -> Path:
    """The reference in the form of a runtime, made once."""
    loaded = runtime_of(runtime)
    path = bench.folder / f"reference-{runtime}" / loaded.file_name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        loaded.export(bench.reference, bench.task.example_inputs(1), path, {})
    return path


def folder_of(bench: Bench, name: str) -> Path:
    """Where a row's files and predictions lie."""
    return bench.folder / name.replace(",", "").replace(" ", "-")


def right(bench: Bench, path: Path, runtime: str, split: str) -> np.ndarray:
    """Which examples of a split the file answers right, ``(N,)``."""
    batch_size = 1 if runtime == "compiled_torch" else 256
    answers = predict(runtime_of(runtime).load(path, 1), bench.task, split, f"{runtime}, {split}", batch_size)
    return np.asarray(answers.outputs.argmax(1) == answers.targets)


def reference_right(bench: Bench, runtime: str) -> np.ndarray:
    """The reference's right answers on the test split, asked once for each runtime."""
    path = reference_file(bench, runtime)
    kept = path.with_name("right.npy")
    if not kept.exists():
        np.save(kept, right(bench, path, runtime, "test"))
    return np.asarray(np.load(kept))


def timed(bench: Bench, runtime: str, other: Path, candidate: Path) -> dict[str, Any]:
    """Paired timing, one thread, batch 1; ``call_ms``: thread CPU time of one call, the median of all."""
    inputs = {"input": bench.task.example_inputs(1).numpy()}
    setting = Setting(runtime=runtime, threads=1, inputs=inputs, seed=bench.seed)
    samples = measure_pair(other, candidate, setting, BUDGET_S)
    record = samples.timing.model_dump(mode="json", exclude={"blocks", "control_blocks"})
    calls = [np.concatenate([turn.cpu[side] for turn in samples.turns]) for side in (0, 1)] if samples.turns else []
    return {**record, "call_ms": [round(float(np.median(each)) * 1e3, 5) for each in calls], **place()}


def measured(bench: Bench, name: str) -> dict[str, Any]:
    """Make one row's file and measure it."""
    way, folder = WAYS[name], folder_of(bench, name)
    folder.mkdir(exist_ok=True)
    path = folder / way.file_name
    start = time.monotonic()
    way.make(bench, path)
    seconds = time.monotonic() - start
    hits, reference = right(bench, path, way.runtime, "test"), reference_right(bench, way.runtime)
    np.save(folder / "right.npy", hits)
    return {
        "way": name,
        "comparison": way.comparison,
        "ours": way.ours,
        "tool": way.tool,
        "version": importlib.metadata.version(way.tool),
        "settings": way.settings,
        "runtime": way.runtime,
        "seed": bench.seed,
        "n": len(hits),
        "validation_accuracy": float(right(bench, path, way.runtime, "validation").mean()),
        "test_accuracy": float(hits.mean()),
        "reference_test_accuracy": float(reference.mean()),
        **bytes_of(path),
        "reference_size_bytes": reference_file(bench, way.runtime).stat().st_size,
        "seconds": round(seconds, 1),
        "timing": timed(bench, way.runtime, reference_file(bench, way.runtime), path),
    }


def bytes_of(path: Path) -> dict[str, int]:
    """Bytes of what ships: the file, and of OpenVINO's form its weights too. Beside it what could be left away."""
    found = {"size_bytes": path.stat().st_size}
    if path.suffix == ".xml":
        found["size_bytes"] += path.with_suffix(".bin").stat().st_size
    if path.suffix == ".onnx":
        found["bare_size_bytes"] = bare_bytes(path)
    if (other := path.with_name("exported.pt2")).exists():
        found["exported_size_bytes"] = other.stat().st_size
    return found


def bare_bytes(path: Path) -> int:
    """Bytes of an ONNX file without documentation, metadata and shapes in between: what an exporter adds."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    model.ClearField("doc_string")
    graph.ClearField("doc_string")
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        del part.metadata_props[:]
    return len(model.SerializeToString())


def beside(bench: Bench, ours: str, rival: str) -> dict[str, Any]:
    """Ours against a rival: right answers example by example, bytes, and time."""
    mine, theirs = (np.load(folder_of(bench, name) / "right.npy") for name in (ours, rival))
    lost, won, n = int((theirs & ~mine).sum()), int((mine & ~theirs).sum()), len(mine)
    same = WAYS[ours].runtime == WAYS[rival].runtime
    paths = [folder_of(bench, name) / WAYS[name].file_name for name in (rival, ours)]
    timing = timed(bench, WAYS[ours].runtime, *paths) if same else timed_apart(bench, rival, ours)
    return {
        "ours": ours,
        "rival": rival,
        "seed": bench.seed,
        "n": n,
        "lost": lost,
        "won": won,
        "drop_interval": list(tango_interval(lost, won, n, 0.95)),
        "timing": timing,
    }


def timed_apart(bench: Bench, rival: str, ours: str) -> dict[str, Any]:
    """Two runtimes: processes of their own in the order A B B A, the ratio of the CPU time of a call in each two."""
    calls: dict[str, list[float]] = {rival: [], ours: []}
    for name in (rival, ours, ours, rival) * (APART // 2):
        path = folder_of(bench, name) / WAYS[name].file_name
        calls[name] += [statistics.mean(timed(bench, WAYS[name].runtime, path, path)["call_ms"])]
    ratios = [mine / other for other, mine in zip(calls[rival], calls[ours], strict=True)]
    return {
        "procedure": "processes in the order A B B A; interval: the least and the greatest ratio of two",
        "pairs": len(ratios),
        "ratio": statistics.median(ratios),
        "interval": [min(ratios), max(ratios)],
        "call_ms": [statistics.median(calls[name]) for name in (rival, ours)],
        **place(),
    }


def place() -> dict[str, Any]:
    """Where and how busy."""
    return {
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": machine_fingerprint(),
    }


def stored() -> dict[str, list[dict[str, Any]]]:
    """What was measured so far."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {"rows": [], "pairs": []}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time."""
    with (folder / "results.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep(kind: str, row: dict[str, Any], work: Path) -> None:
    """Add a row to the results, which another run may write as well."""
    with alone(work):
        found = stored()
        found[kind].append(row)
        with replacing(RESULTS) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")


def registered(work: Path) -> None:
    """Make the runtime `compiled_torch` known here and in the processes that take times, by its entry point."""
    package = work / "plugin" / "compiled_torch-0.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    from compiled_torch import ENTRY_POINTS

    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: compiled-torch\nVersion: 0\n")
    (package / "entry_points.txt").write_text(ENTRY_POINTS)
    paths = [str(package.parent.resolve()), str(Path(__file__).parent)]
    sys.path.extend(paths)
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])


def measure(work: Path, seed: int, names: list[str]) -> None:
    """Every row and pair of one seed that the results lack."""
    from distillation_table import Bench

    def lacking(kind: str, **values: Any) -> bool:
        return not any(all(row[key] == value for key, value in values.items()) for row in stored()[kind])

    bench = Bench(work, seed)
    for name in names:
        needs = WAYS[name].needs
        if needs and importlib.util.find_spec(needs) is None:
            print(name, "is left out:", needs, "is not installed", flush=True)
        elif lacking("rows", way=name, seed=seed):
            row = measured(bench, name)
            keep("rows", row, work)
            print(name, seed, row["test_accuracy"], row["size_bytes"], row["timing"]["ratio"], flush=True)
    for ours, rival in pairs():
        here = not any(lacking("rows", way=name, seed=seed) for name in (ours, rival))
        if here and {ours, rival} & set(names) and lacking("pairs", ours=ours, rival=rival, seed=seed):
            row = beside(bench, ours, rival)
            keep("pairs", row, work)
            print(ours, "beside", rival, seed, row["lost"], row["won"], flush=True)


def pairs() -> list[tuple[str, str]]:
    """Ours and the rivals of the same comparison, then pairs of two."""
    ours, rivals = ([name for name in WAYS if WAYS[name].ours == side] for side in (True, False))
    alike = [(mine, other) for mine in ours for other in rivals if WAYS[mine].comparison == WAYS[other].comparison]
    return alike + ACROSS


def markdown(found: dict[str, list[dict[str, Any]]]) -> str:
    """Both tables of the documents."""
    return f"{rows_table(found['rows'])}\n\n{pairs_table(found)}"


def rows_table(rows: list[dict[str, Any]]) -> str:
    """Each way against the reference: mean ± standard deviation over seeds."""
    lines = [
        "| comparison | tool | settings | seeds | points lost, test | bytes | speedup | CPU ms a call |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for comparison in (PRUNED, TUNED, ORT, OPENVINO, TORCH):
        for name, way in WAYS.items():
            if way.comparison != comparison:
                continue
            here = [row for row in rows if row["way"] == name]
            head = f"| {comparison} | {way.tool} | {way.settings} |"
            if not here:
                lines.append(f"{head} 0 | not measured | | | |")
                continue
            lost = spread([100 * (row["reference_test_accuracy"] - row["test_accuracy"]) for row in here])
            size = round(statistics.mean(row["size_bytes"] for row in here))
            speedups = [1 / row["timing"]["ratio"] for row in here if row["timing"]["ratio"]]
            calls = [row["timing"]["call_ms"][1] for row in here if row["timing"]["call_ms"]]
            lines.append(
                f"{head} {len(here)} | {lost} | {size:,} | {spread(speedups)} × | {statistics.median(calls):.3f} |"
            )
    return "\n".join(lines)


def pairs_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Ours against each rival: means over seeds, in brackets the outermost ends of the seeds' 95 % intervals."""
    lines = [
        "| ours | beside | seeds | points of accuracy more | bytes, of theirs | without metadata | time, of theirs |",
        "|---|---|---|---|---|---|---|",
    ]
    sizes = {(row["way"], row["seed"]): row for row in found["rows"]}
    for ours, rival in dict.fromkeys((row["ours"], row["rival"]) for row in found["pairs"]):
        here = [row for row in found["pairs"] if (row["ours"], row["rival"]) == (ours, rival)]
        more = within(
            [100 * (row["won"] - row["lost"]) / row["n"] for row in here],
            [-100 * end for row in here for end in row["drop_interval"]],
        )
        share, bare = (
            [sizes[ours, row["seed"]].get(key, math.nan) / sizes[rival, row["seed"]].get(key, math.nan) for row in here]
            for key in ("size_bytes", "bare_size_bytes")
        )
        bare_share = "" if math.isnan(bare[0]) else f"{statistics.mean(bare):.3f}"
        timings = [row["timing"] for row in here if row["timing"] and row["timing"]["ratio"]]
        of_time = "not decided"
        if timings:
            of_time = within([one["ratio"] for one in timings], [end for one in timings for end in one["interval"]])
        lines.append(
            f"| {ours} | {rival} | {len(here)} | {more} | {statistics.mean(share):.3f} | {bare_share} | {of_time} |"
        )
    return "\n".join(lines)


def within(values: list[float], ends: list[float]) -> str:
    """Mean, and what it may be."""
    return f"{statistics.mean(values):.2f} ({min(ends):.2f} to {max(ends):.2f})"


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "not decided"
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    """Measure or print, by the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / ".compression_gate" / "rivals_table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.markdown:
        print(markdown(stored()))
        return
    os.environ.setdefault(ENVIRONMENT_VARIABLE, str(locate()))
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    registered(options.work)
    for seed in options.seeds:
        measure(options.work, seed, options.ways)


if __name__ == "__main__":
    main()
