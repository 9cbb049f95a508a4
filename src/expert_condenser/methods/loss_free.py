"""`loss_free`: auxiliary-loss-free balancing, arXiv 2408.15664, a baseline."""

from expert_condenser.methods.selection_bias import SelectionBias


class LossFree(SelectionBias):
    """The selection bias pushes busy experts down and rare ones up."""

    name = "loss_free"
    summary = "loss-free balancing: a selection bias pushes busy experts down"
    paper = "arXiv 2408.15664"
    rule = "balance"
