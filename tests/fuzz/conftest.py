import jaxtyping
import pytest


@pytest.fixture(scope="package", autouse=True)
def as_users_have_it():
    """Without the checks of types that tests have and users have not: they would refuse what a reader let through."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield
