"""Colours of the figures and the page, each for the light and the dark theme.

`plot` draws with the light theme. In panels embedded in the page it replaces each colour by a CSS variable that `theme_css` defines.
Ordered colours differ in lightness first and hue second, so the order survives colour blindness and greyscale printing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Colour:
    """One colour in the light and the dark theme, as lower-case #rrggbb."""

    light: str
    dark: str

    @property
    def variable(self) -> str:
        return f"--c{self.light[1:]}"


BACKGROUND: Final = Colour("#ffffff", "#15171b")
TEXT: Final = Colour("#1d2127", "#e6e7ea")
MUTED: Final = Colour("#5d6570", "#9aa2ad")
GRID: Final = Colour("#e4e6ea", "#2b2f36")
UNRANKED: Final = Colour("#323943", "#d5d8dd")
"""Lines that have no rank on a colour ramp."""

REFERENCE: Final = Colour("#b3b9c2", "#59616c")
"""Reference lines of another recipe."""

RULE: Final = Colour("#cfd3d9", "#3a3f47")
LINK: Final = Colour("#0b5cad", "#7cb7ff")
WARNING: Final = Colour("#8a4b00", "#f0b35e")
HIGHLIGHT: Final = Colour("#f5f6f8", "#1c1f24")
"""Background of notices and of the table cell that a link leads to."""

PAGE_COLOURS: Final = {
    "background": BACKGROUND, "text": TEXT, "muted": MUTED, "grid": GRID, "rule": RULE, "link": LINK, "warning": WARNING,
    "highlight": HIGHLIGHT,
}  # fmt: skip
"""The page's colours, by the names of the CSS variables in its style sheet."""

# Samples of matplotlib's `plasma` (van der Walt and Smith 2015), light theme first. Both ends are left out: the light one is too faint on a
# light background, the dark one on a dark background
_CODE: Final = (
    ("#f0804e", "#d9556a", "#b02a8f", "#7a05a7", "#2e0594"),
    ("#fcce25", "#fb9f3a", "#f0744f", "#d8576b", "#b8389a"),
)
# Samples of matplotlib's `viridis`, from blue to green: the largest size is darkest in the light theme and brightest in the dark theme
_SIZE: Final = (
    ("#4fc36b", "#26a784", "#23898e", "#306a8e", "#433d84"),
    ("#5067b0", "#3a87a8", "#2fa694", "#54c76c", "#b5de4b"),
)
RAMPS: Final = {"code": _CODE, "size": _SIZE}


def ramp(name: str, steps: int) -> list[Colour]:
    """Return `steps` evenly spaced colours of the ramp "code" or "size".

    For one step, this is the last colour of the ramp.
    """
    light, dark = RAMPS[name]
    positions = [1.0] * steps if steps < 2 else [step / (steps - 1) for step in range(steps)]
    return [Colour(_interpolate(light, position), _interpolate(dark, position)) for position in positions]


def theme_css(colours: Sequence[Colour]) -> str:
    """Return CSS that defines a variable per colour, with a media query for the dark theme."""
    unique = sorted(set(colours), key=lambda colour: colour.light)
    light = "".join(f"{colour.variable}:{colour.light};" for colour in unique)
    dark = "".join(f"{colour.variable}:{colour.dark};" for colour in unique)
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _interpolate(anchors: Sequence[str], position: float) -> str:
    scaled = position * (len(anchors) - 1)
    left = min(int(scaled), len(anchors) - 2)
    pairs = zip(_channels(anchors[left]), _channels(anchors[left + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (scaled - left)):02x}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
