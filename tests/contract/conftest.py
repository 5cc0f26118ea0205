from tests.contract.runs import table  # noqa: F401
