"""A worker that takes trials like the real one and does as their steps say: quick, and as bad as is asked for.

    python -m standin_trials SUITE FOLDER

A step ``{do: …}`` names a deed. Steps of a recipe get figures that follow from them, so that a search has something to
find: the smaller the file, the worse the answers.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
REFERENCE = {"accuracy": 0.9, "loss": 0.4, "size_bytes": 10_000.0, "compression_ratio": 1.0, "macs": 5_000.0}


def figures_of(steps):
    """Figures that follow from a recipe."""
    if not steps:
        return REFERENCE
    text = json.dumps(steps, sort_keys=True)
    chance = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
    size = 9_000 * 0.6 ** len(steps) * (0.5 + chance)
    accuracy = 0.9 - 0.02 * chance * 9_000 / size
    return REFERENCE | {"accuracy": accuracy, "size_bytes": round(size), "compression_ratio": 10_000 / size}


def answer_to(steps):
    """The answer of a trial that went well."""
    figures = figures_of(steps)
    most = float(os.environ.get("STANDIN_MOST_BYTES", "inf"))
    distance = max(0.0, figures["size_bytes"] / most - 1)
    check = {"rule": "size", "status": "fail" if distance else "pass", "distance": distance, "blocking": distance > 0}
    return {"figures": figures, "checks": [check], "verdict": check["status"], "seconds": 0.1}


def do(deed, reply):
    """Do something that no trial should; return an answer where there is still one to give."""
    match deed:
        case "exit":
            print("the last words", file=sys.stderr, flush=True)
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise ValueError("a user's own error")
        case "hang":
            time.sleep(600)
        case "hang with a grandchild":  # in a session of its own, as processes that measure are
            subprocess.Popen(SLEEPER, start_new_session=True)
            time.sleep(600)
        case "exit with a grandchild":
            subprocess.Popen(SLEEPER, start_new_session=True)
            os._exit(3)
        case "eat":
            held = [bytes(20_000_000) for _ in range(40)]
            held = [bytearray(one) for one in held]  # touched, so that it is really taken
            time.sleep(600)
        case "garbage":
            reply.write("tarry, I think\n")
        case "another's answer":
            reply.write(f"999 {json.dumps(answer_to([]))}\n")
        case "half a line":
            reply.write("3 {")
            reply.flush()
            time.sleep(600)
        case "a line without end":
            while True:
                reply.write("x" * 1_000_000)
        case "not a number":
            reply.write('1 {"figures": {"accuracy": NaN}, "verdict": "pass"}\n')
        case "no figure":
            return {**answer_to([]), "figures": {"loss": 1.0}}
        case "write a file":
            import tempfile

            tempfile.mkstemp()
            time.sleep(600)
        case "end its watcher":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        case "wait":
            time.sleep(float(os.environ.get("STANDIN_WAIT_S", "1")))
            return answer_to([])
        case "tell files":
            folder = Path(sys.argv[2])
            return {**answer_to([]), "remarks": [str(folder), *sorted(one.name for one in folder.glob("*.*"))]}
        case "tell threads":
            return {"figures": {name: float(value) for name, value in os.environ.items() if name.endswith("THREADS")}}
        case "answer, then end":
            return answer_to([])
    return None


def main():
    """Serve."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    (Path(sys.argv[2]) / "pids").mkdir(exist_ok=True)
    (Path(sys.argv[2]) / "pids" / str(os.getpid())).touch()
    print("a user's print")
    if "STANDIN_END" in os.environ:
        sys.exit("expected a reference, got none")
    for line in sys.stdin:
        request = json.loads(line)
        time.sleep(float(os.environ.get("STANDIN_S", "0")))
        with (Path(sys.argv[2]) / "requests.log").open("a") as log:
            log.write(line)
        deed = next((step["do"] for step in request["steps"] if "do" in step), None)
        if "STANDIN_DEEDS" in os.environ and request["steps"]:
            deeds = os.environ["STANDIN_DEEDS"].split(",")
            deed = deeds[int(figures_of(request["steps"])["size_bytes"]) % len(deeds)] or None
        answer = do(deed, reply) if deed else answer_to(request["steps"])
        if answer:
            reply.write(f"{request['number']} {json.dumps(answer)}\n")
        reply.flush()
        if deed == "answer, then end":
            return


if __name__ == "__main__":
    main()
