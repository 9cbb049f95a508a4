"""`make recipes` writes the recipes from table.yaml: one per model and method, and those of the other variants.

It also writes accelerate/*.yaml, the engines that the package has, for `accelerate launch` itself.
"""

from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
ENGINES = FOLDER.parent / "src" / "expert_condenser" / "training" / "engines"
PROCESSES = 4
"""Of the launch files: with eight rows each and no accumulation, the recipes' 32 rows per step."""
PLAIN = "full"
"""The variant whose name is not in the file names."""


def recipes() -> dict[str, str]:
    """File name to content, for every recipe of the table. A word in braces that no row explains is a `KeyError`."""
    table = yaml.safe_load((FOLDER / "table.yaml").read_text(encoding="utf-8"))
    made = {}
    for model, of_model in table["models"].items():
        for method, of_method in table["methods"].items():
            for variant, of_variant in table["variants"].items():
                if variant != PLAIN and f"{model}-{method}" not in of_variant["recipes"]:
                    continue
                words = {**of_model, **of_variant}
                filled = {key: text.format(**words) for key, text in of_method.items()}
                name = f"{model}-{method}" if variant == PLAIN else f"{model}-{method}-{variant}"
                made[f"{name}.yaml"] = table["recipe"].format(**words, **filled)
    return made


def launchers() -> dict[str, str]:
    """File name to content, for every engine of the package: the same but for the number of processes."""
    head = (
        f"# Written by `make recipes` from src/expert_condenser/training/engines; change it there. With {PROCESSES} "
        "processes,\n# --gradient_accumulation_steps 1 keeps the recipes' 32 rows per step.\n"
    )
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(ENGINES.glob("*.yaml"))}
    return {name: head + _with_processes(text, name) for name, text in found.items()}


def _with_processes(text: str, name: str) -> str:
    if text.count("num_processes: 1\n") != 1:
        raise ValueError(f"an engine has the line `num_processes: 1`, which the launcher replaces; {name} has not")
    return text.replace("num_processes: 1\n", f"num_processes: {PROCESSES}\n")


def main() -> None:
    """Write every recipe; a recipe that the table no longer has is deleted."""
    made = recipes()
    for path in FOLDER.glob("*-*.yaml"):
        if path.name not in made:
            path.unlink()
    for name, content in {**made, **{f"accelerate/{name}": text for name, text in launchers().items()}}.items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
