"""Charts as SVG pictures. Letters are drawn as outlines, so they look the same everywhere, whatever fonts there are."""

import io
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date

import matplotlib
from babel import Locale
from babel.dates import format_skeleton
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH, HEIGHT = 4.4, 3.0
"""Inches. A phone shows it at three quarters of its size, a desktop a bit larger."""
BARS = 62
"""So many days are bars; more are a line."""
FEWEST = 5
"""Bars of a ranking for which there is room, even if there are fewer."""

LONG_SKU = 30


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours for one background."""

    text: str
    quiet: str
    grid: str
    series: str
    warning: str


LIGHT = Theme(text="#2b2622", quiet="#6b6055", grid="#e3dccf", series="#2f6690", warning="#b5472f")
DARK = Theme(text="#efe9e1", quiet="#b3a798", grid="#3f3932", series="#5b9bc9", warning="#e0765d")


def by_day(
    days: Sequence[date],
    values: Sequence[float],
    say: Callable[[float], str],
    locale: Locale,
    theme: Theme,
    colour: str,
) -> bytes:
    """A value a day; NaN where there is none. `say` writes the values at the axis."""
    with _style():
        figure, axes = _figure(theme)
        places = range(len(days))
        if len(days) <= BARS:
            axes.bar(places, [0 if math.isnan(value) else value for value in values], width=0.75, color=colour)
        else:
            # A day between two without orders is no line, but a dot.
            axes.plot(places, values, color=colour, linewidth=1.4, marker=".", markersize=2.5)
            axes.fill_between(places, values, color=colour, alpha=0.15, linewidth=0)
        around = max(0.6, (7 - len(days)) / 2)  # a few days are no wider than those of a week
        axes.set_xlim(-around, len(days) - 1 + around)
        axes.set_ylim(0, max((value for value in values if value > 0), default=1) * 1.08)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        ticks, skeleton = _ticks(days)
        axes.set_xticks(ticks, [format_skeleton(skeleton, days[tick], locale=locale) for tick in ticks])
        axes.spines["bottom"].set_visible(True)
        return _svg(figure)


def ranking(names: Sequence[str], values: Sequence[float], said: Sequence[str], theme: Theme) -> bytes:
    """Bars below each other, the first at the top; each has its name above it, so that a long one has room."""
    with _style():
        figure, axes = _figure(theme)
        most = max(values)
        axes.barh(range(len(names)), values, height=0.34, color=theme.series)
        for row, (name, value, text) in enumerate(zip(names, values, said, strict=True)):
            size = 8 if len(name) <= LONG_SKU else 6.5
            axes.text(0, row - 0.27, name, color=theme.text, fontsize=size, va="bottom")
            axes.text(value + most * 0.015, row, text, color=theme.quiet, fontsize=8, va="center")
        axes.set_xlim(0, most * 1.42)
        axes.set_ylim(max(len(names), FEWEST) - 0.7, -0.85)
        axes.xaxis.set_visible(False)
        axes.yaxis.set_visible(False)
        return _svg(figure)


def _style() -> AbstractContextManager[None]:
    """What would otherwise come from the machine's settings; the salt makes a picture's inner names always the same."""
    return matplotlib.rc_context(
        {
            **matplotlib.rcParamsDefault,
            "backend": "svg",
            "font.family": "DejaVu Sans",
            "font.size": 8.5,
            "svg.fonttype": "path",
            "svg.hashsalt": "malote",
            "text.parse_math": False,
        }
    )


def _figure(theme: Theme) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[:].set_visible(False)
    axes.spines[:].set_color(theme.grid)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=theme.quiet)
    axes.tick_params(axis="x", pad=6)
    return figure, axes


def _ticks(days: Sequence[date]) -> tuple[list[int], str]:
    """Where to name days, four times at the most, and how: after half a year, the first of months with their year."""
    is_long = len(days) > 180
    places = [place for place, day in enumerate(days) if day.day == 1 or not is_long]
    step = max(1, math.ceil(len(places) / 4))
    return places[(len(places) - 1) % step // 2 :: step], "yMMM" if is_long else "MMMd"


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
