"""Runtimes by name: what a compressed model is exported to, evaluated in and timed in."""

from compression_gate.registry import Plugin

RUNTIMES = {
    "onnxruntime": Plugin(
        target="compression_gate.runtimes.onnx_runtime:OnnxRuntime",
        summary="ONNX file in onnxruntime; integer layers run on integers",
    ),
    "openvino": Plugin(
        target="compression_gate.runtimes.openvino:OpenVino",
        summary="ONNX file in OpenVINO; integer layers run on integers",
        needs="openvino",
    ),
    "torch": Plugin(
        target="compression_gate.runtimes.torch_eager:TorchEager",
        summary="torch's own exported program; integer layers are computed in float32",
    ),
}
