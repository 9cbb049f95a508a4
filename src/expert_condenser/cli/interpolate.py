"""`condenser interpolate`: a model between its base and what was tuned from it (WiSE-FT), without training."""

import argparse
from pathlib import Path

from expert_condenser.cli.console import quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser
from expert_condenser.errors import UsageError


def run(words: list[str]) -> None:
    """Write the model at alpha on the way from the base to the tuned one."""
    options = _read(words)
    from expert_condenser.checkpoint.interpolate import save_interpolated  # takes seconds to import

    quiet_libraries()
    save_interpolated(options.base, options.model, options.alpha, options.output_dir)
    say_result(options.output_dir)


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("interpolate", "A model between a base and what was tuned from it (WiSE-FT), without training.")
    parser.shared("model", required=True, help="directory of the tuned model, such as RUN/model")
    parser.add_argument("--base", required=True, help="hub name or directory of its base; testbed is the embedded one")
    parser.add_argument("--alpha", type=float, required=True, help="share of the tuned model, such as 0.25, 0.5, 0.75")
    parser.add_argument("--output_dir", metavar="DIR", type=Path, required=True, help="a directory that is not there")
    options = parser.read(words)
    if not 0 <= options.alpha <= 1:
        raise UsageError(f"--alpha is the share of the tuned model, 0 to 1; got {options.alpha}")
    if options.output_dir.exists():
        raise UsageError(f"--output_dir is a directory that is not there yet; {options.output_dir} is")
    return options
