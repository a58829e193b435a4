"""Small pieces of SVG: elements that escape what they are given, scales, axes.

Horizontal places are percents of the width and vertical ones pixels, so that a plot stretches and its text does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to places: ``low`` lies at ``begin``, ``high`` at ``end``, what is beyond at the nearer end."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value lies."""
        low, high, value = (self.bent(one) for one in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.begin + min(1.0, max(0.0, share)) * (self.end - self.begin)

    def bent(self, value: float) -> float:
        """The value, or its logarithm."""
        return math.log(max(value, TINY)) if self.logarithmic else value

    def holds(self, value: float) -> bool:
        """Whether a value lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 6) -> list[float]:
        """Round values between the ends."""
        return (
            round_logarithmic(self.low, self.high, most) if self.logarithmic else round_even(self.low, self.high, most)
        )


def round_even(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, ``most`` at most; the low end where none of them lies inside."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)] or [low]


def round_logarithmic(low: float, high: float, most: int) -> list[float]:
    """As many round numbers of each power of ten as there is room for."""
    powers = range(math.floor(math.log10(max(low, TINY))), math.ceil(math.log10(max(high, TINY))) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        inside = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if 2 <= len(inside) <= most:
            return inside
    return inside[:: max(1, len(inside) // most)] or [low]


def spread(values: Iterable[float], *, logarithmic: bool = False, room: float = 0.08) -> tuple[float, float]:
    """The ends of an axis that holds all values, with a share of room on both sides."""
    found = list(values)
    low, high = min(found), max(found)
    if logarithmic:
        low, high = max(low, TINY), max(high, TINY)
        factor = max((high / low) ** room, 1.1)
        return low / factor, high * factor
    margin = (high - low) * room or abs(high) * room or 1.0
    return low - margin, high + margin


def shown(value: object) -> str:
    """An attribute's value: numbers with two digits at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def percent(value: float) -> str:
    """A horizontal place."""
    return f"{shown(float(value))}%"


def element(name: str, *inside: object, **attributes: object) -> Markup:
    """One element. ``class_`` becomes ``class``, ``stroke_width`` ``stroke-width``; what is None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(shown(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    body = Markup().join(escape(one) for one in inside)
    return Markup(f"<{name}{written}>") + body + Markup(f"</{name}>") if inside else Markup(f"<{name}{written}/>")  # noqa: S704  # every part was escaped above


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A line between two points."""
    return element("line", x1=percent(x1), y1=float(y1), x2=percent(x2), y2=float(y2), class_=class_)


def bar(begin: float, end: float, top: float, height: float, class_: str, least: float = 0.0) -> Markup:
    """A bar between two places; one of nothing is still ``least`` wide."""
    left, width = min(begin, end), max(abs(end - begin), least)
    return element("rect", x=percent(left), y=float(top), width=percent(width), height=float(height), class_=class_)


def text(
    x: float, y: float, words: str, class_: str | None = None, anchor: str | None = None, dx: int | None = None
) -> Markup:
    """Words at a point; ``anchor`` is start, middle or end."""
    return element("text", words, x=percent(x), y=float(y), class_=class_, text_anchor=anchor, dx=dx)


def plot(height: int, label: str, *inside: object, class_: str = "plot") -> Markup:
    """A drawing with a name for those who cannot see it."""
    return element("svg", *inside, class_=class_, height=height, role="img", aria_label=label)


def marked(tip: str, *inside: object) -> Markup:
    """A part that tells more when it is pointed at, or reached by the keyboard."""
    return element("g", *inside, tabindex=0, role="img", aria_label=tip, data_tip=tip)
