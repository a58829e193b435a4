"""`format: coded`, and the commands around the coded file: what is judged is what comes out of the file alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from compression_gate.artifacts import compared, decoding
from compression_gate.cli import app
from compression_gate.codec import container
from compression_gate.errors import CodecError, MeasurementError, ParamsError, StaleError
from compression_gate.measurers.fresh import LEAST_WARM
from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import Benchmark
from compression_gate.records.params import read_params
from compression_gate.stages import benchmark, compress, decode, encode, evaluate, prepare, train
from compression_gate.stages import inspect as stage_inspect

CANDIDATE = "models/candidate"


@pytest.fixture
def coded(suite):
    """A suite whose candidate ships as a coded file."""
    suite.edit("compress.format", "coded")
    suite.edit(
        "compress.steps",
        [{"method": "structured_pruning"}, {"method": "magnitude_pruning", "sparsity": 0.7},
         {"method": "weight_only_quantization", "bits": 4}],
    )  # fmt: skip
    prepare.run(suite.path)
    train.run(suite.path)
    return suite


def test_what_is_judged_comes_out_of_the_coded_file(coded):
    coded.edit("benchmark.budget_s", 2.0)
    record = compress.run(coded.path)
    folder = coded.path / CANDIDATE
    artifact = Artifact.open(folder)
    assert (artifact.format, artifact.shipped) == ("coded", ("model.cgz",))
    assert record.size_bytes == artifact.size_bytes == (folder / "model.cgz").stat().st_size
    assert artifact.size_bytes < artifact.files["model.onnx"].bytes / 2
    assert record.warnings == ()
    assert Artifact.open(coded.path / "models/reference").format == "onnx"

    evaluation = evaluate.run(coded.path)
    assert evaluation.models["candidate"].digest == artifact.digest
    path = decoding.decoded(coded.path, artifact, folder, read_params(coded.path))
    assert path.is_relative_to(coded.path / decoding.DECODED)
    assert path.read_bytes() == (folder / "model.onnx").read_bytes()

    # The same weights in other code are another model, though the file is the same.
    before = coded.source.read_text(encoding="utf-8")
    coded.append("\n# other code\n")
    assert decoding.decoded(coded.path, artifact, folder, read_params(coded.path)) != path
    coded.source.write_text(before, encoding="utf-8")

    figures = benchmark.run(coded.path).models
    ours, other = figures["candidate"].figures, figures["reference"].figures
    assert ours["decode_time_ms"].samples == LEAST_WARM
    assert ours["load_time_ms"].value > ours["decode_time_ms"].value > 0
    assert "coded file" in ours["load_time_cold_ms"].reason
    assert "decode_time_ms" not in other
    assert Benchmark.read(coded.path / "reports/benchmark.json").models["candidate"].figures == ours

    shutil.copytree(folder, coded.path / compared.REFERENCES / "baseline")
    params = read_params(coded.path)
    found = benchmark.measure_decoding(coded.path, compared.open_models(coded.path, params), params, 1)
    assert [found[role].value > 0 for role in ("candidate", "baseline")] == [True, True]
    coded.replace("CLASSES = 8, 3", "CLASSES = 8, 4")
    (refused,) = benchmark.measure_decoding(
        coded.path,
        compared.Models(artifacts={"baseline": artifact}, coded={"baseline": folder / "model.cgz"}),
        params,
        1,
    ).values()
    assert refused.value is None
    assert "got one of another" in refused.reason
    coded.source.write_text(before, encoding="utf-8")

    (folder / "model.cgz").write_bytes(damaged((folder / "model.cgz").read_bytes()))
    with pytest.raises(StaleError, match=r"model\.cgz"):
        evaluate.run(coded.path)
    shutil.rmtree(coded.path / decoding.DECODED)
    for _ in range(2):  # what a process that failed has left is not taken for a decoded file
        with pytest.raises(MeasurementError, match=r"CodecError: .*checksum"):
            decoding.decoded(coded.path, artifact, folder, read_params(coded.path))


def damaged(data):
    """One bit in the middle is another one."""
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    return bytes(changed)


def test_a_format_that_nothing_writes_is_refused_before_anything_is_trained(suite):
    from compression_gate.artifacts import recipe_check

    suite.edit("compress.format", "code")
    with pytest.raises(ParamsError, match="did you mean 'coded'"):
        recipe_check.check(read_params(suite.path), suite.path)


def test_a_fast_profile_ships(coded):
    coded.edit("compress.steps", [{"method": "magnitude_pruning", "sparsity": 0.7}])
    coded.edit("compress.profile", "fast")
    compress.run(coded.path)
    with (coded.path / CANDIDATE / "model.cgz").open("rb") as file:
        assert container.read_head(file, "").fast


def test_decoding_may_take_the_longer_the_more_numbers_there_are(tmp_path):
    patience = []
    for count in (0, 700):
        path = tmp_path / "model.cgz"
        container.write_file(
            path, signature=0, directory=None, graph=None, pool=b"", segments=[b"x"] * count, fast=False
        )
        patience.append(decoding.patience_of(path))
    assert patience[0] == decoding.PATIENCE_S
    assert patience[1] > 700 * container.SEGMENT_NUMBERS / 250_000
    path.write_bytes(path.read_bytes()[:-1])
    assert decoding.patience_of(path) == decoding.PATIENCE_S


def test_steps_chosen_for_a_target_decode_as_well(coded):
    coded.edit("compress.steps", [])
    coded.edit("compress.target", {"compression_ratio": 3, "max_accuracy_drop": 0.9, "max_epochs": 1})
    compress.run(coded.path)
    assert compared.open_models(coded.path, read_params(coded.path)).files["candidate"].exists()


def outputs(path, images):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def same(folder, other):
    tensors, others = (load_file(one / "model.safetensors") for one in (folder, other))
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_commands_encode_inspect_and_decode_a_candidate(coded, tmp_path):
    compress.run(coded.path)
    run = CliRunner().invoke
    file, graph = tmp_path / "a.cgz", tmp_path / "b.cgz"
    here = ["-C", str(coded.path)]
    assert "bytes" in run(app, ["encode", *here, "-o", str(file)], catch_exceptions=False).stdout
    assert file.read_bytes() == (coded.path / CANDIDATE / "model.cgz").read_bytes()
    found = json.loads(run(app, ["inspect", str(file), *here, "--json"], catch_exceptions=False).stdout)
    assert found["kind"] == "model"
    assert found["size_bytes"] == file.stat().st_size
    taken = sum(one["coded_bytes"] for one in found["tensors"]) + found["head_bytes"]
    assert taken == pytest.approx(found["size_bytes"])
    text = run(app, ["inspect", str(file), *here], catch_exceptions=False).stdout
    assert "header and structure" in text
    assert "█" in text
    assert "candidate.cgz" in run(app, ["encode", *here], catch_exceptions=False).stdout
    assert (coded.path / "models/candidate.cgz").read_bytes() == file.read_bytes()
    beside = run(app, ["decode", str(coded.path / "models/candidate.cgz"), *here])
    assert "models/candidate: is there already" in str(beside.exception)
    run(app, ["decode", str(file), *here, "-o", str(tmp_path / "again")], catch_exceptions=False)
    again, before = (
        load_file(tmp_path / "again/model.safetensors"),
        load_file(coded.path / CANDIDATE / "model.safetensors"),
    )
    assert all(torch.equal(again[name], before[name]) for name in before)
    # With the graph inside nothing of the suite is needed.
    run(app, ["encode", *here, "--embed-graph", "-o", str(graph)], catch_exceptions=False)
    run(app, ["decode", str(graph)], catch_exceptions=False)
    images = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    expected = outputs(coded.path / CANDIDATE / "model.onnx", images)
    assert np.array_equal(outputs(graph.with_suffix(".onnx"), images), expected)


@pytest.mark.parametrize("fast", [False, True], ids=["small", "fast"])
def test_commands_take_a_file_of_tensors_anywhere(tmp_path, fast):
    tensors = {"a": torch.randn(300, 100), "b": torch.arange(7), "c": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "x.safetensors")
    file = encode.run(tmp_path, encode.Request(source=tmp_path / "x.safetensors", fast=fast))
    assert stage_inspect.run(tmp_path, file).profile == ("fast" if fast else "small")
    again = load_file(decode.run(tmp_path, decode.Request(file=file, output=tmp_path / "y.safetensors")))
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_nothing_is_written_over_unasked(tmp_path, kind):
    source, file = tmp_path / f"x.{kind}", tmp_path / "x.cgz"
    if kind == "onnx":
        weight = onnx.numpy_helper.from_array(np.ones(20, np.float32), "w")
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [weight])), source)
    else:
        save_file({"a": torch.ones(20)}, source)
    before = source.read_bytes()
    encode.run(tmp_path, encode.Request(source=source))
    with pytest.raises(ParamsError, match=r"x\.cgz: is there already: name it with -o"):
        encode.run(tmp_path, encode.Request(source=source))
    encode.run(tmp_path, encode.Request(source=source, output=file))
    with pytest.raises(ParamsError, match=rf"x\.{kind}: is there already"):
        decode.run(tmp_path, decode.Request(file=file))
    for request, stage in [
        (encode.Request(source=source, output=tmp_path / "." / f"x.{kind}"), encode),
        (decode.Request(file=file, output=file), decode),
    ]:
        with pytest.raises(ParamsError, match="expected another place than what is read"):
            stage.run(tmp_path, request)
    with pytest.raises(ParamsError, match="expected a file, got the folder"):
        decode.run(tmp_path, decode.Request(file=file, output=tmp_path))
    assert source.read_bytes() == before
    (tmp_path / "artifact.json").touch()
    file.unlink()
    with pytest.raises(ParamsError, match=r"x\.cgz: lies among an artifact's files, which the gate judges"):
        encode.run(tmp_path, encode.Request(source=source))
    assert encode.run(tmp_path, encode.Request(source=source, output=file)) == file


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    save_file({"a": torch.ones(20)}, tmp_path / "x.safetensors")
    place = tmp_path / "x.safetensors" / "x.cgz"
    with pytest.raises(CodecError, match=r"x\.safetensors/x\.cgz: cannot be written: "):
        encode.run(tmp_path, encode.Request(source=tmp_path / "x.safetensors", output=place))


def test_nothing_else_is_read(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CodecError, match=r"x\.pt: expected a \.safetensors or \.onnx file.*pickle"):
        encode.run(tmp_path, encode.Request(source=tmp_path / "x.pt"))
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(CodecError, match=r"x\.onnx: expected an ONNX file"):
        encode.run(tmp_path, encode.Request(source=tmp_path / "x.onnx"))
    with pytest.raises(CodecError, match="cannot be read: No such file"):
        decode.run(tmp_path, decode.Request(file=Path("nowhere.cgz")))
