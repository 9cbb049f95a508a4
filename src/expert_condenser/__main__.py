"""`python -m expert_condenser` is the command `condenser`."""

import sys

from expert_condenser.cli.main import main

sys.exit(main())
