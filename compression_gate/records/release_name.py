"""What a release may be called, and when two names mean the same one."""

from __future__ import annotations

import re

# Without a digit "never" would be one, and a waiver that ends with it would not end.
NAME = re.compile(r"(?=.*\d)[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
EXPECTED = "a name of letters, digits and . _ + -, with a digit in it (1.4.0)"


def bare(name: str) -> str:
    """The name without the ``v`` that tags begin with: ``v1.4.0`` and ``1.4.0`` are one release."""
    return re.sub(r"^[vV](?=\d)", "", name)
