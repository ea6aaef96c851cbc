"""Where settings are run after the trials."""

from __future__ import annotations

from typing import Any

from search.analysis.cost import most_confirmation_runs
from search.analysis.surrogate import Scored, Surface
from search.confirmation.stages import ConfirmationStages
from search.space.files import load_space


def test_learning_rates_of_choices_are_those_of_the_chosen_setting() -> None:
    """Only what has a range can be spread over."""
    searched = "{learning_rate_vision: {choices: [1.0, 3.0]}, learning_rate_audio: {low: 0.3, high: 100, log: true}}"
    space = load_space("quickstart", [f"search={searched}"])
    rates = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 90.0]
    surface = Surface(
        space, [Scored({"learning_rate_vision": 1.0, "learning_rate_audio": r}, 0.5 + r / 1000, 0.01) for r in rates]
    )
    confirmation = ConfirmationStages.__new__(ConfirmationStages)
    confirmation.space, confirmation.choosing_seeds = space, [1, 2, 3, 4]
    tried: dict[str, dict[str, Any]] = {}

    def run(settings: dict[str, dict[str, Any]], *_: Any) -> dict[str, Any]:
        tried.update(settings)
        return dict(settings)

    confirmation.run, confirmation.score = run, lambda h: h["learning_rate_audio"]  # type: ignore[assignment, method-assign]
    best = confirmation.tuned_rates(surface, {"learning_rate_vision": 3.0, "learning_rate_audio": 5.0})
    assert best is not None and best["learning_rate_audio"] == max(h["learning_rate_audio"] for h in tried.values())
    spread = list(tried.values())[2:]
    assert len(spread) == space.confirmation.tuned_rates
    assert {h["learning_rate_vision"] for h in spread} == {3.0}


