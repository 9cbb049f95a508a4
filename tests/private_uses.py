"""Finds in a source file what it uses of other libraries under a name that starts with one underscore."""

import ast
import io
import re
import tokenize

PRIVATE = re.compile(r"_[A-Za-z]\w*")
DOCUMENTED = {"_asdict", "_fields", "_make", "_replace"}
"""Of named tuples, public in spite of their names."""
SUFFIXES = {"_grouped"}
"""Strings that are the end of a longer name of ours."""


def private_uses(source):
    """`{name: lines}` of the private names of other libraries in `source`.

    A name is the file's own where a class of it defines the name and reads it from `self` or `cls`. One that is defined
    and never read so is read by a library: it overrides. A string of that form is for `getattr`.
    """
    tree = ast.parse(source)
    defined = {name for name, _ in _definitions(tree)}
    own = defined & {n.attr for n in ast.walk(tree) if _is_of_self(n) and isinstance(n.ctx, ast.Load)}
    uses = [*_attributes(tree, own), *_strings(tree), *_imports(tree)]
    uses += [(name, line) for name, line in _definitions(tree) if name not in own]
    found = {}
    for name, line in uses:
        if PRIVATE.fullmatch(name) and name not in DOCUMENTED | SUFFIXES:
            found.setdefault(name, set()).add(line)
    return found


def unexplained(source):
    """`name (line n)` of each private use without a comment beside or above it; an override may have a docstring."""
    explained, overrides = _explained_lines(source), _documented(ast.parse(source))
    return [
        f"{name} (line {line})"
        for name, lines in private_uses(source).items()
        for line in sorted(lines - explained - overrides.get(name, set()))
    ]


def _is_of_self(node):
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _definitions(tree):
    """What the bodies of classes define, and what is set on `self`."""
    for node in ast.walk(tree):
        if _is_of_self(node) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        for item in node.body if isinstance(node, ast.ClassDef) else ():
            targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
            names = [getattr(item, "name", None), *(getattr(target, "id", None) for target in targets)]
            yield from ((name, item.lineno) for name in names if name is not None)


def _attributes(tree, own):
    """Every attribute that is not our own; of `torch._C._name` the last."""
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and PRIVATE.fullmatch(n.attr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner and not (_is_of_self(node) and node.attr in own):
            yield node.attr, node.lineno


def _strings(tree):
    """Every string that is not a part of an f-string."""
    parts = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value, node.lineno


def _imports(tree):
    """The parts of every imported name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from ((part, node.lineno) for name in names for part in name.split("."))


def _documented(tree):
    """`{name: its lines}` of the functions with a docstring."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)]
    return {node.name: set(range(node.lineno, node.end_lineno + 1)) for node in functions}


def _explained_lines(source):
    """Lines with a comment, and those below a comment; not an instruction to a checker."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and re.sub(r"# (type: ignore|noqa)[^#]*", "", token.string).strip("# "):
            alone = token.line.strip().startswith("#")
            lines.add(token.start[0] + alone)
    return lines
