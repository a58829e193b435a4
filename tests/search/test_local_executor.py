"""`local`: whatever a trial does to its process, the search hears of it, and nothing of it is left."""

import collections
import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from compression_gate.errors import SearchError
from compression_gate.records.trial import Request
from compression_gate.search.executors import local
from compression_gate.search.executors.base import Place
from compression_gate.search.executors.guard import has_token
from compression_gate.search.executors.local import LocalExecutor

SUPPORT = str(Path(__file__).parents[1] / "support")
SHORT_S = 2.0
PATIENCE_S = 60.0  # of a busy machine; nothing waits for it where all is well
BAD = [  # what a trial does, what is said of it, whether its time limit is short
    ("exit", r"crashed: exit 3: .*the last words", False),
    ("kill", r"crashed: killed by signal 9, as a system does that runs out of memory", False),
    ("raise", r"crashed: exit 1: .*ValueError: a user's own error", False),
    ("hang", r"hangs: no answer within 2 s \(search\.trial_timeout_s\)", True),
    ("hang with a grandchild", r"hangs", True),
    ("exit with a grandchild", r"crashed: exit 3", False),
    ("eat", r"memory: [\d,]+ bytes, more than the 300,000,000 allowed", False),
    ("garbage", r"crashed: expected the answer to trial 1, got 'tarry, I think'", False),
    ("another's answer", r"crashed: expected the answer to trial 1, got '999 ", False),
    ("half a line", r"hangs", True),
    ("a line without end", r"crashed: expected the answer to trial 1, got 'xxxx", False),
    ("not a number", r"crashed: expected the answer to trial 1, got '1 \{.*NaN", False),
    ("write a file", r"hangs", True),
]


@pytest.fixture
def executor_of(tmp_path, monkeypatch):
    """Return a callable(**place) that makes an executor whose workers are stand-ins; all of them end with the test."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    made = []

    def make(**place):
        given = {"suite": tmp_path, "folder": tmp_path, "workers": 1, "timeout_s": PATIENCE_S} | place
        made.append(LocalExecutor(Place(**given), worker="standin_trials"))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def request(number, deed="tell threads"):
    return Request(number=number, steps=({"do": deed},))


def answers_of(executor, count):
    """So many answers, by number."""
    found, until = {}, time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < until:
        found |= dict(executor.finished(1.0))
    return found


def left_of(tokens):
    """The processes that descend from workers."""
    return [process for process in psutil.process_iter() if any(has_token(process, token) for token in tokens)]


def test_answers_come_back_under_their_numbers_and_processes_are_kept(executor_of, tmp_path):
    executor = executor_of(workers=2)
    for number in range(6):
        executor.submit(Request(number=number, steps=({"method": f"m{number}"},)))
    answers = answers_of(executor, 6)
    assert sorted(answers) == list(range(6))
    assert all(answer.complete for answer in answers.values())
    assert len({answer.figures["size_bytes"] for answer in answers.values()}) == 6
    assert len(list((tmp_path / "pids").iterdir())) == 2


def test_workers_start_with_one_thread(executor_of):
    executor = executor_of()
    executor.submit(request(0))
    threads = answers_of(executor, 1)[0].figures
    assert threads["OMP_NUM_THREADS"] == threads["MKL_NUM_THREADS"] == threads["OPENBLAS_NUM_THREADS"] == 1


@pytest.mark.parametrize(("deed", "said", "short"), BAD)
def test_a_bad_trial_is_its_own_answer_and_the_next_one_has_a_fresh_process(executor_of, deed, said, short):
    executor = executor_of(memory_bytes=300_000_000, timeout_s=SHORT_S if short else PATIENCE_S)
    executor.submit(request(1, deed))
    worker = executor.workers[0]
    executor.submit(request(2))
    answers = answers_of(executor, 1)
    executor.place = dataclasses.replace(executor.place, timeout_s=PATIENCE_S)
    answers |= answers_of(executor, 1)
    assert not answers[1].complete
    assert re.search(said, answers[1].reason), answers[1].reason
    assert answers[2].complete
    assert executor.workers[0] is not worker
    assert not left_of([worker.token]), "a process survived"
    assert not worker.temporary.exists()


def test_close_ends_all_that_runs_and_what_it_started(executor_of):
    executor = executor_of(workers=2)
    executor.submit(request(0, "hang with a grandchild"))
    executor.submit(request(1, "hang"))
    executor.submit(request(2))
    tokens = [worker.token for worker in executor.workers]
    until = time.monotonic() + PATIENCE_S
    while len(left_of(tokens)) < 3 and time.monotonic() < until:
        executor.finished(0.1)
    assert len(left_of(tokens)) == 3, "two workers and a grandchild"
    executor.close()
    assert not left_of(tokens)
    assert executor.finished(0.0) == []


def test_a_worker_that_died_between_two_trials_costs_none(executor_of):
    executor = executor_of()
    executor.submit(request(0, "answer, then end"))
    assert answers_of(executor, 1)[0].complete
    first = executor.workers[0]
    first.process.wait(timeout=PATIENCE_S)
    executor.submit(request(1))
    assert answers_of(executor, 1)[1].complete
    assert executor.workers[0] is not first


def test_a_worker_that_cannot_begin_says_why(executor_of, monkeypatch):
    monkeypatch.setenv("STANDIN_END", "1")
    executor = executor_of()
    executor.submit(request(0))
    assert answers_of(executor, 1)[0].reason == ("crashed: exit 1: a user's print | expected a reference, got none")


def test_a_system_that_starts_no_process_is_told(executor_of, monkeypatch):
    executor = executor_of()

    def refuse(*arguments):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(local, "Watched", refuse)
    with pytest.raises(SearchError, match=r"expected to start a process for trials, got .*Cannot allocate memory"):
        executor.submit(request(0))


@pytest.fixture
def machine_of(monkeypatch, tmp_path):
    """Return a callable(cores, total, available, limits) that makes the machine such a one."""

    def make(cores, total, available, limits=(), own=()):
        memory = collections.namedtuple("memory", ["total", "available"])(int(total), available)
        monkeypatch.setattr(local.psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(local, "usable_cores", lambda: cores)
        monkeypatch.setattr(local, "OWN_GROUPS", tmp_path / "own")
        monkeypatch.setattr(local, "GROUPS", tmp_path / "groups")
        (tmp_path / "own").write_text("".join(f"{line}\n" for line in own))
        for path, text in dict(limits).items():
            (tmp_path / "groups" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / path).write_text(f"{text}\n")

    return make


MEMORY = [  # cores, all memory [bytes], what is free of it, peak of a trial seen so far, workers asked for, expected
    (8, 128e9, 100e9, 0, None, 8),
    (8, 128e9, 100e9, 0, 3, 3),
    (8, 128e9, 3.75e9, 0, None, 2),
    (8, 128e9, 3.75e9, 1e9, None, 3),
    (8, 128e9, 1e6, 0, None, 1),
    (8, 4e9, 100e9, 0, None, 2),  # in a container the machine's free memory is not its own
]


@pytest.mark.parametrize(("cores", "total", "available", "peak", "workers", "expected"), MEMORY)
def test_there_are_as_many_workers_as_cores_and_memory_allow(
    executor_of, machine_of, cores, total, available, peak, workers, expected
):
    machine_of(cores, total, available)
    executor = executor_of(workers=workers)
    executor.peak_bytes = int(peak)
    assert executor.allowed == executor.free == expected


SHARES = [  # cores, all memory [bytes], workers asked for, limit of each trial asked for, what each may take
    (4, 20e9, None, None, 4e9),
    (4, 20e9, 2, None, 8e9),
    (4, 20e9, 1, None, 16e9),
    (64, 5e9, None, None, 2e9),  # two are begun together: there is no room for more
    (64, 1e9, 8, None, 0.8e9),
    (4, 20e9, None, 10**9, 1e9),
]


@pytest.mark.parametrize(("cores", "total", "workers", "asked", "expected"), SHARES)
def test_a_trial_may_take_its_share_of_the_memory(executor_of, machine_of, cores, total, workers, asked, expected):
    machine_of(cores, total, total)
    assert executor_of(workers=workers, memory_bytes=asked).most_bytes == expected


LIMITS = {
    "none": ((), {}, 8e9),
    "of the second version": (["0::/"], {"memory.max": 4_000_000_000}, 4e9),
    "unlimited": (["0::/"], {"memory.max": "max"}, 8e9),
    "of a job within": (["0::/jobs/7"], {"jobs/memory.max": 3_000_000_000, "jobs/7/memory.max": "max"}, 3e9),
    "of the first version": (["9:cpu:/", "4:memory:/x"], {"memory/memory.limit_in_bytes": 2_000_000_000}, 2e9),
    "more than there is": (["4:memory:/"], {"memory/memory.limit_in_bytes": 2**63 - 4096}, 8e9),
}


@pytest.mark.parametrize(("own", "limits", "expected"), LIMITS.values(), ids=LIMITS)
def test_memory_that_a_container_has_not_is_not_counted(machine_of, own, limits, expected):
    machine_of(4, 8e9, 8e9, limits, own)
    assert local.usable_bytes() == expected


def test_what_waits_and_what_runs_is_not_free(executor_of):
    executor = executor_of(workers=2)
    for number, free in enumerate([1, 0, 0]):
        executor.submit(request(number, "hang"))
        assert executor.free == free
    assert len(executor.workers) == 2


def test_memory_of_a_worker_is_that_of_all_it_started(executor_of):
    executor = executor_of()
    executor.submit(request(0, "hang with a grandchild"))
    worker = executor.workers[0]
    until = time.monotonic() + PATIENCE_S
    while len(left_of([worker.token])) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    alone = psutil.Process(worker.process.pid).memory_info().rss
    assert local.memory_of([worker.process.pid])[worker.process.pid] > 1.3 * alone


DRIVER = """
import sys, time
from pathlib import Path
from compression_gate.records.trial import Request
from compression_gate.search.executors.base import Place
from compression_gate.search.executors.local import LocalExecutor

folder = Path(sys.argv[1])
executor = LocalExecutor(Place(suite=folder, folder=folder, workers=2), worker="standin_trials")
for deed in ("hang with a grandchild", "write a file"):
    executor.submit(Request(number=0, steps=({"do": deed},)))
print(executor.token, executor.temporary, flush=True)
executor.finished(600)
"""


def test_a_driver_that_is_killed_leaves_no_process_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    token, temporary = driver.stdout.readline().split()
    until = time.monotonic() + PATIENCE_S
    while len(left_of([token])) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(left_of([token])) == 3
    assert Path(temporary).exists()
    driver.kill()
    driver.wait()
    driver.stdout.close()
    while (left_of([token]) or Path(temporary).exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left_of([token])
    assert not Path(temporary).exists()


def test_a_token_is_found_in_what_descends_and_in_nothing_else(executor_of):
    executor = executor_of()
    executor.submit(request(0, "hang"))
    (worker,) = executor.workers
    assert [process.pid for process in left_of([worker.token])] == [worker.process.pid]
    assert [process.pid for process in left_of([executor.token])] == [worker.process.pid]
    assert not left_of([executor.token[:4], worker.token + "1"])
