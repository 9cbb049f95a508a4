"""Single keys of a terminal, without Enter; where the system or the stdin has none, there are no keys."""

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

Keyboard = int | None
"""The handle that keys come from; None where there are none."""


@contextmanager
def reading_keys() -> Iterator[Keyboard]:
    """Within, keys come as they are pressed, and Ctrl-C works as ever; the terminal is as it was afterwards."""
    try:
        import termios
        import tty
    except ImportError:  # no such system
        yield None
        return
    try:
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (OSError, ValueError, termios.error):  # a pipe, a closed stdin
        yield None
        return
    try:
        tty.setcbreak(handle)
        yield handle
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def pressed_within(seconds: float, keyboard: Keyboard) -> str:
    """The key that is pressed within so many seconds; empty where none is."""
    if keyboard is None:
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([keyboard], [], [], seconds)
    # Past the buffer of sys.stdin, which would take more keys than one and hide them from `select`.
    return os.read(keyboard, 1).decode("ascii", errors="replace") if ready else ""
