"""The colours of figures and page, each for paper and for a dark screen.

`plot` draws with those for paper and, for a figure inside a page, swaps each for a variable of the style sheet that `theme_css` defines.
Order is shown by lightness first and hue second, so it survives colour blindness and a grey printer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Colour:
    """One colour as lower-case #rrggbb on paper and on a dark screen."""

    light: str
    dark: str

    @property
    def variable(self) -> str:
        return f"--c{self.light[1:]}"


PAPER: Final = Colour("#ffffff", "#15171b")
INK: Final = Colour("#1d2127", "#e6e7ea")
MUTED: Final = Colour("#5d6570", "#9aa2ad")
GRID: Final = Colour("#e4e6ea", "#2b2f36")
FIXED: Final = Colour("#323943", "#d5d8dd")
"""A line that has no place on a ramp."""

BACKDROP: Final = Colour("#b3b9c2", "#59616c")
"""Lines that are there to compare with."""
RULE: Final = Colour("#cfd3d9", "#3a3f47")
LINK: Final = Colour("#0b5cad", "#7cb7ff")
WARNING: Final = Colour("#8a4b00", "#f0b35e")
WASH: Final = Colour("#f5f6f8", "#1c1f24")
"""Behind what stands out a little."""
PAGE: Final = {
    "paper": PAPER, "ink": INK, "muted": MUTED, "grid": GRID, "rule": RULE, "link": LINK, "warning": WARNING, "wash": WASH,
}  # fmt: skip
"""The page's own colours, by the names that its style sheet uses."""

# Anchors of matplotlib's `plasma` (van der Walt and Smith 2015), without its ends: the light one fades on paper, the dark one on a screen.
_CODE: Final = (
    ("#f0804e", "#d9556a", "#b02a8f", "#7a05a7", "#2e0594"),
    ("#fcce25", "#fb9f3a", "#f0744f", "#d8576b", "#b8389a"),
)
# Anchors of matplotlib's `viridis`, its blue to green half; largest darkest on paper, brightest on a screen
_SIZE: Final = (
    ("#4fc36b", "#26a784", "#23898e", "#306a8e", "#433d84"),
    ("#5067b0", "#3a87a8", "#2fa694", "#54c76c", "#b5de4b"),
)
RAMPS: Final = {"code": _CODE, "size": _SIZE}


def ramp(name: str, steps: int) -> list[Colour]:
    """`steps` colours evenly spaced on the ramp `name`, "code" or "size"; a single one is its last."""
    light, dark = RAMPS[name]
    places = [1.0] * steps if steps < 2 else [step / (steps - 1) for step in range(steps)]
    return [Colour(_between(light, place), _between(dark, place)) for place in places]


def theme_css(colours: Sequence[Colour]) -> str:
    """The style sheet's variables for `colours`: paper first, and a dark screen's where that is what the reader prefers."""
    unique = sorted(set(colours), key=lambda colour: colour.light)
    light = "".join(f"{colour.variable}:{colour.light};" for colour in unique)
    dark = "".join(f"{colour.variable}:{colour.dark};" for colour in unique)
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _between(anchors: Sequence[str], place: float) -> str:
    at = place * (len(anchors) - 1)
    left = min(int(at), len(anchors) - 2)
    pairs = zip(_channels(anchors[left]), _channels(anchors[left + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (at - left)):02x}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
