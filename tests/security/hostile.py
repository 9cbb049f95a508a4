"""Files of somebody who wants to run something here: each would create a file, and by that is found out."""

import json
from pathlib import Path

import torch


class Hostile:
    """Pickled, it creates a file when it is unpickled by whoever unpickles anything."""

    def __init__(self, target):
        self.target = Path(target)

    def __reduce__(self):
        return Path.touch, (self.target,)


def hostile_pickle(path, target, like=None):
    """A file as `torch.save` writes it, with something hostile beside what is expected there."""
    torch.save({**(like or {}), "hostile": Hostile(target)}, path)


def hostile_module(path, target):
    """Code that runs when it is imported."""
    path.write_text(f"from pathlib import Path\n\nPath({str(target)!r}).touch()\n")


def edit_json(path, change):
    """Change what a JSON file says, in place or by a new value."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))
