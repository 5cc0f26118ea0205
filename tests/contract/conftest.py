import pytest

from tests.contract import toys
from tests.contract.runs import table  # noqa: F401


@pytest.fixture(autouse=True, scope="package")
def known():
    """The small methods are known to the tests of this folder alone."""
    with toys.registered():
        yield
