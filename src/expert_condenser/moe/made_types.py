"""Classes that are made at run time, and found again by pickle in another process, such as a server's workers."""

import copyreg
import sys
from collections.abc import Callable
from typing import Any

_MAKERS: dict[type, tuple[Callable[[str], Any], str]] = {}


def own_type(name: str, bases: tuple[type, ...], body: dict[str, Any], maker: Callable[[str], Any], of: str) -> Any:
    """A class in the module of `maker`, an attribute of it; pickled as the call `maker(of)` that makes it."""
    metaclass = _picklable(type(bases[-1]))
    made: Any = metaclass(name, bases, {**body, "__module__": maker.__module__})
    _MAKERS[made] = (maker, of)
    setattr(sys.modules[maker.__module__], name, made)
    return made


_METACLASSES: dict[type, Any] = {}


def _picklable(metaclass: type) -> Any:
    """A metaclass of its own, since pickle looks up by it how to write a class; one per metaclass of the families."""
    if metaclass not in _METACLASSES:
        own = type(f"Own{metaclass.__name__}", (metaclass,), {})
        copyreg.dispatch_table[own] = lambda made: (_MAKERS[made][0], (_MAKERS[made][1],))
        _METACLASSES[metaclass] = own
    return _METACLASSES[metaclass]
