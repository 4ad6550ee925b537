"""Charts as SVG pictures. Letters are drawn as outlines, so they need no font."""

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
"""Inches. A phone shows a chart at three quarters of its size, a desktop slightly larger."""
BARS = 62
"""The most days or weeks that are drawn as bars; more are drawn as a line."""
LONG_DAYS = 183
"""A chart of more days writes the year beside the month."""


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


def over_time(
    days: Sequence[date],
    values: Sequence[float],
    say: Callable[[float], str],
    locale: Locale,
    theme: Theme,
    colour: str,
) -> bytes:
    """A chart of a value for each day, or for each week by its first day; NaN where there is none. `say` writes the
    labels of the axis."""
    with _style():
        figure, axes = _figure(theme)
        places = range(len(days))
        if len(days) <= BARS:
            axes.bar(places, [0 if math.isnan(value) else value for value in values], width=0.75, color=colour)
        else:
            # A day between two days without orders is drawn as a dot, because a line needs two points.
            axes.plot(places, values, color=colour, linewidth=1.4, marker=".", markersize=2.5)
            axes.fill_between(places, values, color=colour, alpha=0.15, linewidth=0)
        around = max(0.6, (7 - len(days)) / 2)  # a few bars are as wide as seven
        axes.set_xlim(-around, len(days) - 1 + around)
        axes.set_ylim(0, max((value for value in values if value > 0), default=1) * 1.08)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        ticks, skeleton = _ticks(days)
        axes.set_xticks(ticks, [format_skeleton(skeleton, days[tick], locale=locale) for tick in ticks])
        axes.spines["bottom"].set_visible(True)
        return _svg(figure)


def _style() -> AbstractContextManager[None]:
    """Settings that must not depend on the machine. The salt makes the ids within a picture always the same."""
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
    """Up to four days that the axis names, and their format. A long axis names the first days of months, with the
    year."""
    is_long = (days[-1] - days[0]).days > LONG_DAYS
    places = [place for place, day in enumerate(days) if not is_long or (place and day.month != days[place - 1].month)]
    step = max(1, math.ceil(len(places) / 4))
    return places[(len(places) - 1) % step // 2 :: step], "yMMM" if is_long else "MMMd"


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
