"""What every part of `params.yaml` is made of."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the params: frozen, and no key unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def dotted(value: str) -> str:
    """Accept ``package.module:name`` only."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", value):
        raise ValueError("expected a dotted path like 'package.module:name'")
    return value


DottedPath = Annotated[str, AfterValidator(dotted)]
