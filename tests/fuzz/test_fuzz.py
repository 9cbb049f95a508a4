"""No file makes a reader do anything but read it or say, with an error of ours, what is wrong with it.

`make fuzz N=10000` tries so many files; the suite tries 500, the same ones every time.
"""

import os
import shutil
import signal
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from expert_condenser.errors import ExpertCondenserError
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import READERS

EXAMPLES = int(os.environ.get("FUZZ", "500"))
SECONDS = 1.0
"""Of the processor, for one file."""


class TooSlow(BaseException):
    """A reader took longer; no `except Exception` catches it."""


@contextmanager
def at_most(seconds):
    """Raise `TooSlow` where the block computes for longer."""

    def stop(number, frame):
        raise TooSlow(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def tried(reader, folder):
    """What is wrong with a reading; None where it was read, or refused by an error that can be printed."""
    try:
        with at_most(SECONDS):
            reader.read(folder)
    except ExpertCondenserError as error:
        message = str(error)
        return None if 0 < len(message) < 5_000 else f"a message of {len(message)} characters"
    except (Exception, SystemExit, TooSlow) as error:
        return error
    return None


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_any_file(name, tmp_path, monkeypatch):
    reader = READERS[name]
    valid, folder = tmp_path / "valid", tmp_path / "folder"
    valid.mkdir()
    reader.make(valid)
    content = (valid / reader.file).read_bytes()
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    reader.read(shutil.copytree(valid, folder))  # control: as it was made, it is read

    @settings(
        max_examples=max(1, int(EXAMPLES * reader.share / len(READERS))),
        derandomize="FUZZ" not in os.environ,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def attempt(draw):
        shutil.rmtree(folder)
        shutil.copytree(valid, folder)
        damage = mutated(draw, reader.file, content)
        (folder / reader.file).write_bytes(damage)
        os.environ.update(environment)
        found = tried(reader, folder)
        if found is not None:
            (tmp_path / "found").write_bytes(damage)
            raise AssertionError(f"{name}: {found!r} on {damage[:300]!r}") from (
                found if isinstance(found, BaseException) else None
            )
        assert not (tmp_path / "owned").exists()

    attempt()
