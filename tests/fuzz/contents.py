"""What valid files say: one of every kind that the package reads."""

RECIPE = """model: testbed
data: rows.jsonl
method: condenser
output_dir: out
num_condensers: "1"
bias_step: 1.0e-2
learning_rate: 1.0e-3
num_train_epochs: 2
bf16: false
lora: attention
env: {EXPERT_CONDENSER_FUZZ: "1"}
"""
STUDY = """base: testbed
options: {num_train_epochs: 2, split: "{seed}"}
seeds: [1, 2]
arms:
  sft: {method: sft}
  condenser: {method: condenser, bias_step: 5.0e-3}
  halfway: {method: sft, interpolate: 0.5}
grid: {learning_rate: [1.0e-4, 2.0e-4]}
evaluate: {split: test, tasks: {gsm8k: 30, boolq: 10}, batch_size: 64, max_new_tokens: 64, modes: {gsm8k: likelihood}}
learn: [gsm8k]
known: [boolq]
baseline: sft
groups: {tail: [gsm8k, boolq]}
contrasts: {fair: {arm: condenser, against: [sft]}}
allow: [data]
keep_models: false
"""
ROWS = [
    {"question": "2+3?", "answer": "so <<2+3=5>>5\n#### 5"},
    {"question": "4+4?", "answer": "#### 8"},
]
TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a", "weight": 1, "reasoning_content": "t"},
]
CHATS = [
    {"messages": TURNS, "tools": [{"name": "f", "parameters": {}}], "chat_template_kwargs": {"x": 1}},
    {
        "messages": [*TURNS, {"role": "user", "content": [{"type": "text", "text": "q"}]}, TURNS[2]],
        "history": [["a", "b"]],
    },
    {
        "messages": [
            TURNS[1],
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "1"},
            TURNS[2],
        ]
    },
]
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.jsonl
---
# Rows
"""
RUN = {
    "method": "sft",
    "config": {"model": "testbed", "data": "d", "seed": 1, "output_dir": "o", "learning_rate": 1e-3, "split": "train"},
    "versions": {"torch": "2"},
    "git_commit": None,
    "data": {"digest": "d", "template": "t", "date": None, "rows": 2, "examples": 2, "files": ["f"]},
    "trainable": {"router": {"total": 8, "trainable": 8}},
    "phases": {"train": {"steps": 2, "tokens": 9, "seconds": 1.5}},
    "steps": 2,
    "tokens": 9,
    "finished": True,
    "cost": {"seconds": 1.0},
    "engine": "ddp",
    "processes": 1,
    "format_version": 4,
}
RESULTS = {
    "model": "m",
    "prompts": "p",
    "generation": {"max_new_tokens": 8, "date": None},
    "tasks": {
        "gcd": {
            "accuracy": 0.5,
            "n": 2,
            "correct": 1,
            "correct_items": "01",
            "items": "h",
            "nll": 1.5,
            "nll_items": "1.0 2.0",
            "token_items": "1 1",
            "prompts": "p",
        }
    },
    "weights": "w",
    "format_version": 2,
}
ENTRIES = [{"phase": "train", "step": n, "loss": 1.0 / n, "nll": 1.0, "learning_rate": 0.1} for n in (1, 2, 3)]
COUNTS = [[6, 3, 0, 3], [1, 1, 5, 5]]
USAGE = {
    "format_version": 1,
    "model": "a",
    "task": "law",
    "layers": [1, 2],
    "num_experts": 4,
    "top_k": 2,
    "tokens_per_layer": 6.0,
    "selection_counts": COUNTS,
    "top_k_gate_mass": [[0.5, 1.5, 0.0, 2.0], [1.0, 1.0, 3.0, 3.0]],
    "condensers": {"1": [0]},
}
EXPERTS = {"experts": {"1": [0, 2], "2": [1]}, "shared_experts": False, "non_expert_modules": True}


BENCHMARK = {
    "workload": "layer",
    "shape": {"family": "olmoe", "tokens": 8},
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "rounds": 2,
    "skipped": {"x": "y"},
    "arms": {"sft": {"median_s": 0.1, "peak_mb": 3.0, "roofline_share": 0.5}},
}
SETTINGS = {
    "model": "m",
    "prompts": "p",
    "generation": {"max_new_tokens": 8, "date": "2026-01-31"},
    "tasks": {"gcd": {"questions": "q"}},
    "weights": "w",
    "format_version": 2,
}
JOBS = {"ids": {"runs/a/seed1": "12"}, "format_version": 1}
TABLE = [[6, 3, 0, 3, 1, 1, 5, 5]] * 3
CONDENSED = {"method": "condenser", "phase": "sparsify", "usage": TABLE, "bias_steps": TABLE}
CHOSEN = {"method": "esft_token", "phase": "train", "experts": {"0": [0, 2], "1": [1], "2": [3]}}
