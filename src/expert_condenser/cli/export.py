"""`condenser export`: a tuned model as a checkpoint that stock programs serve, exactly or not at all."""

import argparse
from pathlib import Path

from expert_condenser.cli.console import quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser


def run(words: list[str]) -> None:
    """Write the model in the target's format, load it again, and compare the logits."""
    options = _read(words)
    from expert_condenser.export.native import export_native  # takes seconds to import

    quiet_libraries()
    how = export_native(options.model, options.output_dir, options.dtype)
    print(f"exact: {how}; the logits of the exported model are the tuned one's, bit for bit")
    say_result(options.output_dir)


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("export", "A tuned model for programs that do not know this package, exactly or not at all.")
    parser.shared("model", required=True, help="directory of the tuned model, such as RUN/model")
    parser.add_argument("--to", choices=["native"], required=True, help="native: the family's own type")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the exported weights"
    )
    parser.add_argument("--output_dir", metavar="DIR", type=Path, required=True, help="a directory that is not there")
    return parser.read(words)
