"""`bias_only`: the method's bias without its condensers, the middle rung of the paper's Table 5."""

from expert_condenser.methods.selection_bias import SelectionBias


class BiasOnly(SelectionBias):
    """The selection bias pushes busy experts up and long-tailed ones towards inactivity."""

    name = "bias_only"
    summary = "bias-driven sparsification: a selection bias pushes busy experts up"
    paper = "arXiv 2604.23036, Table 5"
    rule = "sparsify"
