"""What vLLM needs to serve our model types: one function, the entry point `vllm.general_plugins` of this package.

vLLM calls it in every process that it starts. It builds a model whose architecture it does not know through its
transformers backend only if the checkpoint brings code that it may run; registered, ours needs no such code. Our config
types, which it asks transformers for, are known as soon as this package is imported.
"""

from importlib.util import find_spec

from expert_condenser.moe.families import FAMILIES

BACKEND = "vllm.model_executor.models.transformers:TransformersMoEForCausalLM"
"""vLLM's class for a MoE of transformers, as the registry takes it: imported when a model is built."""


def architectures() -> list[str]:
    """The architectures of our text models, as their `config.json` has them: `CondenserOlmoeForCausalLM`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & FAMILIES.keys()
    return sorted({f"Condenser{MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]}" for family in known})


def register() -> None:
    """Register every architecture of ours with vLLM; without vLLM, nothing happens."""
    if find_spec("vllm") is None:
        return
    from vllm import ModelRegistry

    supported = ModelRegistry.get_supported_archs()
    for architecture in architectures():
        if architecture not in supported:
            ModelRegistry.register_model(architecture, BACKEND)
