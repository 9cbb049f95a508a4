"""Runs of an engine beside those of one process."""

import torch

from tests.engines.cases import TOLERANCE, Left, difference, launch, make_base, options


def slug(family, method):
    return f"{family}-{method}".translate(str.maketrans({" ": "_", ",": "", ":": ""}))


class Bench:
    """A folder with base models, and the runs that each engine made of them."""

    def __init__(self, folder):
        self.folder = folder

    def base(self, family):
        path = self.folder / "bases" / family
        return path if path.exists() else make_base(path, family)

    def case(self, engine, family, method, name=None, **more):
        """A case for the worker; `changes` are of the recipe."""
        processes = 1 if engine == "one_process" else 2
        changes = more.pop("changes", {})
        folder = self.folder / engine / (name or slug(family, method))
        return {"folder": str(folder), "options": options(self.base(family), method, processes, **changes), **more}

    def run(self, engine, cases):
        launch(engine, cases, self.folder / engine)

    def left(self, engine, name):
        return Left(self.folder / engine / name)

    def refused(self, engine, name):
        """With what message, or None."""
        path = self.folder / engine / f"{name}.refused"
        return path.read_text() if path.exists() else None

    def differences(self, engine, name, reference=None):
        """Largest differences to the run of one process; usage, bias and condensers have to be equal."""
        found, expected = self.left(engine, name), self.left("one_process", reference or name)
        assert torch.equal(found.usage, expected.usage)
        assert found.state.keys() == expected.state.keys()
        assert all(torch.equal(found.state[key], value) for key, value in expected.state.items())
        loss = (found.losses - expected.losses).abs().max().item()
        return {"loss": loss, "weights": difference(found.result, expected.result)}

    def assert_equal(self, engine, name, reference=None):
        found = self.differences(engine, name, reference)
        assert max(found.values()) < TOLERANCE, found
        return found

    def assert_differs(self, engine, name, reference):
        found, expected = self.left(engine, name), self.left("one_process", reference)
        assert difference(found.result, expected.result) > 3 * TOLERANCE
