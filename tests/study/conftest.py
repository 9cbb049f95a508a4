import jaxtyping
import pytest


@pytest.fixture(scope="package", autouse=True)
def transformers_defaults():
    """The argument parser passes on defaults that are not of their field's type, such as 10 for a float."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield
