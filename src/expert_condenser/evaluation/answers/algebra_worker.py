"""The process that runs math-verify: `algebra` starts this file, which needs nothing else of the package.

A line of JSON in, `[one, other]`, is a line out, `true` or `false`. An expression that takes too long, or too much
memory, ends the process: the kernel does that, so no loop of sympy's can catch it.
"""

import json
import resource
import signal
import sys

from math_verify import LatexExtractionConfig, parse, verify

SECONDS = 60.0
"""Of the clock, for each answer; the argument is what it may take of the processor, be the machine busy or idle."""
MEMORY = 4 * 2**30
DECIMALS = 12
"""Of numbers with a decimal point, and so few that the last digits of floating point do not count."""
DIGITS = 50
"""Of other numbers: ten to the minus 20 is not twice as much."""


def equal(one: str, other: str) -> bool:
    """Whether two expressions are equal, whichever of them is taken for the gold one."""
    first, second = (
        parse(f"${text}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None) for text in (one, other)
    )
    return any(
        verify(gold, answer, float_rounding=DECIMALS, numeric_precision=DIGITS, timeout_seconds=None)
        for gold, answer in ((first, second), (second, first))
    )


def main() -> None:
    """Answer one line after the other, until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:  # the signals of both timers have no handler, so either ends the process
        signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        found = equal(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
