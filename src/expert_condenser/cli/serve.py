"""`condenser serve`: `transformers serve` for a tuned model, without code from the checkpoint."""

from expert_condenser.errors import UsageError

_HELP = """usage: condenser serve MODEL [options of transformers serve]

An OpenAI-compatible server of a tuned model: transformers serve, in a process that knows its type. MODEL is its
directory, such as RUN/model, or its hub name. Whatever follows goes to the server, such as --port 8000 --device cuda;
`transformers serve --help` has it all.
"""


def run(words: list[str]) -> None:
    """Serve the model until the server is stopped."""
    if not words or {"-h", "--help"} & set(words):
        print(_HELP, end="")
        return
    model, *options = words[1:] if words[0] == "--model" else words
    if model.startswith("-"):
        raise UsageError(f"the model comes first: condenser serve MODEL [options]; got {model!r}")
    from expert_condenser.export.serve import serve  # takes seconds to import

    serve(model, options)
