"""What posting costs: own time and calls for a large verdict, and the install of a job that only posts.

`python benchmarks/posting.py` posts a verdict of 20 rules over 50 slices to the fake forge of the tests, in fresh
processes, and installs `post/requirements.txt` with the package into fresh environments, as `post/action.yml`
does (what was downloaded before stays in the caches). Rows go to `benchmarks/results/posting.json`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

from big_verdict import RULES, SLICES, write_big_verdict  # noqa: E402
from fake_github import FakeGitHub, serving  # noqa: E402

from compression_gate.measurers.machine import machine_fingerprint  # noqa: E402
from compression_gate.selftest.finished_run import write  # noqa: E402

RESULTS = ROOT / "benchmarks/results/posting.json"
POSTS, INSTALLS = 10, 5
SHA = "a" * 40
UV = re.search(r"uv==[\d.]+", (ROOT / "post/action.yml").read_text())[0]


def surroundings(fake: FakeGitHub, folder: Path) -> dict[str, str]:
    """Those of a pull request's job on the fake."""
    event = {"pull_request": {"number": 7, "head": {"sha": SHA, "repo": {"full_name": fake.repository}}}}
    (folder / "event.json").write_text(json.dumps(event))
    return os.environ | {
        "GITHUB_API_URL": fake.url,
        "GITHUB_REPOSITORY": fake.repository,
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "GITHUB_TOKEN": "t",
        "OMP_NUM_THREADS": "1",
    }


def post_once(suite: Path, folder: Path) -> dict[str, float]:
    """CPU and wall seconds of one process that posts, and the requests that it made."""
    with serving(FakeGitHub()) as fake:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        words = [sys.executable, "-m", "compression_gate", "post", "-C", str(suite)]
        subprocess.run(words, env=surroundings(fake, folder), check=True, capture_output=True)
        wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if fake.violations:
            raise SystemExit("\n".join(fake.violations))
        writes = len(fake.writes())
        return {"cpu_s": cpu, "wall_s": wall, "writes": writes, "reads": len(fake.calls) - writes}


def install_once() -> float:
    """Seconds that an environment for posting takes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        uv, place = f"{folder}/uv/bin/uv", Path(folder) / "venv"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", f"{folder}/uv", UV], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(place / "bin/python"), "--no-deps"]
        subprocess.run([*install, "-r", str(ROOT / "post/requirements.txt")], check=True)
        subprocess.run([*install, str(ROOT)], check=True)
        return time.monotonic() - start


def main() -> None:
    """Measure and write the rows."""
    with tempfile.TemporaryDirectory() as folder:
        suite = write(Path(folder) / "suite")
        write_big_verdict(suite)
        rows = [post_once(suite, Path(folder)) for _ in range(POSTS)]
    installs = [install_once() for _ in range(INSTALLS)]
    found = {
        "checks": RULES * SLICES,
        "posts": {name: [row[name] for row in rows] for name in rows[0]},
        "post_cpu_median_s": median(row["cpu_s"] for row in rows),
        "post_wall_median_s": median(row["wall_s"] for row in rows),
        "installs_s": installs,
        "install_median_s": median(installs),
        "load_average": os.getloadavg()[0],
        "machine": machine_fingerprint(),
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({name: one for name, one in found.items() if name != "machine"}, indent=2))


if __name__ == "__main__":
    main()
