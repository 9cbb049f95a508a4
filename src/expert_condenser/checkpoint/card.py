"""`README.md` of a saved model, as the hub shows it: what it was made of and how, how to load it, what was measured.

It says only what lies beside the weights: `config.json` or `adapter_config.json`, `provenance.json`, and results that
are handed in. Its last line has a digest, by which a card that somebody edited is known, and left alone.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from expert_condenser.checkpoint.local_names import is_hub_name, shown
from expert_condenser.errors import CheckpointError, DataError
from expert_condenser.files import read_object, write_text
from expert_condenser.moe.layers import MODEL_TYPE_PREFIX
from expert_condenser.moe.own_types import auto_class

CARD = "README.md"
PROVENANCE = "provenance.json"
EMBEDDED_LICENSE = "apache-2.0"
_MARK = "<!-- condenser card {} -->"
_OLDER = re.compile(r"# .*\n\n(Fine-tuned with expert-condenser\.|A LoRA adapter, fine-tuned with expert-condenser;)")
_RECIPE = (
    *("method", "model", "data", "split", "limit", "lora", "lora_r", "learning_rate", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "seed", "dtype", "router"),
    *("num_condensers", "condenser_rule", "bias_step", "bias_step_condense", "budget", "top_p", "mixer"),
)
"""Options that a card shows; `provenance.json` has all."""


_FROM = (
    *(("config", "model"), ("interpolated", "base"), ("upcycled", "model")),
    *(("pruned", "model"), ("exported", "from")),
)
"""Where a provenance says what a model was made from, the first step first."""


@dataclass(frozen=True)
class Measured:
    """The accuracy on one task, with the interval in which it lies for new items of this kind (95 %)."""

    task: str
    split: str
    accuracy: float
    low: float
    high: float
    items: int


def write_card(folder: Path, measured: Sequence[Measured] = (), license: str | None = None) -> None:
    """Write the card of a saved model, whole or not at all."""
    write_text(folder / CARD, card_of(folder, measured, license))


def check_own(folder: Path) -> None:
    """Raise `CheckpointError` where the card of a folder is somebody's own, or was edited."""
    if (folder / CARD).exists() and not is_own(folder / CARD):
        raise CheckpointError(
            f"{folder / CARD} was written or edited by somebody, and is not overwritten; move it, or pass --overwrite"
        )


def is_own(path: Path) -> bool:
    """Whether a card is as it was written here, by this release or an earlier one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    body, _, mark = text.rstrip("\n").rpartition("\n")
    return mark == _mark(body) or (bool(_OLDER.match(text)) and text.count("\n") < 20)


def _mark(body: str) -> str:
    return _MARK.format(hashlib.sha256(body.encode()).hexdigest()[:16])


def card_of(folder: Path, measured: Sequence[Measured] = (), license: str | None = None) -> str:
    """The text of the card; raises `CheckpointError` where the folder holds no saved model.

    `license` is the base's, where that is known; without it, that of a base in a directory is looked up there.
    """
    try:
        provenance = read_object(folder / PROVENANCE) if (folder / PROVENANCE).exists() else {}
        adapter = (folder / "adapter_config.json").exists()
        config = _config_of(folder, adapter=adapter)
    except DataError as error:
        raise CheckpointError(f"a card is of a saved model or adapter; {folder} is none: {error}") from error
    recipe = _section(provenance, "config")
    base = base_of(provenance, config, adapter=adapter)
    data = ModelCardData(
        base_model=base if base and is_hub_name(base, provenance) else None,
        datasets=[source] if is_hub_name(source := str(recipe.get("data", "")), provenance) else None,
        license=license or license_of(base),
        library_name="peft" if adapter else "transformers" if config else None,
        pipeline_tag="text-generation",
        tags=[
            "mixture-of-experts",
            "expert-condenser",
            *([] if config else ["gguf"]),
            *_words(provenance.get("method")),
        ],
        model_name=folder.name if measured else None,
        eval_results=[_result(each) for each in measured] or None,
    )
    sections = [
        f"# {folder.name}",
        _made(provenance, recipe, base),
        _loading(folder, config, adapter=adapter),
        _found(measured),
    ]
    body = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"
    ModelCard(body)  # raises where the hub would not read it
    return f"{body}\n{_mark(body)}\n"


def _config_of(folder: Path, *, adapter: bool) -> dict[str, Any]:
    """The config beside the weights; a file for llama.cpp has its own inside."""
    if adapter:
        return read_object(folder / "adapter_config.json")
    if not (folder / "config.json").exists() and any(folder.glob("*.gguf")):
        return {}
    return read_object(folder / "config.json")


def _section(provenance: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of the provenance; nothing where it has none."""
    found = provenance.get(name)
    return found if isinstance(found, dict) else {}


def base_of(provenance: Mapping[str, Any], config: Mapping[str, Any], *, adapter: bool) -> str | None:
    """What a model was made from, by what it says of itself."""
    if adapter:
        found = config.get("base_model_name_or_path")
        return found if isinstance(found, str) else None
    for key, name in _FROM:
        found = _section(provenance, key).get(name)
        if isinstance(found, str):
            return found
    return None


def license_of(base: str | None) -> str | None:
    """The license that the card of a base in a directory declares; None where that is not known."""
    if base is None:
        return None
    if base.startswith("testbed"):
        return EMBEDDED_LICENSE
    try:
        data = ModelCard.load(Path(base) / CARD).data if (Path(base) / CARD).is_file() else None
    except Exception:  # a card that somebody wrote: one that cannot be read says nothing
        return None
    found = getattr(data, "license", None)
    return found if isinstance(found, str) else None


def _words(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else []


def _made(provenance: Mapping[str, Any], recipe: Mapping[str, Any], base: str | None) -> str:
    steps = list(_steps(provenance, f" from `{shown(base)}`" if base else ""))
    if not steps:
        return "Saved by expert-condenser. Nothing beside it says how it was made."
    rows = [(name, shown(recipe[name])) for name in _RECIPE if recipe.get(name) is not None]
    rows = [(name, value) for name, value in rows if name != "lora_r" or recipe.get("lora") is not None]
    table = "".join(f"\n| {name} | {str(value)[:200]} |" for name, value in rows)
    note = f"`{PROVENANCE}` has every option and the versions of all packages."
    return f"{' '.join(steps)}\n\n" + (f"| option | value |\n|---|---|{table}\n\n{note}" if rows else note)


def _steps(provenance: Mapping[str, Any], of: str) -> Iterator[str]:
    """A sentence per step, in their order; the first one names the base."""
    sentences = []
    if how := _section(provenance, "upcycled"):
        shape = f"{how.get('shards')} shards by {how.get('copies')} copies of every FFN"
        sentences.append(f"Made a mixture of experts{{of}} by expert-condenser: {shape}.")
    if "method" in provenance:
        sentences.append(f"Fine-tuned{{of}} with expert-condenser by the method `{provenance['method']}`.")
    if how := _section(provenance, "interpolated"):
        model = shown(how.get("model"))
        sentences.append(f"Interpolated by expert-condenser, at {how.get('alpha')} of the way{{of}} to `{model}`.")
    if how := _section(provenance, "pruned"):
        left = f"{how.get('num_experts_left')} of {how.get('num_experts')} experts are left in every layer"
        sentences.append(f"Pruned{{of}} by expert-condenser: {left}.")
    if how := _section(provenance, "exported"):
        type_ = "to a file for llama.cpp" if how.get("to") == "gguf" else "to the family's own type"
        sentences.append(f"Exported{{of}} {type_} by expert-condenser: {how.get('how', 'exactly')}.")
    for at, sentence in enumerate(sentences):
        yield sentence.replace("{of}", "" if at else of)


def _loading(folder: Path, config: Mapping[str, Any], *, adapter: bool) -> str:
    """How to load it, and how to serve it."""
    if adapter:
        return (
            "## Use\n\nA LoRA adapter. It may hold the selection bias and the condensers of the routers.\n\n"
            "    pip install expert-condenser\n\n"
            f'    from expert_condenser.checkpoint.load import load_model\n    model = load_model("{folder.name}")'
        )
    if not config:
        file = min(path.name for path in folder.glob("*.gguf"))
        return f"## Use\n\nA file for llama.cpp and what is built on it.\n\n    llama-server --model {file}"
    model_type = str(config.get("model_type"))
    own = model_type.startswith(MODEL_TYPE_PREFIX)
    family = model_type.removeprefix(MODEL_TYPE_PREFIX)
    auto = auto_class(CONFIG_MAPPING[family]).__name__ if family in CONFIG_MAPPING else "AutoModelForCausalLM"
    load = f'    from transformers import {auto}\n    model = {auto}.from_pretrained("{folder.name}")'
    if not own:
        return f"## Use\n\nA model of the stock type `{model_type}`: whatever serves that type serves it.\n\n{load}"
    return (
        "## Use\n\nIts routers hold a selection bias and condenser experts, which stock classes would ignore; that is "
        f"why its model type is `{model_type}`.\n\n    pip install expert-condenser\n\n    import expert_condenser\n"
        f"{load}\n\nA program that does not import the package loads it with `trust_remote_code` where it is "
        "installed. For others `condenser export` writes a stock checkpoint, exactly or not at all."
    )


def _found(measured: Sequence[Measured]) -> str:
    head = "## What was measured\n\n"
    if not measured:
        return f"{head}Nothing: no results lie beside this model. How good or how safe it is, is not known."
    rows = "".join(
        f"\n| {each.task} | {each.split} | {each.accuracy:.1%} | {each.low:.1%} to {each.high:.1%} | {each.items} |"
        for each in measured
    )
    return (
        f"{head}| task | split | accuracy | 95 % interval, for new items | items |\n|---|---|---:|---:|---:|{rows}\n\n"
        "Nothing else was tested here: no other task or language, no conversation of several turns, and not whether "
        "its answers are safe. What the base knew may be forgotten."
    )


def _result(each: Measured) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=each.task,
        dataset_name=each.task,
        dataset_split=each.split,
        metric_type="accuracy",
        metric_value=round(each.accuracy, 4),
        metric_name=f"accuracy (95 % interval {each.low:.3f} to {each.high:.3f}, {each.items} items)",
    )
