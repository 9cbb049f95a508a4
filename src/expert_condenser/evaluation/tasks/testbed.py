"""The testbed's families as tasks: made on the spot, and right if the text after `####` is, to the letter."""

from dataclasses import dataclass
from pathlib import Path

from expert_condenser.data.procedural.families import BY_NAME, Split, items
from expert_condenser.data.sources import TESTBED
from expert_condenser.errors import DataError
from expert_condenser.evaluation.answers import VERBATIM, final_answer
from expert_condenser.evaluation.tasks.task import Question, Task


@dataclass(frozen=True)
class FamilyTask(Task):
    """A family's held-out items, asked as training asks them."""

    def questions(self, data: Path | None, limit: int | None, split: str) -> list[Question]:
        """The first `limit` items of `test` or `validation`, all by default.

        Raises `DataError` on `data`, which it cannot use, on another split, on more items than are held out, and
        without reasoning-gym.
        """
        if data is not None:
            raise DataError(f"{self.name} is made on the spot, and reads no data; got {data}. Leave it out")
        splits: dict[str, Split] = {"test": "test", "validation": "validation"}
        if split not in splits:
            raise DataError(f"{self.name} is held out as {' and '.join(splits)}; got the split {split!r}")
        name = self.name.removeprefix(TESTBED)
        try:
            made = items(name, splits[split], BY_NAME[name].held_out if limit is None else limit)
        except (ValueError, ImportError) as error:
            raise DataError(f"{self.name}: {error}") from error
        return [
            Question(str(at), [{"role": "user", "content": item.question}], final_answer(item.answer), item.answer)
            for at, item in enumerate(made)
        ]


FAMILY_TASKS = {f"{TESTBED}{name}": FamilyTask(f"{TESTBED}{name}", None, (), VERBATIM, (), 64) for name in BY_NAME}
