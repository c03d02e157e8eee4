"""Options of the benchmark suite."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="small tables: a smoke run, whose times mean nothing")


@pytest.fixture(scope="session")
def quick(request):
    return request.config.getoption("--quick")
