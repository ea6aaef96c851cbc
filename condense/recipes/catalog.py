"""The recipes that there are: `python -m condense data NAME` and `python -m condense towers NAME`."""

from __future__ import annotations

from condense.recipes import av_mnist, efficientnet_lite0, emoji, hapt, minilm, whisper_tiny_en

DATA = {module.RECIPE.name: module.RECIPE for module in (emoji, av_mnist, hapt)}
TOWERS = {module.RECIPE.name: module.RECIPE for module in (minilm, whisper_tiny_en, efficientnet_lite0)}
