"""`condenser analyze WHAT`: what experts do and what they are for, as numbers (JSON, safetensors) and figures."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from expert_condenser.cli.parsing import Parser, at_least, positive, seed
from expert_condenser.errors import UsageError
from expert_condenser.names import unknown

SUMMARY = """condenser analyze WHAT --output_dir DIR [options]

  usage        activation rates and gate mass: --model BASE [--tuned RUN ...] --data D, or --usage FILE ...
  overlap      do two tasks or two models use the same experts: as usage, with --data D ...
  divergence   how far every layer's output is from the base's: --model BASE --tuned RUN ... --data D
  correlation  how alike experts are, condensers above all: --model BASE [--tuned RUN ...] --data D
  ablation     condensers on, demoted, removed, restored: --model RUN [--tuned RUN ...] --data D
  gradients    update frequency and gradient by usage, and what the optimizer makes of it: --model M --data D
  dynamics     logged curves of runs over each other: --runs RUN ...
  super        super experts and super weights, followed through tuning: --model BASE [--tuned RUN ...] --data D
  prune        what is lost without experts, against random controls: --model M --data D

A model is a run's folder, a directory, a hub name or testbed, and NAME=PATH names it. docs/analysis.md defines all.
condenser analyze WHAT --help has the options; all take --verbosity {error,warning,info,debug}."""
NAMES = ("usage", "overlap", "divergence", "correlation", "ablation", "gradients", "dynamics", "super", "prune")
_WITHOUT_DATA = ("dynamics",)


def run(words: list[str]) -> None:
    """Analyse, write `WHAT.json`, `.safetensors`, `.svg` and `.png`, and print a table."""
    if words[:1] in (["-h"], ["--help"]):
        print(SUMMARY)
        return
    name = words[0].replace("-", "_") if words else ""
    if name not in NAMES:
        raise UsageError(unknown("analysis", words[0] if words else "", NAMES))
    options = read(name, words[1:])
    from expert_condenser.cli.analyses.outcomes import ANALYSES  # once the words are right: torch
    from expert_condenser.cli.analyses.session import Session

    session = Session(name, options, " ".join(["condenser analyze", *words]))
    session.leave(*ANALYSES[name](session))


def read(name: str, words: list[str]) -> argparse.Namespace:
    """The options of one analysis; raises `UsageError`."""
    parser = Parser(f"analyze {name}", _line(name), {"out": "output_dir"})
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="where numbers and figures go")
    if name in _WITHOUT_DATA:
        parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="folders, or NAME=FOLDER")
        return parser.read(words)
    counted = name in ("usage", "overlap")
    parser.shared("model", required=not counted)
    parser.add_argument("--tuned", nargs="+", default=[], metavar="RUN", help="its tuned versions, as many as you like")
    parser.add_argument("--any_base", action="store_true", help="allow runs whose base had another name")
    parser.shared("data", required=not counted, **({"nargs": "+"} if counted else {}))
    parser.shared("split", default="test")
    parser.shared("limit", type=positive, default=256, help="rows to look at")
    parser.add_argument("--max_length", type=positive, default=1024, help="cut rows at this many tokens")
    parser.add_argument("--batch_size", type=positive, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "auto"), default="float32")
    parser.shared("device")
    for flag, settings in _OWN.get(name, {}).items():
        parser.add_argument(f"--{flag}", **settings)
    options = parser.read(words)
    if counted:
        _check_counted(name, options)
    return options


def _check_counted(name: str, options: argparse.Namespace) -> None:
    """Raise `UsageError` where nothing says what to count, or something of it is missing: no word is without effect."""
    words = f"analyze {name} counts with --model and --data, or reads --usage FILE ...; give either"
    given = [f"--{flag}" for flag in ("model", "data", "tuned") if getattr(options, flag)]
    if not options.usage and not given:
        raise UsageError(words)
    if given and not (options.model and options.data):
        raise UsageError(f"{words}, and with {', '.join(given)} the rest of them")


def _line(name: str) -> str:
    return next(line for line in SUMMARY.splitlines() if line.startswith(f"  {name} ")).split(maxsplit=1)[1]


def _numbers(text: str) -> list[int]:
    return [at_least(1, part) for part in text.split(",")]


def _words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


_TOKENS = {"tokens": {"type": positive, "default": 1024, "help": "tokens that every expert is asked for"}}
_FILES = {"usage": {"nargs": "+", "type": Path, "default": [], "metavar": "FILE", "help": "usage that was counted"}}
_OWN: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "usage": _FILES,
    "overlap": _FILES,
    "correlation": _TOKENS,
    "super": _TOKENS,
    "gradients": {
        "sgd_rate": {"type": float, "default": 0.1, "help": "learning rate of SGD"},
        "adamw_rate": {"type": float, "default": 1e-4, "help": "learning rate of AdamW"},
    },
    "prune": {
        "criteria": {"type": _words, "default": ["activation", "weight_norm", "reap"], "help": "with commas"},
        "keep": {"type": _numbers, "help": "experts per layer, with commas; default: 7/8, 3/4, 1/2 and 1/4 of them"},
        "scopes": {"type": _words, "default": ["layer", "global"], "help": "layer, global"},
        "ways": {"type": _words, "default": ["as_is", "rescaled"], "help": "as_is, rescaled: weights of a cut model"},
        "draws": {"type": partial(at_least, 0), "default": 5, "help": "random controls"},
        "seed": {"type": seed, "default": 0, "help": "of the random controls"},
        "score_split": {"default": "train", "help": "the split of the rows that experts are scored on"},
        "score_tokens": {"type": positive, "default": 2048, "help": "tokens that experts are scored on"},
        "experts": {"type": Path, "metavar": "FILE", "help": "a list of scored experts, in place of --criteria"},
        "skip": {"action": "store_true", "help": "also dynamic skipping, at quantiles 0.1 to 0.9"},
    },
}
