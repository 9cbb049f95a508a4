"""`python -m expert_condenser.cli`, as launchers start it."""

import sys

from expert_condenser.cli.main import main

sys.exit(main())
