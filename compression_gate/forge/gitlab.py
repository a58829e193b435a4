"""GitLab: one note a suite on the merge request, edited in place. What fails is told, and changes nothing."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests

from compression_gate.forge.disarming import APART, line
from compression_gate.forge.message import Message
from compression_gate.records.upload import Posted

TOKENS = ("COMPRESSION_GATE_GITLAB_TOKEN", "GITLAB_TOKEN")
WAITS_S = (1.0, 4.0)
LONGEST_WAIT_S = 30.0
TIMEOUT_S = 15
PER_PAGE = 100
NO_TOKEN = f"no token: set {TOKENS[0]} to a project access token with the scope api (CI_JOB_TOKEN may not write notes)"


class NoteError(Exception):
    """The API refused or failed; ``again`` says whether to try once more."""

    def __init__(self, reason: str, *, again: bool, wait_s: float = 0.0) -> None:
        self.again, self.wait_s = again, wait_s
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class Notes:
    """The notes of one merge request. ``url`` is their address; ``user`` that of whoever the token is of."""

    url: str
    user: str
    token: str

    def write(self, message: Message, *, fresh: bool) -> str:
        """Write or edit the suite's note; returns what became of it."""
        text = unquick(message.comment)
        me = self.call("GET", self.user)[0]["id"]
        mine = (note for note in self.all() if note.get("author", {}).get("id") == me)
        found = next((note for note in mine if str(note.get("body")).startswith(message.marker)), None)
        if found is None:
            if not fresh:
                return "left out"
            self.call("POST", self.url, {"body": text})
            return "created"
        if str(found["body"]).rstrip() == text.rstrip():
            return "unchanged"
        self.call("PUT", f"{self.url}/{found['id']}", {"body": text})
        return "edited"

    def all(self) -> Iterator[dict[str, Any]]:
        """Every note, oldest first."""
        page = "1"
        while page:
            address = f"{self.url}?per_page={PER_PAGE}&sort=asc&page={page}"
            found, headers = self.call("GET", address)
            yield from found
            page = headers.get("x-next-page", "")

    def call(self, verb: str, address: str, body: dict[str, str] | None = None) -> tuple[Any, dict[str, str]]:
        """One request; the reply and its headers.

        Raises:
            NoteError: anything but a success.
        """
        headers = {"PRIVATE-TOKEN": self.token}
        try:
            # A redirect would carry the token elsewhere.
            reply = requests.request(
                verb, address, json=body, headers=headers, timeout=TIMEOUT_S, allow_redirects=False
            )
            if reply.status_code // 100 == 2:
                return reply.json(), {key.lower(): value for key, value in reply.headers.items()}
        except (requests.RequestException, ValueError) as error:
            raise NoteError(f"no answer ({type(error).__name__})", again=True) from error
        wait = reply.headers.get("Retry-After", "0")
        raise NoteError(
            f"{reply.status_code} {line(reply.reason or '', 80)}",
            again=reply.status_code in (404, 409, 422, 429) or reply.status_code >= 500,
            wait_s=float(wait) if wait.isdigit() else 0.0,
        )


def post(message: Message, *, dry: bool, fresh: bool) -> Posted:
    """Write the suite's note, or say why there is none."""
    done = Posted(
        suite=message.suite,
        status=message.status,
        exit_code=message.exit_code,
        comment="left out: dry run",
        check_run="left out: GitLab has none",
        sent={"note": unquick(message.comment)} if dry else {},
    )
    if dry:
        return done
    notes = notes_here()
    if isinstance(notes, str):
        return done.model_copy(update={"comment": f"left out: {notes}"})
    for wait in (*WAITS_S, None):
        try:
            return done.model_copy(update={"comment": notes.write(message, fresh=fresh)})
        except NoteError as error:
            reason = str(error)
            needed = max(wait or 0.0, error.wait_s)
            if not error.again or wait is None or needed > LONGEST_WAIT_S:
                break
            time.sleep(needed)
        except Exception as error:  # noqa: BLE001  # an answer that makes no sense is the API's fault, whatever it breaks
            reason = f"an answer that cannot be read ({type(error).__name__})"
            break
    warning = f"the note could not be written: {reason}: the verdict does not depend on it; {advice(reason)}"
    return done.model_copy(update={"comment": "failed", "warnings": (warning,)})


def notes_here() -> Notes | str:
    """The notes of this job's merge request, or why there are none to write."""
    api, project, number = (
        os.environ.get(f"CI_{name}", "") for name in ("API_V4_URL", "PROJECT_ID", "MERGE_REQUEST_IID")
    )
    token = next((found for name in TOKENS if (found := os.environ.get(name))), None)
    if not number.isdigit() or not project.isdigit() or not api:
        return "no merge request: its notes are written by pipelines of merge_request_event"
    if token is None:
        return NO_TOKEN
    return Notes(url=f"{api}/projects/{project}/merge_requests/{number}/notes", user=f"{api}/user", token=token)


def advice(reason: str) -> str:
    """What to do about a refusal."""
    return NO_TOKEN if reason[:3] in ("401", "403") else "run the job again to write it"


def unquick(text: str) -> str:
    """A note none of whose lines GitLab takes for a quick action, such as `/merge`."""
    return re.sub(r"^(\s*)/", rf"\1{APART}/", text, flags=re.MULTILINE)


def commit() -> str | None:
    """The commit that this pipeline judges."""
    return os.environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or os.environ.get("CI_COMMIT_SHA") or None


def job_url() -> str | None:
    """The address of this job."""
    return os.environ.get("CI_JOB_URL") or None
