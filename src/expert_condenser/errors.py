"""The errors a user can cause. Each message states the rule, what was got, and what to do."""

_LONGEST = 4_000


class ExpertCondenserError(ValueError):
    """Base of all errors below: the command line prints the message alone, without a traceback."""

    def __str__(self) -> str:
        text = super().__str__()  # a message repeats what a file has, and a file may have anything
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … and {len(text) - _LONGEST:,} characters more"


class RoutingError(ExpertCondenserError):
    """A routing option, a bias or a set of condensers that breaks a rule of the method."""


class UnsupportedModelError(ExpertCondenserError):
    """A model without MoE layers, or of a family whose routing this library does not know."""


class CheckpointError(ExpertCondenserError):
    """A checkpoint that is incomplete, damaged, or of another run."""


class DataError(ExpertCondenserError):
    """A data set that is missing, empty, or of an unknown format."""


class TrainingError(ExpertCondenserError):
    """A training option that breaks a rule, or a run that must stop (a loss that is not finite)."""


class FailedRunError(TrainingError):
    """A run, or a study, that began and cannot go on: the command ends with status 1, that of a wrong request is 2."""


class StorageError(FailedRunError):
    """A file that could not be written, since the disk is full or takes no writing; what was there is as it was."""


class FolderError(TrainingError):
    """A folder that a command may not work in or clear: another process does, it is not its own, or an input."""


class UsageError(ExpertCondenserError):
    """A command line that cannot be read."""


class BenchmarkError(ExpertCondenserError):
    """A benchmark that cannot run as asked."""


class EvaluationError(ExpertCondenserError):
    """An evaluation, a comparison or a study that cannot be done as asked."""


class ExportError(ExpertCondenserError):
    """A model that cannot be exported exactly, or not as asked."""


class PlanError(ExpertCondenserError):
    """A training cannot be planned as asked."""


class AnalysisError(ExpertCondenserError):
    """An analysis that cannot be made as asked: of models that do not belong together, or of a file that is another."""


class SurgeryError(ExpertCondenserError):
    """A model that cannot be pruned or upcycled as asked."""
