"""Scenarios: functions by name that every rank of a world of processes calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Scenario = TypeVar("Scenario", bound=Callable[..., Any])


def scenario_of(scenarios: dict[str, Scenario]) -> Callable[[Scenario], Scenario]:
    """A decorator that adds a function to the scenarios, under its name."""

    def add(function: Scenario) -> Scenario:
        scenarios[function.__name__] = function
        return function

    return add


def error_of(call: Callable[[], Any]) -> str:
    """The class of what call raises and its message."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - reported to the test, whatever it is
        return f"{type(error).__name__}: {error}"
    return "no error"
