"""What every module of the matrix uses; it has KIND, the name of its kind of group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .ranks import Ranks
from .scenarios import FAULTS, Promise


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize `fault` with all faults that the kind makes promises about."""
    if "fault" in metafunc.fixturenames:
        kind = metafunc.module.KIND
        faults = [each for each in FAULTS.values() if isinstance(each.promises[kind], Promise)]
        metafunc.parametrize("fault", faults, ids=lambda fault: fault.name)


@pytest.fixture(scope="module")
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ranks]:
    """The ranks, which run one fault after the other."""
    started = Ranks(request.module.KIND, tmp_path_factory.mktemp("ranks"))
    yield started
    started.close()
