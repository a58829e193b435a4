"""Every error a user may see. Text says where, what was expected, what was got and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class CompressionGateError(Exception):
    """Something this package refuses or could not do; ``exit_code`` is what the command ends with."""

    exit_code = 4

    def locate(self, where: str) -> None:
        """Say in front of the text where it happened."""
        self.args = (f"{where}: {self}",)


class ParamsError(CompressionGateError):
    """A file the user wrote, or a command line, is wrong. Holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def locate(self, where: str) -> None:
        """Say in front of each problem where it was found."""
        self.problems = tuple(f"{where}: {problem}" for problem in self.problems)
        self.args = ("\n".join(self.problems),)


class UnknownPluginError(ParamsError):
    """A name that no table and no entry point knows."""


class MissingDependencyError(CompressionGateError):
    """A library of an extra that is not installed."""


class TaskError(CompressionGateError):
    """The user's model, data, loss or weights did not do what the contract of ``task`` says."""


class DataUnreachableError(TaskError):
    """The user's data could not be had: no network, no permission, no file. Another job may be able to."""


class DataError(CompressionGateError):
    """The data were read, and are not fit to be trained or judged on."""


class MetricsError(CompressionGateError):
    """A record of measurements is missing, damaged or not finite."""


class StaleError(CompressionGateError):
    """Files on disk are not the ones a record speaks of."""


class CompressionError(CompressionGateError):
    """A method cannot treat this model as asked."""


class CodecError(CompressionGateError):
    """A coded file is damaged, hostile, of another model or of a newer kind; or something cannot be coded."""


class ExportError(CompressionGateError):
    """A runtime cannot hold this model."""


class MeasurementError(CompressionGateError):
    """A measurement could not be taken or cannot be trusted."""


class SearchError(CompressionGateError):
    """The search cannot go on: its journal is damaged or of another search, or nothing can be carried out."""


class HistoryError(CompressionGateError):
    """The records of earlier runs cannot be read, written or exchanged with a remote."""


class UploadError(CompressionGateError):
    """What another job handed over is no report that may be posted: damaged, hostile, or of another version."""


class ReleaseError(CompressionGateError):
    """What may not be released, or an archive that is not what it says; ends with the code of the verdict."""

    def __init__(self, message: str, exit_code: int = 4) -> None:
        super().__init__(message)
        self.exit_code = exit_code
