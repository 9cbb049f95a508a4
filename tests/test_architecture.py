"""The rules of the code base: imports point inwards, files stay small, nothing unsafe, public names frozen."""

import ast
import re
import sys
from pathlib import Path

import pytest

import expert_condenser

PACKAGE = "expert_condenser"
SOURCE = Path(expert_condenser.__file__).parent
FILES = {str(path.relative_to(SOURCE)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
RINGS = {
    0: {"errors"},
    1: {
        "scoring",
        "routing",
        "bias",
        "selection",
        "allocation",
        "concentration",
        "buffers",
        "gating",
        "sorted_experts",
    },
    2: {
        *(
            "rules",
            "families",
            "models",
            "parameters",
            "mixture",
            "slices",
            "implementation",
            "router",
            "architectures",
            "attach",
        ),
        *("adapters", "checkpoint", "testing", "tiny_families"),
    },
    3: {"methods"},
    4: {
        "__init__",
        "training",
        "evaluation",
        "report",
        "analysis",
        "testbed",
        "bench",
        "study",
        "catalog",
        "demo",
        "cli",
    },
}
RING_OF = {name: ring for ring, names in RINGS.items() for name in names}
PUBLIC_NAMES = [
    "METHODS",
    "MethodCallback",
    "MethodConfig",
    "RoutingConfig",
    "attach",
    "detach",
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


def ring_of_import(name):
    """The ring of `expert_condenser.x.y`; names of the package itself are the public API of all rings."""
    return RING_OF.get([*name.split("."), ""][1], RING_OF["__init__"])


def ring_violations(file, source):
    ring = RING_OF[top_name(file)]
    for name in imports(source):
        package = name.split(".")[0]
        if package == "":
            yield f"{file}: relative import {name}"
        elif package == PACKAGE and ring_of_import(name) > ring:
            yield f"{file} (ring {ring}) imports {name} (ring {ring_of_import(name)})"
        elif ring <= 1 and (package not in ALLOWED_WITHIN or name.startswith(FORBIDDEN_WITHIN)):
            yield f"{file} (ring {ring}) imports {name}"
    if ring <= 1 and (found := re.search(r"\btorch\.(nn(?!\.functional)|distributed)\b", code_of(source))):
        yield f"{file} (ring {ring}) uses {found[0]}"


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
def test_imports_point_inwards(file):
    assert top_name(file) in RING_OF, f"{file} has no ring: name one in RINGS"
    assert list(ring_violations(file, FILES[file])) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("errors.py", "from expert_condenser.routing import route"),
        ("routing.py", "from expert_condenser.models import FAMILIES"),
        ("routing.py", "from expert_condenser import models"),
        ("routing.py", "import expert_condenser"),
        ("bias.py", "import transformers"),
        ("bias.py", "import torch.distributed as dist"),
        ("bias.py", "from torch import Tensor, nn"),
        ("bias.py", "import torch\nclass Bias(torch.nn.Module): ..."),
        ("bias.py", "import torch\ndef total(x):\n    torch.distributed.all_reduce(x)"),
        ("router.py", "def late():\n    from expert_condenser.methods.sft import Sft"),
        ("router.py", "if TYPE_CHECKING:\n    import expert_condenser.methods"),
        ("router.py", "import importlib\nimportlib.import_module('expert_condenser.cli')"),
        ("router.py", "from expert_condenser import METHODS"),
        ("methods/sft.py", "from expert_condenser.training.config import TrainingConfig"),
        ("methods/sft.py", "from ..training import config"),
    ],
)
def test_outward_imports_are_found(file, source):
    assert len(list(ring_violations(file, source))) >= 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "routing.py",
            "import math, torch\nfrom torch import Tensor\nfrom expert_condenser.errors import RoutingError",
        ),
        ("routing.py", '"""Not a torch.nn.Module, and nothing of torch.distributed."""'),
        ("selection.py", "from expert_condenser.concentration import gini"),
        ("scoring.py", "import torch\ntorch.nn.functional.softplus"),
        ("router.py", "from torch import nn\nimport transformers\nfrom expert_condenser.routing import route"),
        ("methods/sft.py", "from expert_condenser import models\nfrom expert_condenser.methods.base import Method"),
        ("training/run.py", "import expert_condenser\nfrom expert_condenser.testbed import base_model_path"),
    ],
)
def test_inward_imports_are_allowed(file, source):
    assert list(ring_violations(file, source)) == []


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
