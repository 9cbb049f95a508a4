"""Fine-tuning tasks with worked solutions, in GSM8K's `#### n` form: what the base model has to learn."""

import random

LEGS = {
    **dict.fromkeys(("chickens", "ducks", "crows", "swans", "parrots", "owls"), 2),
    **dict.fromkeys(("cats", "dogs", "horses", "goats", "wolves", "mice", "frogs", "lizards"), 4),
    **dict.fromkeys(("ants", "bees", "wasps", "beetles", "crickets", "moths", "flies"), 6),
    **dict.fromkeys(("spiders", "scorpions", "ticks", "mites", "harvestmen"), 8),
    **dict.fromkeys(("crabs", "lobsters", "shrimps", "crayfish"), 10),
}


def worked_sum(rng: random.Random, terms: int) -> tuple[str, str]:
    """A sum of two-digit terms, added and subtracted one after the other."""
    total = rng.randint(10, 99)
    question, work = f"Work out step by step: {total}", []
    for _ in range(terms - 1):
        operand = rng.randint(10, 99)
        sign = rng.choice("+-")
        result = total + operand if sign == "+" else total - operand
        question += f" {sign} {operand}"
        work.append(f"{total}{sign}{operand}={result}")
        total = result
    return question, "\n".join([*work, f"#### {total}"])


def worked_legs(rng: random.Random, animals: int) -> tuple[str, str]:
    """Counting legs: how many each animal has must be known, the rest is arithmetic."""
    names = rng.sample(sorted(LEGS), animals)
    counts = [rng.randint(2, 12) for _ in names]
    herd = ", ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True))
    legs = [count * LEGS[name] for count, name in zip(counts, names, strict=True)]
    work = [f"{count}*{LEGS[name]}={product}" for count, name, product in zip(counts, names, legs, strict=True)]
    total = legs[0]
    for product in legs[1:]:
        work.append(f"{total}+{product}={total + product}")
        total += product
    return f"Work out step by step: how many legs do {herd} have?", "\n".join([*work, f"#### {total}"])
