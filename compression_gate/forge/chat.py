"""A chat: the verdict in two lines, through an incoming webhook of Slack's form. Only where somebody asked for it."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import requests

from compression_gate.forge.disarming import line
from compression_gate.forge.message import Message
from compression_gate.reporters.markdown import EMOJI

ADDRESS = "COMPRESSION_GATE_CHAT_WEBHOOK"
LONGEST = 2_900  # a block's text may have 3,000 characters
TIMEOUT_S = 15
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def payload(message: Message) -> dict[str, Any]:
    """What the chat is sent. Plain text: nothing in it is markup, a mention or a link but the address of the job."""
    first = f"{EMOJI[message.status]} {line(message.suite, 100)}: {line(message.headline, 500)}"
    blocks: list[dict[str, Any]] = [text_block(first), text_block(line(message.counts, 500))]
    if message.origin.run_url:
        link = f"<{message.origin.run_url}|job>"
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": link}]})
    return {"text": entities(first), "blocks": blocks}


def text_block(text: str) -> dict[str, Any]:
    """A block of plain text."""
    return {"type": "section", "text": {"type": "plain_text", "text": text[:LONGEST], "emoji": True}}


def entities(text: str) -> str:
    """Text for a notification, where three signs would begin a mention or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def post(message: Message, *, dry: bool) -> str | None:
    """Send; returns why it was not sent, or None. The address is a secret, and is in no message."""
    address = os.environ.get(ADDRESS, "")
    parts = urlsplit(address)
    if not address:
        return f"the chat was not told: set {ADDRESS} to the address of an incoming webhook"
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        return f"the chat was not told: {ADDRESS}: expected an https address, got another"
    if dry:
        return None
    try:
        reply = requests.post(address, json=payload(message), timeout=TIMEOUT_S, allow_redirects=False)
    except requests.RequestException as error:
        return f"the chat was not told: no answer ({type(error).__name__})"
    return None if reply.ok and not reply.is_redirect else f"the chat was not told: it answered {reply.status_code}"
