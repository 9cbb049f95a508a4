"""The parser of every command but `train`: one name per thing, and a wrong flag is named first."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from expert_condenser.cli.console import DEFAULT, LEVELS
from expert_condenser.errors import UsageError
from expert_condenser.files import local_path
from expert_condenser.names import HINTS, canonical, unknown


def at_least(least: int, text: str) -> int:
    """A whole number from `least` on, `1e9` too; of a partial of it, argparse says what was wrong with which flag."""
    try:
        value = int(text)
    except ValueError:
        number = _float(text)
        if not number.is_integer():  # nor is nan, or one that is infinite
            raise argparse.ArgumentTypeError(f"a whole number; got {text!r}") from None
        value = int(number)
    if value < least:
        raise argparse.ArgumentTypeError(f"at least {least}; got {value}")
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def seed(text: str) -> int:
    """A whole number that torch, numpy and Python take as a seed."""
    value = at_least(0, text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"below 2**32, as numpy's seeds; got {value}")
    return value


SHARED: dict[str, dict[str, Any]] = {
    "model": {"help": "a directory, a hub name, or 'testbed', the embedded model"},
    "data": {"help": "a hub name, a file, a directory, or testbed:FAMILY[:COUNT]"},
    "split": {"help": "split of a hub data set or directory"},
    "output_dir": {"type": Path, "metavar": "DIR", "help": "the folder that results go to"},
    "out": {"type": Path, "metavar": "FILE", "help": "the file that the result goes to"},
    "limit": {"type": int, "metavar": "N", "help": "the first N only"},
    "seed": {"type": seed, "metavar": "N", "help": "of all that is random"},
    "json": {"nargs": "?", "const": "-", "metavar": "FILE", "help": "JSON, to a file or else to stdout"},
    "device": {"help": "cpu, cuda, ...; default: the accelerator where there is one"},
}
"""What several commands take: the same name and meaning everywhere."""


def _at_home(value: Any) -> Any:
    """A path of the command line, or a name that may be one, with `~` as the home directory."""
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    if isinstance(value, Path):
        return local_path(value)
    return str(local_path(value)) if isinstance(value, str) and value.startswith("~") else value


positive = partial(at_least, 1)


class Parser(argparse.ArgumentParser):
    """`-` and `_` are the same in a flag, old names work, and nothing is abbreviated."""

    def __init__(self, command: str, description: str, aliases: Mapping[str, str] | None = None) -> None:
        """`aliases` are old names of this command alone, beside those of `names.ALIASES`."""
        self.known = ["help"]
        self.aliases = dict(aliases or {})
        super().__init__(prog=f"condenser {command}", description=description, allow_abbrev=False)
        # Here for the help alone: `main` takes it out of the words before any command is imported.
        self.add_argument("--verbosity", choices=list(LEVELS), default=DEFAULT, help="what is logged, on stderr")

    def add_argument(self, *names: str, **options: Any) -> Any:
        """As in argparse; flags are noted, so that a wrong one can be named."""
        self.known += [name.lstrip("-") for name in names if name.startswith("--") and name != "--help"]
        return super().add_argument(*names, **options)

    def shared(self, name: str, **changes: Any) -> None:
        """Add a flag of `SHARED`; `changes` say what is special here."""
        self.add_argument(f"--{name}", **{**SHARED[name], **changes})

    def read(self, words: list[str]) -> argparse.Namespace:
        """The options; raises `UsageError` on a wrong flag before anything else is complained about."""
        found = self.parse_args([self._canonical(word) for word in words])
        for name, value in vars(found).items():
            setattr(found, name, _at_home(value))
        return found

    def _canonical(self, word: str) -> str:
        if not word.startswith("--") or len(word) == 2:
            return word
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_")
        name = self.aliases.get(name, name)
        name = name if name in self.known else canonical(name)
        if name not in self.known:
            hint = HINTS.get(name)
            raise UsageError(f"{flag} is not a flag here: {hint}" if hint else unknown("flag", name, self.known))
        return f"--{name}{equals}{value}"

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, in place of printing the usage and leaving."""
        raise UsageError(f"{message}; see {self.prog} --help")
