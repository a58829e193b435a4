"""What `run` keeps under a suite's `.compression_gate`, as paths in the suite; stages and gate read it."""

from __future__ import annotations

STATE = ".compression_gate"
PARAMS, PACKAGE, MACHINE = f"{STATE}/params.yaml", f"{STATE}/package.json", f"{STATE}/machine.json"
SOURCES, REFERENCES = f"{STATE}/sources.json", f"{STATE}/references"
HISTORY, WAIVERS = f"{STATE}/history.json", f"{STATE}/waivers.json"
