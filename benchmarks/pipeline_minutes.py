"""What a run of the default suite costs: cold, cached, limit-only, no-op: `python benchmarks/pipeline_minutes.py`.

Works in a clone of this checkout's last commit in a temporary folder, with this environment and these data files, so
that the checkout stays as it is. Rows go to `benchmarks/results/pipeline_minutes.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compression_gate.measurers.machine import machine_fingerprint

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "pipeline_minutes.json"
STAGES = ("prepare", "train", "compress", "evaluate", "benchmark", "gate", "report")
REPEATS = 3


def timed(words: list[str], folder: Path) -> float:
    """Seconds that a command takes; its code may be 0 or 1 (a limit was broken on purpose)."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start = time.monotonic()
    done = subprocess.run(
        words, cwd=folder, env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}, check=False, capture_output=True
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout.decode() + done.stderr.decode())
    return time.monotonic() - start


def main() -> None:
    """Time every case and write the rows."""
    run = [sys.executable, "-m", "compression_gate", "run"]
    repro = [sys.executable, "-m", "dvc", "repro"]
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        if (ROOT / "data").is_dir():
            shutil.copytree(ROOT / "data", clone / "data")
        rows: dict[str, object] = {"cold_s": timed(run, clone)}
        rows["no_op_s"] = min(timed(run, clone) for _ in range(REPEATS))
        rows["bare_dvc_repro_no_op_s"] = min(timed(repro, clone) for _ in range(REPEATS))
        params = clone / "params.yaml"
        text = params.read_text()
        params.write_text(text.replace("min: 10}", "min: 1000}"))
        rows["limit_only_s"] = timed(run, clone)
        params.write_text(text)
        timed(run, clone)
        shutil.rmtree(clone / "models")
        shutil.rmtree(clone / "reports")
        rows["cached_s"] = timed(run, clone)
        rows["check_s"] = min(timed([*run[:-1], "check"], clone) for _ in range(REPEATS))
        rows["stages_s"] = {stage: timed([*run[:-1], stage], clone) for stage in STAGES}
    rows |= {"load_average": round(os.getloadavg()[0], 2), "machine": machine_fingerprint()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print(json.dumps(rows, indent=2))  # a script's answer


if __name__ == "__main__":
    main()
