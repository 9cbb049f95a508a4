"""What `test_kills` has imported before it forks the processes of its runs."""

import trl

import expert_condenser.cli.train
import expert_condenser.training.parse
import expert_condenser.training.run
import tests.short_run

__all__ = ["expert_condenser", "tests", "trl"]
