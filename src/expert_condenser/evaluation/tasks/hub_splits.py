"""Which splits a data set on the hub has: asked before any of it, or of a model, is loaded."""

from datasets import get_dataset_split_names

from expert_condenser.data.readers import LOADING_ERRORS
from expert_condenser.errors import DataError
from expert_condenser.evaluation.tasks.task import Task


def check_split(task: Task, split: str) -> None:
    """Raise `DataError` where the task's data set has no such split; nothing where the hub cannot be asked.

    The split that stands for `test` is known to exist, and not asked for.
    """
    if task.hub is None or split == "test":
        return
    try:
        names = get_dataset_split_names(task.hub.name, task.hub.config, revision=task.hub.revision)
    except LOADING_ERRORS:
        return  # without a network: loading finds the set in the cache, or says what is wrong
    if names and split not in names:
        raise DataError(
            f"the splits of {task.hub.name}, the data set of {task.name}, are {', '.join(names)}; got {split!r}. "
            "Name one of them, or a file"
        )
