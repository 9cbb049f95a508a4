"""The file tree of CONTRIBUTING.md, from the first sentence of every docstring: `python -m tests.tree` writes it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- tree: make tree -->\n", "<!-- end of tree -->"
PACKAGE = ROOT / "src" / "expert_condenser"


def tree() -> str:
    """One line per room and file, indented as the folders are; a room says what its `__init__` says."""
    return "\n".join(["    src/expert_condenser/", *_lines(PACKAGE, 1)])


def _lines(folder: Path, depth: int) -> list[str]:
    indent = "    " * (depth + 1)
    lines = []
    for path in sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name)):
        if path.suffix == ".py" and path.name != "__init__.py":
            lines.append(f"{indent}{path.name:<24} {first_sentence(path)}")
        elif (path / "__init__.py").exists():
            lines.append(f"{indent}{path.name + '/':<24} {first_sentence(path / '__init__.py')}")
            lines += _lines(path, depth + 1)
    return lines


def first_sentence(path: Path) -> str:
    """The first sentence of a file's docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?= |$)", text)[0].rstrip(":")


def written() -> str:
    """The tree as CONTRIBUTING.md has it."""
    return GUIDE.read_text().partition(BEGIN)[2].partition(END)[0].strip("\n")


if __name__ == "__main__":
    before, _, rest = GUIDE.read_text().partition(BEGIN)
    GUIDE.write_text(f"{before}{BEGIN}\n{tree()}\n\n{END}{rest.partition(END)[2]}")
