import jaxtyping
import pytest
from accelerate import PartialState


@pytest.fixture(scope="package", autouse=True)
def as_users_have_it():
    """Without the checks of types that tests have and users have not: they would refuse what a reader let through."""
    PartialState(cpu=True)  # a training has it, and accelerate's log asks for it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield
