"""`make recipes` writes the recipes from table.yaml: one per model and method, and those of the other variants."""

from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
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


def main() -> None:
    """Write every recipe; a recipe that the table no longer has is deleted."""
    made = recipes()
    for path in FOLDER.glob("*-*.yaml"):
        if path.name not in made:
            path.unlink()
    for name, content in made.items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
