"""What a world of four ranks does for several files of tests."""

from __future__ import annotations

import scenarios_dtensor
import scenarios_groups
import scenarios_pickling
import scenarios_rank_lists
import scenarios_relative_groups
from worlds import Scenario

SCENARIOS: dict[str, Scenario] = {}

for module in (
    scenarios_groups,
    scenarios_pickling,
    scenarios_rank_lists,
    scenarios_relative_groups,
    scenarios_dtensor,
):
    assert not SCENARIOS.keys() & module.SCENARIOS.keys(), "two scenarios of one name"
    SCENARIOS.update(module.SCENARIOS)
