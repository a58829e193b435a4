"""What a runtime is: how a model becomes a file, and how that file is loaded and called."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import nn

from compression_gate.tasks.calling import Inputs

Arrays = dict[str, np.ndarray]


class Session(Protocol):
    """A loaded file, ready to be called; inputs by the names of :func:`tasks.calling.named`."""

    def __call__(self, inputs: Arrays) -> np.ndarray:
        """Return the output ``(N, …)`` as float32."""


class Runtime(Protocol):
    """Three members; evaluate and benchmark know nothing else.

    ``file_name`` is the file it writes into an artifact's folder. The explicit quantization of
    ``modules.quantized`` is lowered to the runtime's own form by ``export``.
    """

    file_name: ClassVar[str]

    def export(self, model: nn.Module, inputs: Inputs, path: Path, dynamic: dict[str, dict[int, str]]) -> None:
        """Write ``model`` to ``path``, batch axis free, the axes of ``dynamic`` too; same model, same bytes.

        Raises:
            ExportError: the runtime cannot hold it.
        """

    def load(self, path: Path, threads: int) -> Session:
        """Open a file written by ``export``.

        A runtime imports its libraries where its own module is imported, as far as it can: load time is the file's.

        Raises:
            ExportError: the file is damaged or of a newer kind.
        """


@runtime_checkable
class Preloading(Protocol):
    """A runtime whose files can be read before a fork: what takes seconds is done once, and ``load`` is quick then.

    Neither a model's weights in their final place nor a thread may come of it: each fork makes those of its own.
    """

    def preload(self, path: Path) -> None:
        """Read a file that ``load`` will be asked for.

        Raises:
            ExportError: the file is damaged or of a newer kind.
        """
