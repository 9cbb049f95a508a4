"""`condenser score`: which experts a task uses, and the `expert_cfg.json` that ESFT trains from it."""

import argparse
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from expert_condenser.cli.console import progress, put_json, quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser
from expert_condenser.errors import TrainingError


def run(words: list[str]) -> None:
    """Score the experts of a model on data, print the chosen ones, and write them down."""
    options = _read(words)
    # Once the words are right: what computes takes seconds to import.
    import torch

    from expert_condenser.checkpoint.load import load_model, load_tokenizer, resolve_model
    from expert_condenser.methods.esft import EsftConfig, EsftGate, EsftToken
    from expert_condenser.moe.layers import decoder_depth, decoder_of, moe_layers
    from expert_condenser.training.calibrate import usage_on_rows

    quiet_libraries()
    kind = {"token": EsftToken, "gate": EsftGate}[options.score]
    fields = {name: getattr(options, name) for name in ("top_p", "shared_experts", "non_expert_modules")}
    method = kind(EsftConfig(**fields, score_rows=options.limit))
    path = resolve_model(options.model)
    tokenizer = load_tokenizer(path)
    dataset = _examples(options, path, tokenizer)
    model = load_model(path, options.dtype).to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    layers = moe_layers(model)
    with progress("rows", min(options.limit, len(dataset))) as advance:
        hook = decoder_of(model, layers).register_forward_hook(
            lambda module, args, kwargs, output: advance(len(kwargs["input_ids"])), with_kwargs=True
        )
        method.calibrate(usage_on_rows(model, tokenizer, dataset, options.limit, options.max_length))
        hook.remove()
    assert method.scores is not None
    chosen = method.choose(layers, method.scores)
    if options.json is not None:
        put_json(options.json, {"expert_config": chosen.experts, "scores": method.scores.tolist()})
    else:
        sizes = {str(decoder_depth(layer)): layer.num_experts for layer in layers}
        Console().print(_table(chosen.experts, sizes, options))
    if options.out is not None:
        chosen.write(options.out)
        if options.json != "-":  # then stdout is JSON and nothing else
            say_result(options.out)


def _examples(options: argparse.Namespace, path: str, tokenizer: Any) -> Any:
    from expert_condenser.data.examples import Reading, build_examples  # once the words are right: datasets
    from expert_condenser.data.mixture import sources_of
    from expert_condenser.data.stops import stops_of_model

    reading = Reading(split=options.split, data_format=options.data_format)
    return build_examples(sources_of(options.data), tokenizer, stops_of_model(path, tokenizer), reading).dataset


def _table(chosen: Mapping[str, list[int]], sizes: Mapping[str, int], options: argparse.Namespace) -> Table:
    """A row per decoder layer: the experts that are chosen, of how many."""
    table = Table(title=f"Experts that reach {options.top_p:.0%} of the {options.score} score")
    for name in ("decoder layer", "experts", "share of all", "chosen, best first"):
        table.add_column(name)
    for depth, ids in chosen.items():
        table.add_row(depth, str(len(ids)), f"{len(ids) / sizes[depth]:.0%}", " ".join(map(str, ids)))
    return table


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("score", "Score the experts of a model on task data.", {"output": "out", "rows": "limit"})
    parser.shared("model", required=True)
    parser.shared("data", required=True)
    parser.shared("split", default="train")
    parser.add_argument("--data_format", default="auto", help="format of the rows; auto goes by their columns")
    parser.shared("limit", default=128, help="rows to score on")
    parser.add_argument("--score", choices=("token", "gate"), default="gate", help="share of selections, or of weights")
    parser.add_argument("--top_p", type=float, default=0.2, help="choose the smallest set of experts with this score")
    parser.add_argument("--max_length", type=int, default=1024, help="cut rows at this many tokens")
    parser.add_argument("--shared_experts", action="store_true", help="also train the shared experts")
    parser.add_argument("--non_expert_modules", action="store_true", help="also train all that is no expert")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "auto"), default="float32")
    parser.shared("out", help="write expert_cfg.json here, for expert_config of a run")
    parser.shared("json", help="print or write JSON, with every score")
    options = parser.read(words)
    if options.max_length < 1:
        raise TrainingError(f"max_length is a number of tokens, at least 1; got {options.max_length}")
    if options.out is not None and not options.out.parent.is_dir():
        raise TrainingError(f"--out is written into a directory that exists; there is no {options.out.parent}")
    return options
