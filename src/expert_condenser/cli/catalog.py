"""The tables of methods and families, and what can be measured, as the package holds them in `catalog.json`.

`condenser methods`, `condenser families` and the flags of `condenser bench` are read from the file, since the tables
themselves import torch and transformers, which takes seconds. `python -m expert_condenser.cli.catalog` (`make catalog`)
writes it; a test holds it equal.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from expert_condenser.files import write_json

CATALOG, COSTS = "catalog.json", "costs.json"
TESTED = "identity when off, the paper's routing, a training step, save and load (tests/moe/test_families.py)"


def catalog() -> dict[str, list[Any]]:
    """Rows of `methods` and `families`; names of the `arms`, `shapes` and `experts` implementations of a benchmark."""
    return json.loads(files("expert_condenser.cli").joinpath(CATALOG).read_text())


def committed_costs() -> dict[str, Any]:
    """The costs measured last, as committed: `condenser methods --measure src/expert_condenser/cli/costs.json`."""
    return json.loads(files("expert_condenser.cli").joinpath(COSTS).read_text())


def build() -> dict[str, list[Any]]:
    """The same from the tables themselves."""
    from expert_condenser.bench.arms import ARMS, IMPLEMENTATIONS
    from expert_condenser.bench.shapes import SHAPES
    from expert_condenser.export.exportability import family_exports
    from expert_condenser.methods import METHODS
    from expert_condenser.moe.families import FAMILIES, REFUSED

    methods = [
        {
            "name": name,
            "summary": method.summary,
            "paper": method.paper,
            "trainable": method.trainable,
            "phases": list(method.phases),
            "options": list(method.options()),
        }
        for name, method in METHODS.items()
    ]
    supported = [
        {
            "model_type": name,
            "supported": True,
            "router_class": family.router_class,
            "router_path": family.router,
            "scoring": family.rule.description,
            "native_correction_bias": family.rule.correction is not None,
            "tested": TESTED,
            "export": family_exports(name),
            "reason": None,
        }
        for name, family in sorted(FAMILIES.items())
    ]
    nothing = dict.fromkeys(("router_class", "router_path", "scoring", "native_correction_bias", "tested", "export"))
    refused = [
        {"model_type": name, "supported": False, **nothing, "reason": reason}
        for name, reason in sorted(REFUSED.items())
    ]
    names = {"arms": list(ARMS), "shapes": list(SHAPES), "experts": list(IMPLEMENTATIONS)}
    return {"methods": methods, "families": supported + refused, **names}


if __name__ == "__main__":
    write_json(Path(__file__).with_name(CATALOG), build(), indent=1)
