"""`condenser upcycle`: a MoE model from a dense one, which computes the same until it is tuned."""

import argparse
from pathlib import Path

from expert_condenser.appearing import appearing, check_free
from expert_condenser.cli.console import quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser, positive


def run(words: list[str]) -> None:
    """Write the model, and say how it is tuned."""
    options = _read(words)
    from expert_condenser.checkpoint.load import resolve_model  # takes seconds to import
    from expert_condenser.surgery.upcycle import Shape, upcycle

    quiet_libraries()
    shape = Shape(options.shards, options.copies, options.top_k, options.router_std, options.router_noise, options.seed)
    with appearing(options.output_dir) as folder:
        apart = upcycle(resolve_model(options.model), shape, folder)
    exact = "the dense one's within rounding" if not shape.router_noise else "with router_noise not the dense one's"
    print(f"{shape.num_experts} experts, {shape.chosen} per token; logits differ by {apart:.1e}: {exact}")
    print(
        f"a token needs the {shape.shards} shards of an FFN together: tune with condensers beside them, not among them"
    )
    model = options.output_dir
    print(f"  condenser train --model {model} --method condenser --budget additive --data DATA --output_dir RUN")
    say_result(options.output_dir)


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("upcycle", "A MoE model from a dense one: every FFN cut into shards, every shard copied.")
    parser.shared("model", required=True, help="a dense model (llama, mistral, qwen2, qwen3): a directory or hub name")
    parser.add_argument("--shards", type=positive, default=4, metavar="G", help="parts of every FFN")
    parser.add_argument("--copies", type=positive, default=2, metavar="N", help="of each part: G x N experts")
    parser.add_argument("--top_k", type=positive, metavar="K", help="experts per token, a multiple of G; default: G")
    parser.add_argument("--router_std", type=float, default=0.02, help="of the rows that tell copies apart")
    parser.add_argument("--router_noise", type=float, default=0.0, help="of every expert's own row; not exact then")
    parser.shared("seed", default=0)
    parser.add_argument("--output_dir", metavar="DIR", type=Path, required=True, help="a directory that is not there")
    options = parser.read(words)
    check_free(options.output_dir)
    return options
