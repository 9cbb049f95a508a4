"""What is analysed: a base and its tuned versions, found and checked before any weight is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expert_condenser.checkpoint.card import PROVENANCE
from expert_condenser.checkpoint.config import read_config, without_memory
from expert_condenser.checkpoint.describe import provenance_of
from expert_condenser.checkpoint.load import ADAPTER_CONFIG, load_model, resolve_model
from expert_condenser.errors import AnalysisError
from expert_condenser.files import local_path
from expert_condenser.moe.layers import decoder_depth, family_name, moe_layers
from expert_condenser.training.record import RUN, RunRecord


@dataclass(frozen=True)
class Shape:
    """What models must have in common for their experts to be compared one by one."""

    family: str
    hidden_size: int
    layers: tuple[int, ...]
    """Depths of the MoE layers among all layers of the decoder."""
    num_experts: int
    top_k: int

    def __str__(self) -> str:
        layers = f"{len(self.layers)} MoE layers of {self.num_experts} experts, top {self.top_k}"
        return f"{self.family}, {layers}, hidden size {self.hidden_size}"


@dataclass(frozen=True)
class Subject:
    """One model."""

    name: str
    path: str
    shape: Shape
    base: str | None = None
    """What its run says that it was tuned from; None where nothing says so."""
    method: str | None = None


def find_subject(text: str) -> Subject:
    """A model by `PATH` or `NAME=PATH`: a run's folder, a model's directory, a hub name, or `testbed`.

    Raises `AnalysisError` where there is no MoE model, or the run is not finished.
    """
    name, equals, path = text.partition("=")
    folder = local_path(path if equals else name)
    if (folder / ADAPTER_CONFIG).exists():
        raise AnalysisError(f"a whole model is looked at; {folder} is an adapter: name its run, or the run's model/")
    base: str | None
    method: str | None
    if (folder / RUN).exists():
        record = RunRecord.read(folder / RUN)
        if not record.finished:
            raise AnalysisError(f"a finished run is analysed; {folder} is not: finish it with --resume")
        model, own = str(folder / "model"), record.arm or record.method
        base, method = record.config["model"], record.method
    else:
        model, own = resolve_model(str(folder)), folder.name
        base, method = _provenance(folder)
    return Subject(name if equals else own, model, shape_of(model), base, method)


def _provenance(folder: Path) -> tuple[str | None, str | None]:
    """The base and the method of a saved model."""
    found = provenance_of(folder)
    config = found.get("config", {})
    base, method = config.get("model") if isinstance(config, dict) else None, found.get("method")
    if not isinstance(base, str | None) or not isinstance(method, str | None):
        raise AnalysisError(
            f"{folder / PROVENANCE} says of which base and method a model is; got {base!r} and {method!r}"
        )
    return base, method


def shape_of(path: str) -> Shape:
    """The shape of a model, from its config alone; raises `AnalysisError` where it has none."""
    try:
        config = read_config(path)
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{path} is no model: {error}. Name a run's folder or a model's directory") from error
    model = without_memory(config)
    layers = moe_layers(model)
    depths = tuple(decoder_depth(layer) for layer in layers)
    hidden = int(model.config.get_text_config().hidden_size)
    return Shape(family_name(model), hidden, depths, layers[0].num_experts, layers[0].top_k)


def check_together(base: Subject, tuned: Sequence[Subject], *, any_base: bool = False) -> None:
    """Raise `AnalysisError` on names given twice, other shapes, and runs of different bases.

    `any_base` lets models pass whose runs name another base: one that was moved, say.
    """
    names = [subject.name for subject in (base, *tuned)]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise AnalysisError(f"models are told apart by name, and {', '.join(double)} is there twice; write NAME=PATH")
    for subject in tuned:
        if subject.shape != base.shape:
            raise AnalysisError(
                f"models are compared expert by expert: {base.name} is {base.shape}; {subject.name} is {subject.shape}"
            )
        if not any_base and subject.base is not None and not _is_same(subject.base, base.path):
            raise AnalysisError(
                f"runs of one base are compared: {subject.name} was tuned from {subject.base}, and the base here is "
                f"{base.path}. Name that base, or pass --any_base if it was moved"
            )


def _is_same(first: str, second: str) -> bool:
    one, other = resolve_model(first), resolve_model(second)
    return one == other or (Path(one).exists() and Path(one).resolve() == Path(other).resolve())


def load(subject: Subject, dtype: str = "float32", device: str | None = None) -> Any:
    """The model in eval mode, on the accelerator where there is one and no other device is named."""
    place = device_of(device)
    return load_model(subject.path, dtype).to(place).eval()


def device_of(name: str | None) -> torch.device:
    """The device of that name, or else the accelerator where there is one; raises `AnalysisError` where it is not."""
    try:
        place = torch.device(name or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without that kind of device
        raise AnalysisError(f"--device is one that torch finds here; got {name!r} ({error}); name another") from error
    return place


def condensers_of(model: Any) -> dict[int, list[int]]:
    """`{layer index: expert ids}` of a loaded model; empty where it has none."""
    found = {}
    for index, layer in enumerate(moe_layers(model)):
        ids = getattr(layer.router, "condenser_ids", None)
        if ids is not None and len(ids):
            found[index] = [int(i) for i in ids]
    return found
