"""Procedural word problems with worked solutions, in GSM8K's `#### n` form.

A story starts with a quantity and applies `steps` events to it (gets, gives, multiplies, shares);
the solution writes one line of arithmetic per event. Difficulty is the number of events.
"""

import random

NAMES = ("Ada", "Ben", "Chloe", "Dan", "Emma", "Finn", "Gia", "Hugo", "Iris", "Jack", "Kira", "Leo")
THINGS = ("apples", "books", "coins", "stamps", "shells", "cards", "pens", "beads", "stones", "tickets")
MAX_QUANTITY = 120


def word_problem(rng: random.Random, steps: int) -> tuple[str, str]:
    """One story of `steps` events: `(question, solution)`; the solution ends in `#### n`."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    total = rng.randint(3, 40)
    story, work = [f"{name} has {total} {thing}."], []
    for _ in range(steps):
        sentence, sign, operand = _event(rng, name, thing, total)
        result = {"+": total + operand, "-": total - operand, "*": total * operand, "/": total // operand}[sign]
        story.append(sentence)
        work.append(f"{total}{sign}{operand}={result}")
        total = result
    story.append(f"How many {thing} does {name} have now?")
    return " ".join(story), "\n".join([*work, f"#### {total}"])


def _event(rng: random.Random, name: str, thing: str, total: int) -> tuple[str, str, int]:
    """A sentence, the operation it stands for, and its operand; the quantity stays in 1..MAX_QUANTITY."""
    friend = rng.choice([other for other in NAMES if other != name])
    amount = rng.randint(2, 30)
    gain, loss = rng.randint(2, 30), rng.randint(1, max(1, min(30, total - 1)))
    events = []
    if total + gain <= MAX_QUANTITY:
        events += [
            (f"{friend} gives {name} {gain} more.", "+", gain),
            (f"Then {name} finds {gain} {thing}.", "+", gain),
            (f"{name} buys {gain} {thing} at the market.", "+", gain),
        ]
    if loss < total:
        events += [
            (f"{name} gives {loss} to {friend}.", "-", loss),
            (f"Then {name} loses {loss} {thing}.", "-", loss),
            (f"{name} sells {loss} of them.", "-", loss),
        ]
    factor = 2 + amount % 3
    if total * factor <= MAX_QUANTITY:
        events.append((f"In a week the {thing} become {factor} times as many.", "*", factor))
    divisors = [d for d in (2, 3, 4, 5) if total % d == 0 and total > d]
    if divisors:
        divisor = rng.choice(divisors)
        events.append((f"{name} shares them equally among {divisor} people and keeps one share.", "/", divisor))
    return rng.choice(events)
