"""`ray`: workers as actors of a Ray cluster, each with a watched process on its node.

Nodes see the search's folder, or are sent what trials read. A node that is lost takes its trials with it: they are
carried out again elsewhere, and after :data:`RETRIES` of these they are given up, since a trial may be what ends nodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil
import ray
from ray.exceptions import RayError, RayTaskError

from compression_gate import __version__
from compression_gate.errors import SearchError
from compression_gate.measurers.machine import usable_cores
from compression_gate.records.base import write_text
from compression_gate.records.trial import Answer, Request
from compression_gate.search.executors.base import Place
from compression_gate.search.executors.local import FIRST_GUESS_BYTES, SPARE_SHARE, WORKER, usable_bytes
from compression_gate.search.executors.package import packed
from compression_gate.search.executors.station import MARK, Station

log = logging.getLogger("compression_gate")
RETRIES = 3
FAILED_STARTS = 3  # one after the other: the next would fail too
GRACE_S = 60.0  # beyond a trial's time limit, which its own node watches over
COUNT_S = 2.0  # for how long the number of the cluster's processors is believed
REACH_S = 10.0


@dataclass(kw_only=True)
class Job:
    """A trial to be carried out, and how many workers it has lost."""

    request: Request
    lost: int = 0


@dataclass(kw_only=True)
class Post:
    """An actor, and what is awaited of it.

    Args:
        open: whether it is ready for trials.
        awaited: the reference of what it is at; None while it waits for a trial.
    """

    actor: Any
    awaited: Any = None
    open: bool = False
    job: Job | None = None
    since: float = 0.0


class RayExecutor:
    """Actors that are started when they are needed, and kept.

    Args:
        worker: the module that their processes run.
    """

    def __init__(self, place: Place, worker: str = WORKER) -> None:
        self.place = dataclasses.replace(place, suite=place.suite.resolve(), folder=place.folder.resolve())
        self.worker, self.key = worker, secrets.token_hex(8)
        self.waiting: deque[Job] = deque()
        self.posts: list[Post] = []
        self.failed_starts = 0
        self.archive: Any = None
        self.counted = (0.0, 0)
        write_text(place.folder / MARK, self.key)
        connect(place)
        remote: Any = ray.remote(Station)
        self.kind = remote.options(num_cpus=1, memory=place.memory_bytes, max_restarts=0, scheduling_strategy="SPREAD")

    @property
    def wanted(self) -> int:
        """How many workers there are to be: one a processor of the cluster, which may grow and shrink."""
        if self.place.workers is not None:
            return self.place.workers
        at, count = self.counted
        if time.monotonic() - at > COUNT_S:
            count = max(1, int(ray.cluster_resources().get("CPU", 0)))
            self.counted = (time.monotonic(), count)
        return count

    @property
    def free(self) -> int:
        """How many more requests would be begun at once, as soon as the actors are there."""
        busy = sum(post.job is not None for post in self.posts)
        return max(0, self.wanted - busy - len(self.waiting))

    def submit(self, request: Request) -> None:
        """Put a trial in line, and begin it if an actor is free."""
        self.waiting.append(Job(request=request))
        self.begin_waiting()

    def begin_waiting(self) -> None:
        """Hand waiting trials to actors, and have as many actors as there is work for."""
        for post in self.posts:
            if self.waiting and post.open and post.job is None:
                post.job, post.since = self.waiting.popleft(), time.monotonic()
                post.awaited = post.actor.carry_out.remote(post.job.request)
        starting = sum(not post.open for post in self.posts)
        for _ in range(min(self.wanted - len(self.posts), len(self.waiting) - starting)):
            actor = self.kind.remote(self.place, self.key, self.worker)
            self.posts.append(Post(actor=actor, awaited=actor.opened.remote(__version__, None)))

    def finished(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """Wait for answers; see the contract."""
        until = time.monotonic() + timeout_s
        while True:
            awaited = {post.awaited: post for post in self.posts if post.awaited is not None}
            found: list[tuple[int, Answer]] = []
            if awaited:
                patience = max(0.0, until - time.monotonic())
                ray.wait(list(awaited), num_returns=1, timeout=patience)
                ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
                found = [answered for ref in ready if (answered := self.heard(awaited[ref])) is not None]
            found += self.silent()
            self.begin_waiting()
            if found or not awaited or time.monotonic() >= until:
                return found

    def heard(self, post: Post) -> tuple[int, Answer] | None:
        """Take in what an actor has said: that it is open, an answer, or that it is lost."""
        job = post.job
        try:
            said = ray.get(post.awaited)
        except RayTaskError as error:
            self.dismiss(post)
            if job is not None:
                return job.request.number, Answer(reason=f"crashed: {error.cause}"[:2000])
            self.note_failed_start(str(error.cause))
            return None
        except RayError as error:
            self.dismiss(post)
            return self.lost(job, str(error))
        if job is not None:
            post.job = post.awaited = None
            return job.request.number, said
        self.opened(post, seen=said)
        return None

    def opened(self, post: Post, *, seen: bool) -> None:
        """Note that an actor is open, or send it what it does not see."""
        self.failed_starts = 0
        if seen:
            post.open, post.awaited = True, None
            return
        if self.archive is None:
            self.archive = ray.put(packed(self.place))
        post.awaited = post.actor.opened.remote(__version__, self.archive)

    def lost(self, job: Job | None, reason: str) -> tuple[int, Answer] | None:
        """Have the trial of a lost actor carried out again, or give it up."""
        first = reason.strip().partition("\n")[0]
        if job is None:
            self.note_failed_start(reason)
            return None
        job.lost += 1
        if job.lost > RETRIES:
            reason = f"lost: {job.lost} workers or their nodes ended while they were at it: {first}"
            return job.request.number, Answer(reason=reason[:2000])
        log.warning("search: trial %d: its worker or node was lost (%s): once more", job.request.number, first)
        self.waiting.appendleft(job)
        return None

    def note_failed_start(self, reason: str) -> None:
        """Count an actor that never opened.

        Raises:
            SearchError: there were too many of these, and no other works.
        """
        self.failed_starts += 1
        if self.failed_starts >= FAILED_STARTS and not any(post.open for post in self.posts):
            raise SearchError(
                f"search: expected workers on the Ray cluster, got {self.failed_starts} that end: {reason}"
            )

    def silent(self) -> list[tuple[int, Answer]]:
        """Give up trials of which their own node should have said long ago that they take too long."""
        most = self.place.timeout_s + GRACE_S
        found = []
        for post in list(self.posts):
            if post.job is not None and time.monotonic() - post.since > most:
                reason = f"hangs: its node said nothing within {most:g} s"
                found.append((post.job.request.number, Answer(reason=reason, seconds=most)))
                self.dismiss(post)
        return found

    def dismiss(self, post: Post) -> None:
        """End an actor; its process notices, and ends with all that it started."""
        self.posts.remove(post)
        with contextlib.suppress(RayError):
            ray.kill(post.actor)

    def close(self) -> None:
        """End all actors, each of which takes what was sent along, and leave the cluster; one that began here ends."""
        self.waiting.clear()
        for post in list(self.posts):
            self.dismiss(post)
        (self.place.folder / MARK).unlink(missing_ok=True)
        ray.shutdown()


def connect(place: Place) -> None:
    """Join the cluster of the params or of the environment, or start one of this machine's cores.

    Raises:
        SearchError: there is none at that address, or it does not fit.
    """
    address = place.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # one's own cluster reports to nobody
        room = min(psutil.virtual_memory().available, usable_bytes()) * SPARE_SHARE
        cores = place.workers or min(usable_cores(), max(1, int(room // FIRST_GUESS_BYTES)))
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        return
    try:
        reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SearchError(
            f"params.yaml: search.address: expected a Ray cluster at {address!r}, got {type(error).__name__}: {error}: "
            "start one there (`ray start --head`), or leave the address and RAY_ADDRESS out"
        ) from error


def reach(address: str) -> None:
    """Make sure that somebody listens at an address: Ray itself asks for minutes.

    Raises:
        OSError: nobody does.
        ValueError: there is no port in it.
    """
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if parts.port is None:
        raise ValueError("no port: expected host:port, ray://host:port or auto")
    with socket.create_connection((parts.hostname, parts.port), timeout=REACH_S):
        pass
