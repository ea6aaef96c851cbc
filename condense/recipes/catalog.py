"""The recipes that there are."""

from __future__ import annotations

from condense.recipes import efficientnet_lite0, minilm, whisper_tiny_en
from condense.recipes.recipe import Recipe

DATA: dict[str, Recipe] = {}
TOWERS = {module.RECIPE.name: module.RECIPE for module in (minilm, whisper_tiny_en, efficientnet_lite0)}
