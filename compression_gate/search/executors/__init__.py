"""Executors: one file each, listed here, loaded when named."""

from __future__ import annotations

from compression_gate.registry import Plugin

EXECUTORS: dict[str, Plugin] = {
    "local": Plugin(
        target="compression_gate.search.executors.local:LocalExecutor",
        summary="single-thread processes on this machine",
    ),
    "ray": Plugin(
        target="compression_gate.search.executors.ray_cluster:RayExecutor",
        summary="the same on the nodes of a Ray cluster",
        needs="ray",
    ),
}
