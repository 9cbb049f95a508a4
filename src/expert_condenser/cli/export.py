"""`condenser export`: a tuned model as a checkpoint that stock programs serve, exactly or not at all."""

import argparse
from pathlib import Path

from expert_condenser.cli.console import quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser
from expert_condenser.errors import UsageError


def run(words: list[str]) -> None:
    """Write the model in the target's format, load it again, and compare the logits."""
    options = _read(words)
    from expert_condenser.checkpoint.load import resolve_model  # takes seconds to import

    options.model = resolve_model(options.model)
    if options.to == "gguf":
        _to_gguf(options)
    else:
        _to_native(options)
    say_result(options.output_dir)


def _to_native(options: argparse.Namespace) -> None:
    from expert_condenser.export.native import export_native  # as above

    if options.tokenizer_pre is not None:
        raise UsageError("--tokenizer_pre is of a GGUF file; leave it out, or export --to gguf")
    quiet_libraries()
    how = export_native(options.model, options.output_dir, options.dtype)
    print(f"exact: {how}; the logits of the exported model are the tuned one's, bit for bit")


def _to_gguf(options: argparse.Namespace) -> None:
    from expert_condenser.export.gguf_export import export_gguf  # as above

    quiet_libraries()
    how = export_gguf(options.model, options.output_dir, options.dtype, options.tokenizer_pre)
    print(f"exact: {how}; by llama.cpp's rule the file chooses the tuned model's experts, and weighs them alike")


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("export", "A tuned model for programs that do not know this package, exactly or not at all.")
    parser.shared("model", required=True, help="a run's folder, or directory of the tuned model, such as RUN/model")
    parser.add_argument(
        "--to",
        choices=["native", "gguf"],
        required=True,
        help="native: the family's own type; gguf: a file for llama.cpp (needs the extra gguf)",
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the exported weights"
    )
    parser.add_argument(
        "--tokenizer_pre",
        metavar="NAME",
        help="gguf: llama.cpp's name for how the tokenizer splits text, where it is not recognised",
    )
    parser.add_argument("--output_dir", metavar="DIR", type=Path, required=True, help="a directory that is not there")
    return parser.read(words)
