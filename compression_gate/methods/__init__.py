"""Compression methods: one file each, listed here, loaded when named."""

from __future__ import annotations

from compression_gate.registry import Plugin

METHODS: dict[str, Plugin] = {
    "structured_pruning": Plugin(
        target="compression_gate.methods.structured_pruning:StructuredPruning",
        summary="remove whole channels and neurons, with everything that depends on them",
    ),
    "magnitude_pruning": Plugin(
        target="compression_gate.methods.magnitude_pruning:MagnitudePruning",
        summary="set single weights to zero, at once or gradually while fine-tuning",
    ),
    "distillation": Plugin(
        target="compression_gate.methods.distillation:Distillation",
        summary="train the compressed model on what a teacher answers",
    ),
    "ensemble": Plugin(
        target="compression_gate.methods.ensemble:Ensemble",
        summary="several recipes, fused into one model that averages or distilled into one of them",
    ),
    "static_quantization": Plugin(
        target="compression_gate.methods.static_quantization:StaticQuantization",
        summary="integer weights and calibrated integer activations",
    ),
    "weight_only_quantization": Plugin(
        target="compression_gate.methods.weight_only_quantization:WeightOnlyQuantization",
        summary="integer weights of 8 to 2 bits in any layer, float activations",
    ),
    "quantization_aware_training": Plugin(
        target="compression_gate.methods.quantization_aware_training:QuantizationAwareTraining",
        summary="training with rounded weights and activations whose steps are learned",
    ),
    "dynamic_quantization": Plugin(
        target="compression_gate.methods.dynamic_quantization:DynamicQuantization",
        summary="integer weights, integer activations in the range of each call; linear layers and LSTMs",
    ),
    "weight_sharing": Plugin(
        target="compression_gate.methods.weight_sharing:WeightSharing",
        summary="few distinct weights a layer, found by k-means",
    ),
    "rate_aware_training": Plugin(
        target="compression_gate.methods.rate_aware_training:RateAwareTraining",
        summary="integer weights trained with the price of their bits in the coded file inside the loss",
    ),
    "low_rank": Plugin(
        target="compression_gate.methods.low_rank:LowRank",
        summary="one wide layer becomes two or three thin ones, by SVD, Tucker or CP",
    ),
    "sparsity_training": Plugin(
        target="compression_gate.methods.sparsity_training:SparsityTraining",
        summary="train with a penalty that makes weights or whole channels small",
    ),
    "batchnorm_folding": Plugin(
        target="compression_gate.methods.batchnorm_folding:BatchnormFolding",
        summary="multiply norms into the layers directly before them",
    ),
}
