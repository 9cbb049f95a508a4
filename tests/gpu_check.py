"""What only a GPU can show, in one script of minutes: `make gpu-check`, or `python -m tests.gpu_check --out DIR`.

`--device cpu --tiny` runs every line of it on a CPU. No network is needed. A check that fails is named, the others go
on, and the exit status is 1. DIR gets `gpu-check.json` and a report of `condenser bench` per shape.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from expert_condenser import RoutingConfig, attach, moe_layers, route, set_condensers
from expert_condenser.cli.main import main as condenser
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.experts import NAME
from expert_condenser.planning.engines import ENGINES
from expert_condenser.planning.planner import Machine, Planner
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.run import train
from tests.planning.measured import Case, train_case
from tests.runs import config, interrupted, make_base, tensors_of

FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
SHAPES = ("olmoe", "qwen1.5-moe", "deepseek-v2-lite", "gpt-oss")
STEP_ARMS = "sft,condenser,condenser@grouped_mm,densemixer_lean,esft_gate,smt,authors_double"
ARMS = f"{STEP_ARMS},experts:ours,experts:grouped_mm,experts:eager"
BILLION = {
    **{"hidden_size": 2048, "intermediate_size": 1024, "num_experts": 64, "num_experts_per_tok": 8},
    **{"num_hidden_layers": 2, "vocab_size": 50304, "num_attention_heads": 16, "num_key_value_heads": 16},
}
TRAININGS = {
    "sft": {},
    "condenser": {},
    "densemixer": {},
    "esft_gate": {"top_p": 0.8, "score_rows": 8},
    "lora": {"method": "condenser", "lora": "attention+experts", "lora_r": 4},
}


@dataclass(frozen=True)
class Ground:
    """Where the checks run."""

    device: str
    tiny: bool
    folder: Path
    out: Path

    def options(self, **changes):
        """Of a recipe on this device, in bfloat16."""
        return {"use_cpu": self.device == "cpu", "bf16": True, **changes}


def routing(ground):
    """The choice is the CPU's, to the expert; the weights agree to rounding."""
    found = {}
    for name, policy in (("paper", RoutingConfig()), ("additive", RoutingConfig(budget="additive"))):
        logits = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
        bias = torch.randn(64, generator=torch.Generator().manual_seed(1))
        condensers = torch.tensor([3, 17])
        sides = [
            route(logits.to(d), bias.to(d), condensers.to(d), top_k=8, config=policy) for d in ("cpu", ground.device)
        ]
        # Condensers under the shared budget tie for the first slots, and each device has an order of its own for ties.
        (weights, indices), (others, there) = (_by_expert(w.cpu(), i.cpu()) for w, i in sides)
        assert torch.equal(indices, there), f"{name}: other experts on {ground.device}"
        found[name] = (weights - others).abs().max().item()
        assert found[name] < 1e-6
    return found


def _by_expert(weights, indices):
    order = indices.argsort(dim=-1)
    return weights.gather(-1, order), indices.gather(-1, order)


def counting(ground):
    """Every token that is no padding is counted K times in every layer, with checkpointing too."""
    for family in FAMILIES:
        model = tiny_model(family).to(ground.device).train()
        attach(model, RoutingConfig())
        layers, attachment = moe_layers(model), attachment_of(model)
        set_condensers(model, {index: [1] for index in range(len(layers))})
        attachment.watch.counting = True
        ids = tiny_batch(4, 16).to(ground.device)
        mask = torch.ones_like(ids)
        mask[:2, :5] = 0
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            attachment.reset(detailed=False)
            model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
            counts = [router.counter.counts.sum().item() for router in attachment.routers]
            assert counts == [int(mask.sum()) * layers[0].top_k] * len(layers), (family, checkpointing, counts)
    return {"families": len(FAMILIES)}


def experts(ground):
    """`sorted_mm` and transformers' own implementations are one model, forward and backward."""
    found = {}
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
        for family in FAMILIES[:2] if ground.tiny else FAMILIES:
            outcomes = {}
            # A grouped product needs rows of 16 bytes, which tiny experts in bfloat16 lack; those of `bench` have them.
            names = ("eager", "grouped_mm") if dtype == torch.float32 else ("eager",)
            for name in (NAME, *names):
                model = tiny_model(family).to(ground.device, dtype)
                for layer in moe_layers(model):
                    layer.experts.config._experts_implementation_internal = name
                logits = model(input_ids=tiny_batch(3, 11).to(ground.device)).logits.float()
                logits.square().mean().backward()
                gradient = torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])
                outcomes[name] = logits.detach(), gradient
            for name in names:
                pairs = zip(outcomes[NAME], outcomes[name], strict=True)
                differences = [((a - b).norm() / b.norm()).item() for a, b in pairs]
                found[f"{family} {name} {dtype}".replace("torch.", "")] = max(differences)
                assert max(differences) < bound, (family, name, dtype, differences)
    return found


def biases(ground):
    """The gradient of experts' biases in bfloat16, where a condenser takes every token, is that of float32."""
    tokens = 64 if ground.tiny else 16384
    generator = torch.Generator().manual_seed(0)
    model = tiny_model("gpt_oss").to(ground.device)
    module = moe_layers(model)[0].experts
    hidden = torch.randn(tokens, module.hidden_size, generator=generator).bfloat16().to(ground.device)
    others = torch.randint(3, module.num_experts, (tokens, 1), generator=generator)
    indices = torch.cat([torch.full_like(others, 2), others], dim=-1).to(ground.device)
    gradients = {}
    for name, dtype in (("grouped_mm", torch.float32), (NAME, torch.bfloat16), ("grouped_mm", torch.bfloat16)):
        model.to(dtype)
        module.config._experts_implementation_internal = name
        output = module(hidden.to(dtype), indices, torch.full(indices.shape, 0.5, dtype=dtype, device=ground.device))
        rows = [module.gate_up_proj_bias, module.down_proj_bias]
        gradients[name, dtype] = torch.autograd.grad(output.float().sum(), rows)
    exact = gradients.pop(("grouped_mm", torch.float32))
    found = {
        name: max(((a.double() - b).norm() / b.double().norm()).item() for a, b in zip(those, exact, strict=True))
        for (name, _), those in gradients.items()
    }
    assert ground.device == "cpu" or found[NAME] < 1e-2, found  # a CPU adds up in bfloat16 either way
    return found


def trainings(ground):
    """Each method trains from its recipe to its model, in bfloat16, with and without checkpointing."""
    found = {}
    for name, options in TRAININGS.items():
        method = options.get("method", name)
        folder = ground.folder / f"run-{name}"
        length = {"method": method, "max_steps": 2 if ground.tiny else 4, "gradient_accumulation_steps": 1}
        recipe = config(ground.folder, folder, **ground.options(**{**length, **options}))
        train(recipe)
        entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [entry["loss"] for entry in entries if "loss" in entry]
        assert len(losses) == recipe.trainer.max_steps, (name, losses)
        assert all(map(math.isfinite, losses)), (name, losses)
        assert json.loads((folder / "run.json").read_text())["finished"]
        found[name] = [losses[0], losses[-1]]
    return found


def checkpointing(ground):
    """Gradient checkpointing chooses the same experts again; an interrupted run ends near the undisturbed one."""
    runs = {}
    for name, options in (("plain", {}), ("checkpointing", {"gradient_checkpointing": True})):
        runs[name] = ground.folder / f"run-{name}"
        train(config(ground.folder, runs[name], **ground.options(bf16=False, **options)))
    resumed = ground.folder / "run-resumed"
    interrupted(ground.folder, resumed, "condense", "on_step_end", 3, **ground.options(bf16=False))
    train(config(ground.folder, resumed, resume=True, **ground.options(bf16=False)))
    whole = tensors_of(runs["plain"])
    found = {}
    for name, folder in (("checkpointing", runs["checkpointing"]), ("resumed", resumed)):
        tensors = tensors_of(folder)
        # One token at a tie may be counted elsewhere where sums are in another order.
        counts = [key for key in whole if ".usage.counts" in key]
        moved = sum((tensors[key] - whole[key]).abs().sum().item() for key in counts)
        total = sum(whole[key].sum().item() for key in counts)
        weights = [key for key in whole if key.startswith("result.") and whole[key].is_floating_point()]
        found[name] = {
            "choices_moved": moved / total,
            "weights": max((tensors[k] - whole[k]).abs().max().item() for k in weights),
        }
        assert found[name]["choices_moved"] < 0.01, (name, found[name])
    return found


def bench(ground):
    """In bfloat16 a MoE layer of each of the paper's models, and a training step of two of OLMoE's layers."""
    found = {}
    works = [("layer", shape, ARMS, []) for shape in SHAPES] + [("train", "olmoe", STEP_ARMS, ["--layers", "2"])]
    for work, shape, arms, sizes in [works[0], works[-1]] if ground.tiny else works:
        file = ground.out / f"{work}-{shape}.json"
        tiny = ["--tokens", "32", "--hidden", "64", "--intermediate", "32", "--arms", "sft,condenser", "--rounds", "2"]
        whole = ["--tokens", "16384", "--arms", arms, "--rounds", "15", "--seconds", "30"]
        words = ["bench", work, "--shape", shape, "--dtype", "bfloat16", "--device", ground.device, *sizes]
        assert condenser([*words, *(tiny if ground.tiny else whole), "--json", str(file)]) == 0
        report = json.loads(file.read_text())
        found[file.stem] = {name: arm["ratio"] for name, arm in report["arms"].items()}
    return found


def billion(ground):
    """Steps of a random OLMoE of 1 B parameters, and their peak memory beside the plan's."""
    wide = {"hidden_size": 64, "num_hidden_layers": 2} if ground.tiny else BILLION
    length = 64 if ground.tiny else 1024
    options = ground.options(experts_implementation=None)
    case = Case("olmoe", "condenser", length=length, checkpointing=True, wide=wide, options=options)
    folder = ground.folder / "billion"
    recipe = case.recipe(folder)
    planner = Planner(recipe, Machine(device=ground.device.partition(":")[0]))
    planned = planner.outlook(ENGINES["one_process"]).kept.total
    cuda = ground.device.startswith("cuda")
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    train_case(recipe, length, [])
    found = {"parameters": planner.sizes.total, "seconds": time.perf_counter() - start, "planned_bytes": planned}
    if cuda:
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
        found["planned_over_peak"] = planned / found["peak_bytes"]
        assert 0.8 < found["planned_over_peak"] < 1.25, found
    return found


CHECKS = (routing, counting, experts, biases, trainings, checkpointing, billion, bench)


def run(ground, checks):
    """The checks; returns the report."""
    report = {
        "device": torch.cuda.get_device_name() if ground.device.startswith("cuda") else ground.device,
        "tiny": ground.tiny,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "expert-condenser")},
        "checks": {},
    }
    make_base(ground.folder)
    for check in checks:
        start = time.perf_counter()
        try:
            found, passed = check(ground), True
        except Exception:
            found, passed = traceback.format_exc(), False
        seconds = round(time.perf_counter() - start, 1)
        report["checks"][check.__name__] = {"passed": passed, "seconds": seconds, "found": found}
        print(f"{check.__name__:14} {'passed' if passed else 'FAILED'} {seconds:7.1f} s  {found}", flush=True)
        (ground.out / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n")  # a later crash leaves this
    return report


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    names = {check.__name__: check for check in CHECKS}
    parser.add_argument("--only", nargs="+", choices=names, default=list(names), help="these checks alone")
    options = parser.parse_args(words)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu-check: this machine has no CUDA device; --device cpu --tiny tries the script", file=sys.stderr)
        return 2
    if options.tiny:
        torch.set_num_threads(1)  # as in the tests: with several, stock kernels are not repeatable to the bit
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        checks = [names[name] for name in options.only]
        report = run(Ground(options.device, options.tiny, Path(folder), options.out), checks)
    return 0 if all(check["passed"] for check in report["checks"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
