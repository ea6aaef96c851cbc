"""A picture of a series: a line per channel over time, drawn with Pillow."""

from __future__ import annotations

import io
import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SHADES = ("#3b6ea8", "#c8553d", "#5b8c5a", "#8e6bbf", "#b08b2e", "#4a9aa5")
PAPER, INK, FAINT, GRID = "#ffffff", "#1f2328", "#6e7781", "#e4e7eb"
WIDTH, HEIGHT = 360, 180  # pixels
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 32
MOST_LINES = 64  # channels drawn


def plot(
    readings: Tensor,  # (channels, length), in the units of the files
    rate: float | None,  # readings per second; None: the axis counts readings
) -> bytes:
    """A PNG. Time runs right, in seconds where the rate is known."""
    series = readings.detach().float().cpu()[:MOST_LINES]
    low, high = float(series.min()), float(series.max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    end = (series.shape[1] - 1) / rate if rate else float(series.shape[1] - 1)
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(time: float) -> float:
        return LEFT + (right - LEFT) * time / (end or 1.0)

    def down(value: float) -> float:
        return bottom - (bottom - TOP) * (value - low) / (high - low)

    for value in ticks(low, high):
        draw.line((LEFT, down(value), right, down(value)), fill=GRID)
        draw.text((LEFT - 5, down(value)), f"{value:g}", fill=FAINT, font=font, anchor="rm")
    for time in ticks(0.0, end):
        draw.line((across(time), TOP, across(time), bottom), fill=GRID)
        draw.text((across(time), bottom + 4), f"{time:g}", fill=FAINT, font=font, anchor="ma")
    draw.text((right, HEIGHT - 2), "seconds" if rate else "readings", fill=INK, font=font, anchor="rd")
    places = [across(time) for time in torch.linspace(0, end, series.shape[1]).tolist()]
    for channel, values in enumerate(series.tolist()):
        line = list(zip(places, map(down, values), strict=True))
        draw.line(line if len(line) > 1 else line * 2, fill=SHADES[channel % len(SHADES)], width=1)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in [low, high], about equally many for any range: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{index * step:.6g}") for index in range(first, last + 1)]
