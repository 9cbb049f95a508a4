"""`condenser train --accelerate_config fsdp2 [--num_processes 8]`: one command that starts all processes of a run.

It is `accelerate launch` with a packaged file, or with the user's own. Within processes that another launcher has
started (`accelerate launch`, `torchrun`, `srun`) there is nothing to start.
"""

import os
import signal
import threading
import time
from typing import NamedTuple

import torch

from expert_condenser.errors import TrainingError
from expert_condenser.names import canonical
from expert_condenser.ownership import start_of
from expert_condenser.training.engines import config_file, expert_parallel

ENGINE, PROCESSES = "accelerate_config", "num_processes"
"""The two options; a recipe's file may have them too, where only the process that launches reads them."""
LAUNCHED = "LOCAL_RANK"
"""What every launcher sets in the environment of its processes."""

SAVING = 300
"""Seconds that processes have to save and end in, once the launcher was told to stop; torch's own 30 are too few."""
_PATIENCE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Where torch's launcher reads that from."""
_LAUNCHER = "EXPERT_CONDENSER_LAUNCHER"
"""In the environment of every process: the launcher's id and when it started."""
_LOOK = 1.0
"""Seconds between two looks at it."""


class Launch(NamedTuple):
    """What is to be started."""

    engine: str
    processes: int
    words: list[str]
    """The words of the command without the two options."""


def launch_of(words: list[str], written: dict[str, object]) -> Launch | None:
    """What the words, over the options that a recipe's file has, ask to start; None for one process, this one.

    Raises `TrainingError` where an option is wrong, the other is missing, or a launcher has started this process.
    """
    flags, rest = _taken(words)
    asked = {**{name: written[name] for name in (ENGINE, PROCESSES) if name in written}, **flags}
    if os.environ.get(LAUNCHED) is not None:
        if flags:
            raise TrainingError(
                f"--{next(iter(flags))} starts processes, and this one was started by a launcher; leave it out there"
            )
        return None
    if not asked:
        return None
    if ENGINE not in asked:
        raise TrainingError(
            f"{PROCESSES} is of {ENGINE}, which says how they share the work; set it too: ddp, fsdp2, …"
        )
    engine = str(asked[ENGINE])
    config_file(engine)
    return Launch(engine, _processes(asked.get(PROCESSES)), rest)


def start(launch: Launch, command: str) -> None:
    """Run `condenser COMMAND` in all processes, and wait for them; raises `SystemExit` with their status.

    The status is of the process that failed first, which has said why: torch's own report of it says no more. A signal
    is passed on to all of them, which save; the status is what they would end with.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = ["--config_file", str(config_file(launch.engine)), "--num_processes", str(launch.processes)]
    program = ["--module", "expert_condenser.cli", command, *launch.words]
    if launch.engine == expert_parallel.EP:
        os.environ[expert_parallel.VARIABLE] = expert_parallel.EP  # the launcher hands it on
    os.environ.setdefault(_PATIENCE, str(SAVING))
    os.environ[_LAUNCHER] = f"{os.getpid()} {start_of(os.getpid())}"
    try:
        launch_command(launch_command_parser().parse_args([*options, *program]))
    except SignalException as signalled:
        raise SystemExit(128 + signalled.sigval) from None
    except (ValueError, TypeError) as error:  # of the launch file's options, before anything is started
        reason = " ".join(str(error).split())
        raise TrainingError(f"accelerate starts no process by {config_file(launch.engine)}: {reason}") from error
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        # A process that a signal ended has its number, negative; a shell says 128 and the number.
        raise SystemExit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode) from None


def end_with_launcher() -> None:
    """In a process that `start` made: end it when the launcher is gone, however that ended.

    Nobody else would know of it, and a second start would meet it in the folder. It saves, as on any SIGTERM.
    """
    pid, _, started = os.environ.get(_LAUNCHER, "").partition(" ")
    if not started:
        return

    def watch() -> None:
        while start_of(int(pid)) == started:
            time.sleep(_LOOK)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SAVING)
        os.kill(os.getpid(), signal.SIGKILL)  # it waits for a process that did not get that far

    threading.Thread(target=watch, daemon=True).start()


def _taken(words: list[str]) -> tuple[dict[str, object], list[str]]:
    """The two options among the words, and the others."""
    found: dict[str, object] = {}
    rest, left = [], iter(words)
    for word in left:
        flag, equals, value = word.partition("=")
        name = canonical(flag) if flag.startswith("--") else ""
        if name in (ENGINE, PROCESSES):
            found[name] = value if equals else next(left, "")
        else:
            rest.append(word)
    return found, rest


def _processes(asked: object) -> int:
    number = torch.accelerator.device_count() if asked is None else asked
    if not str(number).isdigit() or int(str(number)) < 1:
        got = "this machine has no accelerator to count" if asked is None else f"got {asked!r}"
        raise TrainingError(f"{PROCESSES} is a number of processes, by default one for each accelerator; {got}; set it")
    return int(str(number))
