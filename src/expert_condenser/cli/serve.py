"""`condenser serve`: `transformers serve` for a tuned model, without code from the checkpoint."""

from expert_condenser.cli.parsing import Parser, positive
from expert_condenser.errors import UsageError

_OWN = ("host", "port", "device", "dtype")


def run(words: list[str]) -> None:
    """Serve the model until the server is stopped."""
    cut = words.index("--") if "--" in words else len(words)
    own, of_server = words[:cut], words[cut + 1 :]
    parser = Parser("serve", "An OpenAI-compatible server of a tuned model: transformers serve, which knows its type.")
    parser.add_argument("name", metavar="MODEL", nargs="?", help="the same as --model")
    parser.shared("model", help="a run's folder, or directory of the tuned model, such as RUN/model, or its hub name")
    parser.add_argument("--host", help="address to listen on (localhost)")
    parser.add_argument("--port", type=positive, metavar="N", help="port to listen on (8000)")
    parser.shared("device")
    parser.add_argument("--dtype", help="of the weights; default: that of the checkpoint")
    parser.epilog = "What follows a -- goes to the server as it is; `transformers serve --help` has its options."
    options = parser.read(own)
    model = options.model or options.name
    if model is None or (options.model and options.name):
        raise UsageError("one model is served: condenser serve MODEL [options]")
    given = [(name, getattr(options, name)) for name in _OWN if getattr(options, name) is not None]
    from expert_condenser.export.serve import serve  # takes seconds to import

    serve(model, [*(word for name, value in given for word in (f"--{name}", str(value))), *of_server])
