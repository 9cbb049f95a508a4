"""The command `condenser`: finds a command in its table, runs it, and says in one message what was wrong.

Exit status: 0 done, 1 a run that began and failed, 2 a request that cannot be done as it stands, 130 interrupted, 141
nobody reads its output any more (`| head`).
"""

import errno
import gc
import os
import select
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from expert_condenser.cli.console import DEFAULT, shown_log, verbosity_of
from expert_condenser.cli.outputs import check_outputs
from expert_condenser.errors import ExpertCondenserError, FailedRunError
from expert_condenser.names import unknown

COMMANDS = {
    "train": "fine-tune a model: --config recipe.yaml [--name value ...]",
    "check": "what a recipe would train on, without weights: --config recipe.yaml [--json [FILE]]",
    "plan": "memory, time and cost of a training, from the config: --model M --method M --devices N --memory 80GB",
    "score": "score the experts of a model on task data, for ESFT: --model M --data D [--out FILE]",
    "interpolate": "a model between its base and the tuned one, WiSE-FT: --model M --base B --alpha A --output_dir DIR",
    "prune": "remove experts for good, condensers never: --model M --keep N --by usage --data D --output_dir DIR",
    "upcycle": "a MoE model from a dense one that computes the same: --model M --shards G --copies N --output_dir DIR",
    "export": "a tuned model for stock programs, exactly or not at all: --model M --to native | gguf --output_dir DIR",
    "serve": "an OpenAI-compatible server of a tuned model: MODEL [--port N] [-- options of transformers serve]",
    "card": "the card of a saved model, README.md: base, recipe, use, what was measured: DIR [--results FILE]",
    "push": "a saved model to the hub, when asked: DIR --repo_id OWNER/NAME [--dry_run]",
    "methods": "the methods, what they train and what they cost: [--json [FILE]]",
    "families": "the supported model families and their routing: [--json [FILE]]",
    "eval": "answer and score tasks with a model: --model M --tasks a,b [--data DIR] --output_dir DIR",
    "score-answers": "score a file of answers without a model: --task T --data FILE [--json [FILE]]",
    "compare": "which method won, with paired statistics over seeds and items: RUN RUN ... [--baseline sft]",
    "watch": "what the experts of a run do while it trains: RUN [--once] [--show bias] [--html FILE]",
    "analyze": "what experts do: usage | prune | ... --model BASE --tuned RUN ... --data D --output_dir DIR",
    "report": "runs, a comparison or a study as one page that needs no network: RUN ... --out report.html",
    "bench": "time and memory side by side: layer | train | generate [--shape S] [--arms A,B] [--json FILE]",
    "simulate": "routing of real usage on 8 to 512 ranks: imbalance, bytes, condensers: USAGE.json ... [--plot FILE]",
    "study": "a grid of methods, seeds and options on one base: FILE.yaml --output_dir DIR; tables DIR; best DIR",
    "demo": "fine-tune the embedded model by three methods, and compare: [--seeds N] [--output_dir DIR]",
    "testbed": "the embedded model: pretrain | long_tail --output_dir DIR, evaluate [--model DIR]",
}
"""Name -> what `condenser --help` says of it. A command is `run` in the module of its name, imported when it runs."""
_EXTRAS = {
    "lm_eval": "eval",
    "matplotlib": "plots",
    "plotly": "report",
    "reasoning_gym": "testbed",
    "scipy": "statistics",
    "submitit": "cluster",
    "tensorboard": "trackers",
}
"""Package that is not in every installation -> the extra that brings it."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    if words[:1] in (["-h"], ["--help"]):
        print(overview())
        return 0
    if words[:1] == ["--version"]:
        print(_version())
        return 0
    if not words:
        print(overview(), file=sys.stderr)
        return 2
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        print(f"condenser: {unknown('command', words[0], COMMANDS)}", file=sys.stderr)
        return 2
    return _run(name, words[1:])


def _imported(name: str) -> ModuleType:
    """The module. What an import makes is no garbage, and looking for some, now or later, takes a tenth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def _run(name: str, words: list[str]) -> int:
    level = DEFAULT
    try:
        level, words = verbosity_of(words)
        check_outputs(words)
        with shown_log(level):
            _imported(f"expert_condenser.cli.{name.replace('-', '_')}").run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        if _is_read():
            raise
        return 141
    except SystemExit as done:
        if done.code:
            raise
        return 0  # argparse, after it printed the help
    except KeyboardInterrupt:
        print(f"\ncondenser {name}: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"condenser {name} needs {error.name}: pip install 'expert-condenser[{extra}]'", file=sys.stderr)
        return 2
    except ExpertCondenserError as error:
        if level == "debug":
            traceback.print_exc()
        print(f"condenser {name}: {error}", file=sys.stderr)
        return 1 if isinstance(error, FailedRunError) else 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        # Every look at a path may say so, and what is that long was meant to be no path.
        print(f"condenser {name}: no file or folder can have such a name: {error!s:.300}", file=sys.stderr)
        return 2
    return 0


def _is_read() -> bool:
    """Whether standard output still has a reader; where not, what is left of it is thrown away, at exit as well."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # it is none of the system's files
        return True
    watched = select.poll()
    watched.register(number, 0)
    if not watched.poll(0):  # errors are reported unasked, and one of a pipe is that its other end is closed
        return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return False


def overview() -> str:
    """The commands, a line each."""
    rows = "\n".join(f"  {name:14} {summary}" for name, summary in COMMANDS.items())
    return (
        f"condenser COMMAND [options]\n\n{rows}\n\n"
        "condenser COMMAND --help has the options. Every command takes --verbosity error | warning | info | debug.\n"
        "condenser --version"
    )


def _version() -> str:
    from importlib.metadata import version

    return version("expert-condenser")


if __name__ == "__main__":
    sys.exit(main())
