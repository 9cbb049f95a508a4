"""What `analyze usage` costs beside a plain forward of the same rows: `python results/figures/cost.py`.

CPU seconds of one thread, the median of several in turn: on a busy machine the wall clock says little.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from expert_condenser.analysis.rows import batches_of, read_rows
from expert_condenser.analysis.usage import usage_of
from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.cli.console import quiet_libraries
from expert_condenser.moe.layers import decoder_of, moe_layers

ROWS, BATCH, ROUNDS = 128, 16, 7


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.no_grad()
def main() -> None:
    """Print the ratios, and write them beside this file."""
    quiet_libraries()
    torch.set_num_threads(1)
    path = str(base_model_path())
    model, tokenizer = load_model(path).eval(), load_tokenizer(path)
    rows = read_rows("testbed:fact_mixture", path, tokenizer, limit=ROWS)
    decoder = decoder_of(model, moe_layers(model))

    def forward(module: Any) -> None:
        for batch in batches_of(rows, BATCH, model.device):
            module(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)

    arms = {
        "usage": lambda: usage_of("base", model, tokenizer, rows, batch_size=BATCH),
        "forward": lambda: forward(model),
        "decoder": lambda: forward(decoder),
    }
    found: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS + 1):
        for name, work in arms.items():
            found[name].append(seconds(work))
    times = {name: median(values[1:]) for name, values in found.items()}  # the first is a warm-up
    content = {
        "rows": ROWS,
        "tokens": sum(len(row.ids) for row in rows),
        "batch_size": BATCH,
        "cpu_seconds": {name: round(value, 3) for name, value in times.items()},
        "usage_per_forward": round(times["usage"] / times["forward"], 3),
        "usage_per_decoder": round(times["usage"] / times["decoder"], 3),
    }
    text = json.dumps(content, indent=1) + "\n"
    Path(__file__).with_suffix(".json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
