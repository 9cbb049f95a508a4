"""This model routes with a selection bias and condenser experts: pip install expert-condenser."""

from expert_condenser.architectures import own_config_class, own_model_class

CondenserOlmoeConfig = own_config_class("olmoe")
CondenserOlmoeForCausalLM = own_model_class("olmoe")
