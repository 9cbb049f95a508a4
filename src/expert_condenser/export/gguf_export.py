"""The export to a GGUF file for llama.cpp, which is read again, and must choose and weigh as the tuned model does.

llama.cpp itself is not asked here: its routing rule is computed on the tuned model's own router logits with what the
file says (`llama_cpp_rule`). `make llama-check` asks llama.cpp.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expert_condenser.checkpoint.describe import provenance_of, write_papers
from expert_condenser.checkpoint.load import load_tokenizer
from expert_condenser.errors import ExportError
from expert_condenser.export.exportability import ranks_logits
from expert_condenser.export.gguf_file import GgufFile, library, write_gguf
from expert_condenser.export.gguf_layouts import LAYOUTS, Value, hyperparameters, lift
from expert_condenser.export.gguf_tensors import block_of, gguf_tensors
from expert_condenser.export.gguf_tokenizer import tokenizer_fields
from expert_condenser.export.llama_cpp_rule import LlamaCppRouting
from expert_condenser.export.tuned import Tuned, check_outweighed, probe, read_tuned, unchecked
from expert_condenser.functional.routing import route
from expert_condenser.functional.scoring import routed_logits
from expert_condenser.moe.layers import MoELayer, family_name

FILE = "model.gguf"
ROUNDING = 1e-5
"""How far the weights of the same experts may differ, by the largest of them."""


def export_gguf(source: str, output_dir: Path, dtype: str = "float32", pre: str | None = None) -> str:
    """Write `model.gguf` of a tuned model of our own type; returns how it carries the routing.

    `pre` is the name of the tokenizer's splitting rule, where it is not recognised. Raises `ExportError` where there
    is no exact file, where the folder is there already, and where the file does not route as the model does.
    """
    library()  # its absence is told before a model is loaded
    with unchecked(output_dir) as folder:
        tuned = read_tuned(source, "gguf", dtype)
        assert tuned.policy is not None  # a model without one is refused
        family = family_name(tuned.model)
        layout, by_logits = LAYOUTS[family], ranks_logits(family, tuned.policy)
        fields = tokenizer_fields(load_tokenizer(source), tuned.model.config.vocab_size, pre)
        numbers = _numbers(tuned, by_logits)
        tensors = partial(gguf_tensors, tuned.model, tuned.layers, layout, by_logits)
        write_gguf(folder / FILE, layout.architecture, numbers, fields, tensors)
        check_gguf(folder / FILE, tuned, by_logits)
        provenance = {**provenance_of(source), "exported": {"from": source, "to": "gguf", "how": tuned.how}}
        write_papers(folder, provenance)
    return tuned.how


def _numbers(tuned: Tuned, by_logits: bool) -> dict[str, Value]:
    assert tuned.policy is not None
    layer, blocks = tuned.layers[0], [block_of(layer) for layer in tuned.layers]
    leading = getattr(tuned.model.config, "first_k_dense_replace", None) or 0
    if blocks != list(range(leading, tuned.model.config.num_hidden_layers)):
        raise ExportError(f"the file says that all layers from {leading} on have experts; here they are {blocks}")
    slots = layer.top_k + (len(layer.router.condenser_ids) if tuned.policy.budget == "additive" else 0)
    layout = LAYOUTS[family_name(tuned.model)]
    return hyperparameters(tuned.model.config, layout, layer.scoring, layer.num_experts, slots, by_logits)


def check_gguf(path: Path, tuned: Tuned, by_logits: bool) -> None:
    """Raise `ExportError` unless every tensor of the file is the model's, and it routes the probe's tokens as it."""
    file = GgufFile(path)
    layout = LAYOUTS[family_name(tuned.model)]
    for name, tensor in gguf_tensors(tuned.model, tuned.layers, layout, by_logits):
        stored = file.tensor(name)
        if not torch.equal(stored, tensor.to(stored.dtype)):
            raise ExportError(f"{name} of the file must be the model's, and is not: the file was written wrongly")
    model = tuned.model
    checks = [
        layer.router.register_forward_pre_hook(partial(_check_layer, layer, _rule_of(file, layer), tuned))
        for layer in tuned.layers
    ]
    try:
        with torch.no_grad():
            model(input_ids=probe(model), use_cache=False)
    finally:
        for check in checks:
            check.remove()


def _rule_of(file: GgufFile, layer: MoELayer) -> LlamaCppRouting:
    bias = file.tensor(f"blk.{block_of(layer)}.exp_probs_b.bias")
    return LlamaCppRouting.read(file.numbers, bias)


def _check_layer(
    layer: MoELayer, rule: LlamaCppRouting, tuned: Tuned, router: nn.Module, args: tuple[Any, ...]
) -> None:
    hidden, *extra = args
    # As llama.cpp computes: in float32, whatever the dtype of the weights.
    state: Any = copy.deepcopy(router).float()
    logits = routed_logits(layer.rule.logits(state, hidden.float()), layer.scoring)
    correction = None if layer.rule.correction is None else layer.rule.correction(state, *extra)
    assert tuned.policy is not None
    wanted = route(
        logits,
        state.selection_bias,
        state.condenser_ids,
        top_k=layer.top_k,
        scoring=layer.scoring,
        config=tuned.policy,
        correction=correction,
    )
    if len(state.condenser_ids):
        others = rule.ranks(logits).index_fill(-1, state.condenser_ids, -torch.inf)
        check_outweighed(layer.name, others.max().item(), lift(rule.func == 3))
    _check_same(layer.name, wanted, rule.route(logits))


def _check_same(name: str, wanted: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> None:
    """Raise `ExportError` unless both chose the same experts for every token, and weigh them alike."""
    (weights, indices), (weights_found, indices_found) = (_by_expert(*choice) for choice in (wanted, found))
    if not torch.equal(indices, indices_found):
        part = (indices != indices_found).any(dim=-1).float().mean().item()
        raise ExportError(f"llama.cpp must choose the tuned model's experts; {name} differs for {part:.1%} of tokens")
    apart = ((weights - weights_found).abs().max() / weights.abs().max()).item()
    if not apart < ROUNDING:
        raise ExportError(f"llama.cpp must weigh experts as the tuned model does; {name} differs by {apart:.1e}")


def _by_expert(weights: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    indices, order = indices.sort(dim=-1)
    return weights.float().gather(-1, order), indices
