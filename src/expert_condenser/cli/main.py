"""The command line: `condenser COMMAND --help`."""

import sys
import warnings
from collections.abc import Callable, Sequence

from expert_condenser.errors import ExpertCondenserError


def _train(arguments: list[str]) -> None:
    """fine-tune a model: --config recipe.yaml [--field value ...]"""
    from expert_condenser.training.parse import parse_recipe
    from expert_condenser.training.run import train

    print(f"finished: {train(parse_recipe(arguments))}")


def _demo(arguments: list[str]) -> None:
    """fine-tune the embedded model with sft and condenser, and compare: [--seeds N]"""
    from expert_condenser.cli.demo import demo

    demo(arguments)


def _testbed(arguments: list[str]) -> None:
    """the embedded model: `pretrain --output_dir DIR` makes it again, `evaluate [--model DIR]` measures it"""
    from expert_condenser.cli.testbed import testbed

    testbed(arguments)


def _score(arguments: list[str]) -> None:
    """score the experts of a model on task data, for ESFT: --model_name_or_path M --dataset D [--output FILE]"""
    from expert_condenser.cli.score import score

    score(arguments)


def _families(arguments: list[str]) -> None:
    """the supported model families and their routing: [--json]"""
    from expert_condenser.cli.catalog import families

    families(arguments)


def _methods(arguments: list[str]) -> None:
    """the methods, what they train and what they cost: [--json]"""
    from expert_condenser.cli.catalog import methods

    methods(arguments)


def _bench(arguments: list[str]) -> None:
    """time and memory side by side: layer | train | generate [--shape S] [--arms A,B] [--json FILE]"""
    from expert_condenser.cli.bench import bench

    bench(arguments)


def _eval(arguments: list[str]) -> None:
    """answer and score tasks with a model: --model DIR --tasks a,b [--data DIR] [--limit N] --out DIR"""
    from expert_condenser.cli.eval import evaluate_command

    evaluate_command(arguments)


def _score_answers(arguments: list[str]) -> None:
    """score a file of answers without a model: --task T --file F [--json]"""
    from expert_condenser.evaluation.score_answers import score_answers

    score_answers(arguments)


def _compare(arguments: list[str]) -> None:
    """which method won, with paired statistics over seeds and items: RUN RUN ... [--baseline sft]"""
    from expert_condenser.comparison.compare import compare

    compare(arguments)


def _study(arguments: list[str]) -> None:
    """a grid of methods, seeds and options on one base: FILE.yaml --output_dir DIR"""
    from expert_condenser.cli.study import study

    study(arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "score": _score,
    "methods": _methods,
    "families": _families,
    "eval": _eval,
    "score-answers": _score_answers,
    "compare": _compare,
    "bench": _bench,
    "study": _study,
    "demo": _demo,
    "testbed": _testbed,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's error is printed as one message and gives exit status 2."""
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help") or words[0] not in COMMANDS:
        rows = "\n".join(f"  {name:14} {command.__doc__}" for name, command in COMMANDS.items())
        print(f"condenser COMMAND [options]\n\n{rows}", file=sys.stderr)
        return 0 if words and words[0] in ("-h", "--help") else 2
    try:
        COMMANDS[words[0]](words[1:])
    except ExpertCondenserError as error:
        print(f"condenser {words[0]}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
