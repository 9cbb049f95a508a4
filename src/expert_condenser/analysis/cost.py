"""What a training step of each method costs beside plain fine-tuning: time and peak memory, measured.

Every measurement is a process of its own, so that its peak memory is its own; the methods take turns, round by
round, so that a noisy machine is noisy for all of them. The figures are medians over the rounds.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from expert_condenser.methods import METHODS, Method, MethodConfig
from expert_condenser.methods.condenser import Condenser
from expert_condenser.methods.esft import Esft, expert_shares
from expert_condenser.models import moe_layers
from expert_condenser.training.usage import collect

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_experts": 64,
    "num_experts_per_tok": 8,
}
_REST = {"vocab_size": 1024, "num_attention_heads": 8, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
ROWS, LENGTH, STEPS = 2, 256, 4
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "densemixer (plain)": ("densemixer", {"mixer": "plain"}),
}
"""What is measured: every method as it comes, and DenseMixer's plain implementation beside the lean one."""


def measure_costs(rounds: int) -> dict[str, Any]:
    """Seconds per step and peak memory of each arm, and both relative to `sft`."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for _ in range(rounds):
        for name in ARMS:
            command = [sys.executable, "-m", "expert_condenser.analysis.cost", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(run[key] for run in of_name) for key in ("step_s", "peak_mb")}
        for name, of_name in runs.items()
    }
    base = medians["sft"]
    relative = {
        name: {"time": round(m["step_s"] / base["step_s"], 3), "memory": round(m["peak_mb"] / base["peak_mb"], 3)}
        for name, m in medians.items()
    }
    return {"measured_on": _setting(rounds), "relative_to_sft": relative, "medians": medians}


def measure_step(arm: str) -> dict[str, float]:
    """Median seconds of a training step with AdamW, and the peak of the process's memory above its start, in MB."""
    name, options = ARMS[arm]
    start = _peak_mb()
    torch.manual_seed(0)
    model: Any = OlmoeForCausalLM(OlmoeConfig(**SHAPE, **_REST)).train()
    ids = torch.randint(0, 1024, (ROWS, LENGTH))
    method = _prepared(name, options, model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    seconds = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        output = model(input_ids=ids, labels=ids, output_router_logits=name == "sft_aux", use_cache=False)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.update(collect(moe_layers(model)).counts)
        seconds.append(time.perf_counter() - begin)
    return {"step_s": statistics.median(seconds[1:]), "peak_mb": _peak_mb() - start}


def _prepared(name: str, options: dict[str, Any], model: Any) -> Method:
    """The method on the model, in its last phase, which costs the most."""
    method = METHODS[name](MethodConfig(**options))
    if isinstance(method, Esft):
        method.choose(moe_layers(model), _scores(model))
    method.prepare(model)
    if isinstance(method, Condenser):
        method.update(torch.randint(0, 1000, (SHAPE["num_hidden_layers"], SHAPE["num_experts"])))
        state, method = method.state_dict(), METHODS[name](MethodConfig(), method.phases[-1])
        method.load_state_dict(state)
        method.prepare(model)
    return method


def _scores(model: Any) -> torch.Tensor:
    """Scores as unequal as those of DeepSeek-V2-Lite, where 4 to 6 of 64 experts reach top_p = 0.2."""
    layers = moe_layers(model)
    decay = torch.arange(layers[0].num_experts).mul(-0.03).exp()
    return expert_shares(decay.repeat(len(layers), 1))


def _peak_mb() -> float:
    unit = 1024 if platform.system() == "Linux" else 1024 * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _setting(rounds: int) -> str:
    shape = ", ".join(f"{key} {value}" for key, value in SHAPE.items())
    tools = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"random OLMoE ({shape}), {ROWS} x {LENGTH} tokens, float32, AdamW, {torch.get_num_threads()} CPU threads, "
        f"{tools}, medians of {rounds} interleaved runs"
    )


if __name__ == "__main__":
    print(json.dumps(measure_step(sys.argv[1])))
