"""What `import expert_condenser` adds to transformers and PEFT: as soon as either is imported, and not before.

`AutoModelForCausalLM.from_pretrained` needs our model types, PEFT our adapter type, and a config our experts
implementation. Importing them takes seconds, which `condenser --help` and a comparison of result files do not need. So
each of our modules below registers what it has at the end of its own import, and is imported right after the module of
the other library that it adds to. Such a module may be imported while the rest of transformers is half imported: it
takes what it needs from `transformers` by attribute, at call time.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AFTER = {
    "transformers.models.auto.configuration_auto": "expert_condenser.moe.own_types",
    "transformers.integrations.moe": "expert_condenser.moe.experts",
    "peft": "expert_condenser.adapters.peft_type",
}
"""Module of another library -> the module of ours that registers there."""


class ImportThen(Loader):
    """A loader that does what another one does, and then imports one more module."""

    def __init__(self, loader: Loader, finder: "WaitForImport", name: str) -> None:
        self.loader, self.finder, self.name = loader, finder, name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the other loader, which the module names as its own again; then the following."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.finder.imported(self.name)


class WaitForImport(MetaPathFinder):
    """Finds nothing itself: puts `ImportThen` before the loaders of the modules that are waited for."""

    def __init__(self, waiting: dict[str, str]) -> None:
        self.waiting = waiting

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that the other finders give, with our loader around theirs; None for every other module.

        It waits on: a library that only asks whether another one is there (`importlib.util.find_spec`) imports nothing.
        """
        if name not in self.waiting:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = ImportThen(spec.loader, self, name)
        return spec

    def imported(self, name: str) -> None:
        """Wait no longer for a module, and import ours that follows it."""
        following = self.waiting.pop(name, None)
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)
        if following is not None:
            import_module(following)


def register_when_imported() -> None:
    """Register now where the other library is there already, else as soon as it is."""
    waiting = {name: following for name, following in AFTER.items() if name not in sys.modules}
    if waiting:
        sys.meta_path.insert(0, WaitForImport(waiting))
    for name, following in AFTER.items():
        if name not in waiting:
            import_module(following)
