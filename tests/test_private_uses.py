"""What counts as the use of a private API, and what as the reason for it."""

import pytest

from tests.private_uses import private_uses, unexplained


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x._private", {"_private"}),
        ("torch._C._private()", {"_private"}),
        ("super()._private()", {"_private"}),
        ("self._private = 1", {"_private"}),
        ("getattr(x, '_private', None)", {"_private"}),
        ("from torch._private import name", {"_private"}),
        ("import torch._private.name", {"_private"}),
        ("class A:\n  def _private(self): ...", {"_private"}),
        ("class A:\n  _private: int = 1", {"_private"}),
        ("class A:\n  def _own(self): ...\n  def f(self): return self._own()", set()),
        ("class A:\n  def _both(self): return super()._both()\n  def f(self): return self._both()", {"_both"}),
        ("self._own = 1\nself._own", set()),
        ("f'{x}_suffix'", set()),
        ("def _own(): ...\n_own()\n_OWN = 1", set()),
        ("x._replace(a=1).__class__", set()),
    ],
)
def test_what_counts_as_private(source, found):
    assert set(private_uses(source)) == found


def test_what_counts_as_an_explanation():
    assert unexplained("x._a\ny = 1  # why\nx._b\n") == ["_a (line 1)", "_b (line 3)"]
    assert unexplained("x._a  # type: ignore[attr-defined]") == ["_a (line 1)"]
    assert unexplained("# why\nx._a\nx._b  # why\n") == []
    override = "class A:\n  def _a(self):\n    '''Why.'''\n    super()._a()\n    super()._b()"
    assert unexplained(override) == ["_b (line 5)"]
