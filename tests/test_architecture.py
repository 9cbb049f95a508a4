"""The rules of the code base: imports go downwards, files stay small, nothing unsafe, public names frozen."""

import ast
import re
import sys
from pathlib import Path

import pytest

import expert_condenser

PACKAGE = "expert_condenser"
SOURCE = Path(expert_condenser.__file__).parent
FILES = {str(path.relative_to(SOURCE)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
ROOMS = (
    *("errors", "names", "files", "yaml_file", "ownership", "clearing", "workfolder", "appearing"),
    *("functional", "kernels"),
    *("moe", "adapters", "checkpoint", "testing"),
    "methods",
    "data",
    *("training", "evaluation"),
    *(
        "comparison",
        "analysis",
        "study",
        "bench",
        "testbed",
        "planning",
        "report",
        "watch",
        "export",
        "surgery",
        "card",
    ),
    "cli",
    *("architectures", "registration", "__init__", "__main__"),
)
"""Every file or folder of the package, lowest first, a floor a line: each imports only from those before it."""
FLOOR_OF = {name: index for index, name in enumerate(ROOMS)}
MATHEMATICS = ("errors", "names", "files", "functional", "kernels")
PUBLIC_NAMES = [
    "METHODS",
    "MethodCallback",
    "MethodConfig",
    "RoutingConfig",
    "attach",
    "detach",
    "load_model",
    "moe_layers",
    "route",
    "select_condensers",
    "set_condensers",
    "update_bias",
]
ALLOWED_WITHIN = {PACKAGE, "torch", "jaxtyping", *sys.stdlib_module_names}
FORBIDDEN_WITHIN = ("torch.nn", "torch.distributed")
MAX_FILE, MAX_FUNCTION = 300, 40
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

every_file = pytest.mark.parametrize("file", FILES)


def top_name(file):
    """`methods/sft.py` -> `methods`: the file or folder that has a ring."""
    return Path(file).parts[0].removesuffix(".py")


def imports(source):
    """Full names of everything that is imported, anywhere in the source; relative imports start with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def room_of(name):
    """The room of `expert_condenser.x.y`; names of the package itself are the public API of all rooms."""
    return name.split(".")[1] if name.count(".") and name.split(".")[1] in FLOOR_OF else "__init__"


def upward_imports(file, source):
    room = top_name(file)
    for name in imports(source):
        package = name.split(".")[0]
        if package == "":
            yield f"{file}: relative import {name}"
        elif package == PACKAGE and FLOOR_OF[room_of(name)] > FLOOR_OF[room]:
            yield f"{file} imports {name}, which stands above {room}"
        elif room in MATHEMATICS and (package not in ALLOWED_WITHIN or name.startswith(FORBIDDEN_WITHIN)):
            yield f"{file} (mathematics) imports {name}"
    if room in MATHEMATICS and (found := re.search(r"\btorch\.(nn(?!\.functional)|distributed)\b", code_of(source))):
        yield f"{file} (mathematics) uses {found[0]}"


def cycle(edges):
    """Modules that import each other in a circle, the first one found; empty where there is none."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        path.append(module)
        found = next(filter(None, map(visit, sorted(edges.get(module, ())))), [])
        path.pop()
        done.add(module)
        return found

    return next(filter(None, map(visit, sorted(edges))), [])


def module_of(file):
    return ".".join([PACKAGE, *Path(file).with_suffix("").parts]).removesuffix(".__init__")


def edges_between(files):
    """`{module: modules that it imports}`, of the modules among `files`."""
    modules = {module_of(file) for file in files}

    def target(name):
        return next((m for m in (name, name.rpartition(".")[0]) if m in modules), None)

    return {module_of(file): {target(name) for name in imports(source)} - {None} for file, source in files.items()}


def code_of(source):
    """The source without comments and docstrings."""

    class WithoutProse(ast.NodeTransformer):
        def visit_Expr(self, node):
            return ast.Pass() if isinstance(node.value, ast.Constant) else node

    return ast.unparse(WithoutProse().visit(ast.parse(source)))


def function_lengths(source):
    """Lines of every function, its docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTIONS):
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            prose = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
            yield node.name, node.end_lineno - node.lineno + 1 - prose


def unsafe(source):
    code = code_of(source)
    for pattern in (
        "pickle",
        r"\bshell['\"]?\s*[=:]\s*True",
        r"trust_remote_code['\"]?(: bool)?\s*[=:]\s*True",
        r"os\.system",
    ):
        yield from (found[0] for found in re.finditer(pattern, code))
    yield from (name for name in imports(source) if name == "torch.load")
    for node in ast.walk(ast.parse(source)):
        loads = isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        if loads and "weights_only=True" not in map(ast.unparse, node.keywords):
            yield ast.unparse(node)


@every_file
def test_imports_go_downwards(file):
    assert top_name(file) in FLOOR_OF, f"{file} has no place: name one in ROOMS"
    assert list(upward_imports(file, FILES[file])) == []


def test_no_room_is_missing():
    assert {top_name(file) for file in FILES} == set(ROOMS)


def test_no_modules_import_each_other_in_a_circle():
    assert cycle(edges_between(FILES)) == []


def test_circles_are_found():
    files = {
        "moe/a.py": "from expert_condenser.moe import b",
        "moe/b.py": "def late():\n    from expert_condenser.moe.c import x",
        "moe/c.py": "import expert_condenser.moe.a",
    }
    assert [name.rpartition(".")[2] for name in cycle(edges_between(files))] == ["a", "b", "c"]
    assert cycle(edges_between({**files, "moe/c.py": ""})) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("errors.py", "from expert_condenser.functional.routing import route"),
        ("functional/routing.py", "from expert_condenser.moe.layers import FAMILIES"),
        ("functional/routing.py", "from expert_condenser import moe"),
        ("functional/routing.py", "import expert_condenser"),
        ("functional/bias.py", "import transformers"),
        ("functional/bias.py", "import torch.distributed as dist"),
        ("functional/bias.py", "from torch import Tensor, nn"),
        ("functional/bias.py", "import torch\nclass Bias(torch.nn.Module): ..."),
        ("functional/bias.py", "import torch\ndef total(x):\n    torch.distributed.all_reduce(x)"),
        ("moe/router.py", "def late():\n    from expert_condenser.methods.sft import Sft"),
        ("moe/router.py", "if TYPE_CHECKING:\n    import expert_condenser.methods"),
        ("moe/router.py", "import importlib\nimportlib.import_module('expert_condenser.cli')"),
        ("moe/router.py", "from expert_condenser import METHODS"),
        ("methods/sft.py", "from expert_condenser.training.recipe import Recipe"),
        ("methods/sft.py", "from ..training import recipe"),
        ("training/run.py", "from expert_condenser.evaluation.evaluate import evaluate"),
        ("moe/router.py", "from expert_condenser.adapters.lora import add_adapter"),
    ],
)
def test_upward_imports_are_found(file, source):
    assert len(list(upward_imports(file, source))) >= 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "functional/routing.py",
            "import math, torch\nfrom torch import Tensor\nfrom expert_condenser.errors import RoutingError",
        ),
        ("functional/routing.py", '"""Not a torch.nn.Module, and nothing of torch.distributed."""'),
        ("functional/selection.py", "from expert_condenser.functional.concentration import gini"),
        ("functional/scoring.py", "import torch\ntorch.nn.functional.softplus"),
        ("moe/router.py", "from torch import nn\nimport transformers\nfrom expert_condenser.functional import routing"),
        ("methods/sft.py", "from expert_condenser import moe\nfrom expert_condenser.methods.base import Method"),
        ("evaluation/evaluate.py", "from expert_condenser.training.record import RUN"),
    ],
)
def test_downward_imports_are_allowed(file, source):
    assert list(upward_imports(file, source)) == []


@every_file
def test_files_and_functions_stay_small(file):
    assert len(FILES[file].splitlines()) <= MAX_FILE
    assert [(name, size) for name, size in function_lengths(FILES[file]) if size > MAX_FUNCTION] == []


def test_lengths_do_not_count_docstrings():
    body = "\n    x = 1" * 39
    documented = f'class A:\n  def f(self):\n    """One.\n\n    Two.\n    """{body}\n    async def g(): ...'
    assert list(function_lengths(documented)) == [("f", 41), ("g", 1)]
    assert list(function_lengths(f"def f():{body}")) == [("f", 40)]


@every_file
def test_nothing_is_unpickled_and_no_foreign_code_runs(file):
    assert list(unsafe(FILES[file])) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "options = {'shell': True}",
        "os.system('ls')",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "options = {'trust_remote_code': True}",
        "def load(path, trust_remote_code: bool = True): ...",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load",
    ],
)
def test_unsafe_code_is_found(source):
    assert len(list(unsafe(source))) == 1


def test_safe_code_passes():
    assert list(unsafe('"""No pickle, no shell=True."""  # nor trust_remote_code=True')) == []
    assert list(unsafe("torch.load(path, weights_only=True)\nrun(shell=False)")) == []


def test_public_names_are_frozen():
    assert sorted(expert_condenser.__all__) == PUBLIC_NAMES
    assert all(hasattr(expert_condenser, name) for name in PUBLIC_NAMES)


def test_no_file_is_a_drawer():
    assert [file for file in FILES if Path(file).stem in {"utils", "util", "common", "helpers", "misc"}] == []
