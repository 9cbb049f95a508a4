"""`condenser score`: which experts a task uses, and the `expert_cfg.json` that ESFT trains from it."""

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from expert_condenser.checkpoint.load import load_model, load_tokenizer, resolve_model
from expert_condenser.data.rows import build_dataset
from expert_condenser.errors import TrainingError
from expert_condenser.methods import METHODS, MethodConfig
from expert_condenser.methods.esft import Esft
from expert_condenser.moe.layers import decoder_depth, moe_layers
from expert_condenser.training.calibrate import usage_on_rows


def score(arguments: list[str]) -> None:
    """Score the experts of a model on data, print the chosen ones, and write them down."""
    options = _parser().parse_args(arguments)
    if options.max_length < 1:
        raise TrainingError(f"max_length is a number of tokens, at least 1; got {options.max_length}")
    if options.output is not None and not options.output.parent.is_dir():
        raise TrainingError(f"--output is written into a directory that exists; there is no {options.output.parent}")
    fields = {name: getattr(options, name) for name in ("top_p", "shared_experts", "non_expert_modules")}
    method = METHODS[f"esft_{options.score}"](MethodConfig(**fields, score_rows=options.rows))
    assert isinstance(method, Esft)
    path = resolve_model(options.model_name_or_path)
    tokenizer = load_tokenizer(path)
    dataset = build_dataset(options.dataset, tokenizer, split=options.dataset_split, data_format=options.data_format)
    model = load_model(path, options.dtype).to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    layers = moe_layers(model)
    method.calibrate(usage_on_rows(model, tokenizer, dataset, options.rows, options.max_length))
    scores = method.scores
    assert scores is not None
    chosen = method.choose(layers, scores)
    if options.output is not None:
        chosen.write(options.output)
    if options.json:
        print(json.dumps({"expert_config": chosen.experts, "scores": scores.tolist()}))
        return
    table = Table(title=f"Experts that reach {options.top_p:.0%} of the {options.score} score")
    for name in ("decoder layer", "experts", "share of all", "chosen, best first"):
        table.add_column(name)
    for layer in layers:
        ids = chosen.experts[str(decoder_depth(layer))]
        table.add_row(
            str(decoder_depth(layer)), str(len(ids)), f"{len(ids) / layer.num_experts:.0%}", " ".join(map(str, ids))
        )
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="condenser score", description="Score the experts of a model on task data.")
    parser.add_argument(
        "--model_name_or_path", required=True, help="hub name or directory; 'testbed' is the embedded one"
    )
    parser.add_argument("--dataset", required=True, help="hub name, file, directory, or testbed:FAMILY[:COUNT]")
    parser.add_argument("--dataset_split", default="train")
    parser.add_argument("--data_format", default="auto")
    parser.add_argument("--score", choices=("token", "gate"), default="gate", help="share of selections, or of weights")
    parser.add_argument("--top_p", type=float, default=0.2, help="choose the smallest set of experts with this score")
    parser.add_argument("--rows", type=int, default=128, help="rows to score on")
    parser.add_argument("--max_length", type=int, default=1024, help="cut rows at this many tokens")
    parser.add_argument("--shared_experts", action="store_true", help="also train the shared experts")
    parser.add_argument("--non_expert_modules", action="store_true", help="also train all that is no expert")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "auto"), default="float32")
    parser.add_argument("--output", type=Path, help="write expert_cfg.json here, for --expert_config of a run")
    parser.add_argument("--json", action="store_true", help="print JSON, with every score")
    return parser
