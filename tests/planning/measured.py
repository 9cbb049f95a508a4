"""One training step of small models, measured by torch's own memory tracker, beside the plan from their configs.

python -m tests.planning.measured [--resident]      # the tables of docs/plan.md
"""

import os
import resource
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import trl.trainer.utils
from datasets import Dataset, disable_progress_bars
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType  # no public name yet
from transformers import PrinterCallback, TrainerCallback

from expert_condenser.adapters.lora import add_adapter
from expert_condenser.kernels.buffers import release
from expert_condenser.methods import METHODS
from expert_condenser.moe.experts import NAME
from expert_condenser.moe.own_types import auto_class
from expert_condenser.planning.engines import ENGINES
from expert_condenser.planning.model import choose_experts
from expert_condenser.planning.planner import Machine, Planner
from expert_condenser.testing import tiny_config
from expert_condenser.training.auxiliary import lend_fields
from expert_condenser.training.phase import phase_arguments
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.trainer import StrictSFTTrainer
from tests.finetune import PLAIN, tokenizer

_WIDE = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "vocab_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 4096,
}
_EXPERTS = {"num_experts": 16, "moe_intermediate_size": 128}
SHAPES: dict[str, dict[str, Any]] = {
    "olmoe": {"num_experts": 16, "intermediate_size": 128},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 384, "intermediate_size": 512},
    "qwen3_moe": {**_EXPERTS, "head_dim": 32, "intermediate_size": 512},
    "mixtral": {"num_local_experts": 16, "intermediate_size": 128},
    "gpt_oss": {"num_local_experts": 16, "intermediate_size": 128, "head_dim": 32, "sliding_window": 64},
    "deepseek_v2": {
        "n_routed_experts": 16,
        "moe_intermediate_size": 128,
        "intermediate_size": 512,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
    },
}


@dataclass(frozen=True)
class Case:
    """A small training: a family, a method, and options of the recipe."""

    family: str
    method: str = "sft"
    length: int = 512
    rows: int = 4
    checkpointing: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    tile: int = 2048
    """Logits of a token that TRL's head computes at a time; its own 32768 would outweigh the layers of these models."""

    @property
    def name(self) -> str:
        words = [self.family, self.method, f"{self.rows} x {self.length}", *map("=".join, self._texts())]
        return ", ".join([*words, *(["checkpointing"] if self.checkpointing else [])])

    wide: dict[str, Any] = field(default_factory=dict)
    """Sizes that differ from those of `SHAPES`."""

    def _texts(self):
        return [(key, str(value)) for key, value in self.options.items()]

    def recipe(self, folder: Path) -> Recipe:
        """The recipe of this case; its model is a directory with a config and no weights."""
        tiny_config(self.family, **{**_WIDE, **SHAPES[self.family], **self.wide}).save_pretrained(folder)
        options = {
            **PLAIN,
            "model": str(folder),
            "data": "rows.jsonl",
            "output_dir": str(folder / "run"),
            "method": self.method,
            "max_steps": 2 * len(METHODS[self.method].phases),
            "max_length": self.length,
            "per_device_train_batch_size": self.rows,
            "gradient_checkpointing": self.checkpointing,
            "experts_implementation": NAME,
            **self.options,
        }
        return Recipe.of(**options)


LASTING = ("parameters", "gradients", "optimizer")
CASES = (
    Case("olmoe", "sft"),
    Case("olmoe", "sft", tile=32768),
    Case("olmoe", "condenser", checkpointing=True),
    Case("olmoe", "esft_gate", length=1024),
    Case("olmoe", "sft", length=128, options={"gradient_accumulation_steps": 2}),
    Case("olmoe", "sft", options={"experts_implementation": "grouped_mm"}),
    Case("olmoe", "sft", options={"lora": "experts", "lora_r": 8}),
    Case("qwen2_moe", "sft", length=128),
    Case("qwen2_moe", "densemixer"),
    Case("deepseek_v2", "condenser"),
    Case("deepseek_v2", "esft_gate", length=1024, checkpointing=True),
    Case("gpt_oss", "sft", length=1024, rows=2),
    Case("gpt_oss", "frozen_router", checkpointing=True),
    Case("mixtral", "frozen_router"),
    Case("mixtral", "sft_aux", length=128),
    Case("qwen3_moe", "sft", options={"lora": "attention", "lora_r": 8}),
    Case("qwen3_moe", "condenser", options={"lora": "attention+experts", "lora_r": 8}, checkpointing=True),
    Case(
        "qwen3_moe", "sft", length=1024, checkpointing=True, options={"experts_implementation": "sorted_mm_recompute"}
    ),
    Case("olmoe", "sft", options={"bf16": True}),
)


_LARGE = {"hidden_size": 512, "intermediate_size": 512, "moe_intermediate_size": 512}
RESIDENT = (
    Case("olmoe", "sft", length=1024, wide=_LARGE),
    Case("qwen3_moe", "condenser", rows=8, length=1024, checkpointing=True, wide={**_LARGE, "num_hidden_layers": 6}),
    Case("deepseek_v2", "esft_gate", rows=8, length=1024, wide=_LARGE),
)


class Tracker(MemTracker):
    """torch's tracker, which fails on parameters without gradient: it puts a hook on each."""

    def _track_module_params_and_buffers(self, module, install_grad_hooks=True):
        found = super()._track_module_params_and_buffers(module, install_grad_hooks=False)
        for parameter in module.parameters() if install_grad_hooks else ():
            if parameter.requires_grad and self._param_to_grad_hook_handles.get(parameter) is None:
                self._param_to_grad_hook_handles[parameter] = (
                    parameter.register_hook(self._is_gradient),
                    parameter.register_post_accumulate_grad_hook(lambda p: self._is_gradient(p.grad)),
                )
        return found

    def _is_gradient(self, gradient):
        self._update_and_maybe_create_winfos(gradient, _MemRefType.GRAD)


class Tracked(TrainerCallback):
    """Tracks the second of two steps, when the optimizer has its state already."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.before_step: dict[str, int] = {}
        self.entered = False

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step == 1:
            release()  # scratch of the first step, which the tracker has not seen
            self.tracker.track_external(model, optimizer.optimizer)
            self.tracker.__enter__()
            self.entered = True

    def on_substep_end(self, args, state, control, **kwargs):
        self.tracker.reset_mod_stats()  # it takes one forward of the model for all

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.before_step = snapshot(self.tracker, "current")

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Take the tracker's hooks off, which are on every module of the process."""
        if self.entered:
            self.entered = False
            self.tracker.__exit__(None, None, None)


def snapshot(tracker: MemTracker, moment: str) -> dict[str, int]:
    """Bytes by kind, as the tracker names them."""
    (found,) = tracker.get_tracker_snapshot(moment).values()
    return {getattr(kind, "value", kind): count for kind, count in found.items()}


def train_case(recipe: Recipe, length: int, callbacks) -> None:
    """Train the recipe's random model as a run does, on rows of `length` tokens and some that are padded."""
    model, method = real_model(recipe)
    steps = recipe.trainer.gradient_accumulation_steps * recipe.trainer.max_steps
    count = steps * recipe.trainer.per_device_train_batch_size
    ids = [torch.randint(2, 2000, (length - (index % 2) * 8,)).tolist() for index in range(count)]
    trainer = StrictSFTTrainer(
        model=model,
        args=phase_arguments(recipe, method),
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def real_model(recipe: Recipe):
    """The model with weights, random ones, prepared by the recipe's method."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(recipe.run.model)
    options = {"experts_implementation": recipe.run.experts_implementation}
    torch.manual_seed(0)
    model = auto_class(type(config)).from_config(config, dtype=torch.float32, **options)
    method = recipe.new_method()
    if recipe.adapter.lora is not None:
        model = add_adapter(model, recipe.adapter, recipe.adapter_targets, method.routing)
    choose_experts(model, method, None)
    method.prepare(model)
    lend_fields(model.config.get_text_config(), method.layers)
    return model, method


def measure(case: Case, folder: Path) -> dict[str, int]:
    """Bytes of one process by torch's tracker: the whole at its peak, and what lasts."""
    recipe, tracked = case.recipe(folder), Tracked()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracker's, of modules that it knows no more
            train_case(recipe, case.length, [tracked])
    finally:
        tracked.close()
    peak = snapshot(tracked.tracker, "peak")
    lasting = tracked.before_step
    return {
        "parameters": lasting["Parameter"],
        "gradients": lasting["Gradient"],
        "optimizer": lasting["Optstate"],
        "total": peak["Total"],
        "step": peak["Activation"] + peak["Temp"] + peak["Gradient"] + peak["Buffer"],
    }


def resident_growth(case: Case) -> int:
    """Bytes that resident memory grows by, from before the model to the peak of its training; in a process of its own.

    A small training comes first: what libraries load and keep is not the case's. glibc gives large blocks back at once,
    as it does at first; later it keeps what was freed, in pieces, which is no memory that a training needs.
    """
    code = f"from tests.planning import measured as m; m.report_growth(m.RESIDENT[{RESIDENT.index(case)}])"
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout.splitlines()[-1])


def report_growth(case: Case) -> None:
    """Print the growth of this process."""
    small = Case(case.family, "sft", rows=1, length=64)
    in_folder(lambda case, folder: train_case(case.recipe(folder), case.length, []), small)
    release()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    in_folder(lambda case, folder: train_case(case.recipe(folder), case.length, []), case)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def planned(case: Case, folder: Path) -> dict[str, int]:
    """The plan's bytes of the same items."""
    planner = Planner(case.recipe(folder), Machine(device="cpu"))
    kept = planner.outlook(ENGINES["one_process"]).kept
    items = {name: kept.device[name] for name in ("parameters", "gradients", "optimizer")}
    return {**items, "total": kept.total, "step": kept.total - items["parameters"] - items["optimizer"]}


def in_folder(function, case: Case) -> dict[str, int]:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", case.tile),
    ):
        return function(case, Path(folder))


def main(words: list[str]) -> None:
    """Print the tables; `N` starts with the Nth case, `--resident` prints the second table alone."""
    disable_progress_bars()
    if "--resident" not in words:
        print("| case | " + " | ".join(f"{name}, MB" for name in (*LASTING, "total", "step")) + " | difference |")
        print("|---" * 7 + "|")
        for case in CASES[int(words[0]) if words else 0 :]:
            plan, found = in_folder(planned, case), in_folder(measure, case)
            cells = [f"{plan[name] / 1e6:.1f} / {found[name] / 1e6:.1f}" for name in (*LASTING, "total", "step")]
            print(f"| {case.name} | {' | '.join(cells)} | {plan['step'] / found['step'] - 1:+.1%} |", flush=True)
    print("\n| case | planned, MB | resident memory grew by, MB | difference |\n" + "|---" * 4 + "|")
    for case in RESIDENT:
        plan, grown = in_folder(planned, case)["total"], resident_growth(case)
        print(f"| {case.name} | {plan / 1e6:.0f} | {grown / 1e6:.0f} | {plan / grown - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
