"""`ray`: the same trials on the nodes of a cluster, here two on one machine; what is lost with a node is done again."""

import os
import time
from pathlib import Path

import psutil
import pytest

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from ray.cluster_utils import Cluster  # noqa: E402

from compression_gate.errors import SearchError  # noqa: E402
from compression_gate.records.trial import Request  # noqa: E402
from compression_gate.search.executors import ray_cluster  # noqa: E402
from compression_gate.search.executors.base import Place  # noqa: E402
from compression_gate.search.executors.guard import TOKEN  # noqa: E402
from compression_gate.search.executors.package import PREFIX, folder_of  # noqa: E402
from compression_gate.search.executors.ray_cluster import RETRIES, RayExecutor  # noqa: E402
from compression_gate.search.executors.station import MARK  # noqa: E402

pytestmark = pytest.mark.slow
SUPPORT = str(Path(__file__).parents[1] / "support")
OURS = ("STANDIN_OF", str(os.getpid()))  # other tests and searches may run on this machine
PATIENCE_S = 240.0  # of a busy machine; nothing waits for it where all is well
TRIAL_S = 15.0
BAD = [  # what a trial does, what is said of it
    ("exit", "crashed: exit 3: "),
    ("kill", "crashed: killed by signal 9"),
    ("garbage", "crashed: expected the answer to trial 1"),
    ("hang with a grandchild", "hangs: no answer within 15 s"),
]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes on this machine, a processor each."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", SUPPORT)
        environment.setenv(*OURS)
        environment.setenv("STANDIN_WAIT_S", "2")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        two.add_node(num_cpus=1)
        two.wait_for_nodes()
        yield two
        two.shutdown()


@pytest.fixture
def executor(cluster, tmp_path):
    made = RayExecutor(place_of(cluster, tmp_path), worker="standin_trials")
    yield made
    made.close()


def place_of(cluster, folder):
    return Place(suite=folder, folder=folder, timeout_s=TRIAL_S, address=cluster.address)


def request(number, deed="wait"):
    return Request(number=number, steps=({"do": deed},))


def answers_of(executor, count):
    """So many answers, by number."""
    found, until = {}, time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < until:
        found |= dict(executor.finished(1.0))
    return found


def workers():
    """The processes of this test that carry trials out."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if TOKEN in environment and environment.get(OURS[0]) == OURS[1]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def eventually(claim):
    """Whether a claim comes true soon."""
    until = time.monotonic() + PATIENCE_S
    while not claim() and time.monotonic() < until:
        time.sleep(0.1)
    return claim()


def test_both_nodes_carry_trials_out_and_answers_come_under_their_numbers(executor):
    assert executor.free == 2
    for number in range(6):
        executor.submit(Request(number=number, steps=({"method": f"m{number}"},)))
    assert executor.free == 0
    answers = answers_of(executor, 6)
    assert sorted(answers) == list(range(6))
    assert all(answer.complete for answer in answers.values())
    assert len({answer.figures["size_bytes"] for answer in answers.values()}) == 6
    assert len(executor.posts) == 2  # each takes a processor, and each node has one


@pytest.mark.parametrize(("deed", "said"), BAD)
def test_a_bad_trial_is_its_own_answer_as_on_one_machine(executor, deed, said):
    executor.submit(request(1, deed))
    executor.submit(request(2))
    answers = answers_of(executor, 2)
    assert answers[1].reason.startswith(said)
    assert answers[2].complete


def test_a_trial_whose_worker_is_lost_is_carried_out_again(executor, caplog):
    executor.submit(request(1))
    assert eventually(lambda: executor.finished(0.1) == [] and workers())
    (actor,) = [process.parent() for process in workers()]
    actor.kill()
    assert answers_of(executor, 1)[1].complete
    assert "trial 1: its worker or node was lost" in caplog.text


def test_a_trial_that_ends_every_worker_is_given_up(executor):
    executor.submit(request(1, "end its watcher"))
    executor.submit(request(2))
    answers = answers_of(executor, 2)
    assert answers[1].reason.startswith(f"lost: {RETRIES + 1} workers or their nodes ended while they were at it")
    assert answers[2].complete


def test_trials_of_a_node_that_is_killed_are_carried_out_elsewhere(cluster, executor):
    third = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    assert eventually(lambda: executor.wanted == 3)
    for number in range(9):
        executor.submit(request(number))
    assert eventually(
        lambda: executor.finished(0.1) is None or sum(post.job is not None for post in executor.posts) == 3
    )
    answers = {}
    cluster.remove_node(third, allow_graceful=False)
    answers = answers_of(executor, 9 - 3)
    answers |= answers_of(executor, 9 - len(answers))
    assert sorted(answers) == list(range(9))
    assert all(answer.complete for answer in answers.values())


def test_a_node_that_sees_no_folder_is_sent_what_trials_read(cluster, tmp_path):
    (tmp_path / "params.yaml").write_text("task: {}\n", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("not asked for", encoding="utf-8")
    place = Place(
        suite=tmp_path,
        folder=tmp_path,
        timeout_s=TRIAL_S,
        address=cluster.address,
        files=(tmp_path / "params.yaml",),
    )
    executor = RayExecutor(place, worker="standin_trials")
    try:
        (tmp_path / MARK).unlink()
        executor.submit(request(1, "tell files"))
        answer = answers_of(executor, 1)[1]
        here, *files = answer.remarks
        assert here == str(folder_of(executor.key))
        assert "params.yaml" in files
        assert "secret.txt" not in files
    finally:
        executor.close()
    assert eventually(lambda: not folder_of(executor.key).exists())
    assert not list(folder_of("x").parent.glob(f".{PREFIX}{executor.key}*"))


def test_close_leaves_no_process(cluster, executor):
    executor.submit(request(1, "hang with a grandchild"))
    executor.submit(request(2, "hang"))
    assert eventually(lambda: executor.finished(0.1) == [] and len(workers()) == 3)
    executor.close()
    assert eventually(lambda: not workers())


def test_another_version_on_the_nodes_is_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "__version__", "0.0.9")
    executor = RayExecutor(place_of(cluster, tmp_path), worker="standin_trials")
    try:
        executor.submit(request(1))
        with pytest.raises(SearchError, match=r"expected compression-gate 0\.0\.9, as the search's, got "):
            answers_of(executor, 1)
    finally:
        executor.close()


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1:1", "ConnectionRefusedError"), ("nowhere", "no port")])
def test_an_address_without_a_cluster_is_told(tmp_path, address, said):
    with pytest.raises(SearchError, match=rf"search\.address: expected a Ray cluster at '{address}', got .*{said}"):
        RayExecutor(Place(suite=tmp_path, folder=tmp_path, address=address))
