"""Draws figures as SVG: a file that stands alone, or a panel to stand inside a page.

`report` calls it with what `panels` and `curves` prepared. Equal figures give equal bytes: no date, no random id. matplotlib is loaded
here and only when something is drawn; nothing opens a window.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from warnings import catch_warnings, filterwarnings

from analysis.figures.colours import BACKDROP, FIXED, GRID, INK, MUTED, PAPER, Colour, ramp
from analysis.figures.panels import Figure, Panel
from orchestrator.contract.vocabulary import ACCURACY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Of one panel, in inches. A phone shows one at about this size, so text keeps its points.
_WIDE: Final = 4.5
_HIGH: Final = 3.3
_MARGIN: Final = {"left": 0.56, "right": 0.06, "bottom": 0.5, "top": 0.27}
_HEADING: Final = 0.34
"""Above a strip, for its title."""

_STYLE: Final[dict[Any, Any]] = {
    "font.family": ["DejaVu Sans"], "font.size": 9.0, "axes.labelsize": 8.5, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0,
    "axes.titlesize": 10.0, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": MUTED.light, "axes.linewidth": 0.8, "axes.labelcolor": MUTED.light, "axes.titlecolor": INK.light,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "text.color": INK.light,
    "xtick.color": MUTED.light, "ytick.color": MUTED.light, "xtick.major.size": 3.0, "ytick.major.size": 0.0, "xtick.minor.size": 0.0,
    "grid.color": GRID.light, "grid.linewidth": 0.8, "path.simplify": False, "axes.formatter.useoffset": False,
    # a name with two dollar signs is a name and no formula
    "text.parse_math": False,
}  # fmt: skip

LABEL_GAP: Final = 0.055
"""Least distance between two labels at the ends of lines, as a share of the panel's height."""

TICK_GAP: Final = 0.085
"""Least distance between two labels below the panel, as a share of its width."""


def write_figure(figure: Figure, folder: Path) -> Path:
    """The whole figure as `folder`/<name>.svg, on paper, with its glyphs as outlines: the same everywhere."""
    width, height = max(len(strip.panels) for strip in figure.strips) * _WIDE, len(figure.strips) * (_HIGH + _HEADING)
    with _drawing(figure.name, "path"):
        canvas = _canvas(width, height)
        canvas.set_facecolor(PAPER.light)
        for row, strip in enumerate(figure.strips):
            top = height - row * (_HIGH + _HEADING)
            canvas.text(0.12 / width, (top - 0.22) / height, strip.title, fontsize=10)
            for column, panel in enumerate(strip.panels):
                _draw(panel, _axes(canvas, column * _WIDE, top - _HEADING - _HIGH))
        path = folder / f"{figure.name}.svg"
        path.write_text(_svg(canvas), encoding="utf-8")
    return path


def panel_svg(panel: Panel, name: str, anchors: Mapping[str, str]) -> str:
    """One panel as an <svg> element for a page: text in the page's font, colours as variables of its style sheet, ids prefixed by `name`.

    `anchors`: digest -> id of the row that a dot leads to; dots of other digests lead nowhere.
    """
    with _drawing(name, "none"):
        canvas = _canvas(_WIDE, _HIGH)
        _draw(panel, _axes(canvas, 0, 0), links=True)
        text = _svg(canvas)
    return _for_a_page(text, panel, name, anchors)


def colours_of(panel: Panel) -> list[Colour]:
    """Every colour that `panel_svg` may use, for the style sheet."""
    return [PAPER, INK, MUTED, GRID, FIXED, BACKDROP, *ramp(panel.ramp, panel.ranks)]


@contextmanager
def _drawing(salt: str, fonttype: str) -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt, "svg.fonttype": fonttype}), catch_warnings():
        # a name in a script that the font lacks shows as boxes in the file; the page shows it whole
        filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def _canvas(width: float, height: float) -> "Canvas":
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height))
    FigureCanvasSVG(canvas)
    canvas.set_facecolor("none")
    return canvas


def _axes(canvas: "Canvas", left: float, bottom: float) -> "Axes":
    """Axes inside the panel whose lower left corner is given, in inches. Fixed margins: laying out by what is drawn took 0.2 s a panel."""
    width, height = canvas.get_size_inches()
    inside = (_WIDE - _MARGIN["left"] - _MARGIN["right"], _HIGH - _MARGIN["bottom"] - _MARGIN["top"])
    corner = ((left + _MARGIN["left"]) / width, (bottom + _MARGIN["bottom"]) / height)
    return canvas.add_axes((*corner, inside[0] / width, inside[1] / height))


def _svg(canvas: "Canvas") -> str:
    text = StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _draw(panel: Panel, axes: "Axes", links: bool = False) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    _draw_scales(panel, axes)
    colours = ramp(panel.ramp, panel.ranks)
    if panel.chance is not None:
        axes.plot([axes.get_xlim()[0], _last(panel)], [panel.chance] * 2, color=MUTED.light, linewidth=0.9, dashes=(4, 3))
    for line in panel.backdrop:
        axes.plot(*zip(*line.curve, strict=True), color=BACKDROP.light, linewidth=1.1, solid_capstyle="round", solid_joinstyle="round")
    for line in panel.lines:
        colour = (FIXED if line.rank is None else colours[line.rank]).light
        axes.plot(
            *zip(*line.curve, strict=True),
            color=colour,
            linewidth=1.7 if line.dots else 1.1,
            solid_capstyle="round",
            solid_joinstyle="round",
        )
        if line.dots:
            dots = axes.scatter([d.x for d in line.dots], [d.y for d in line.dots], s=15, color=colour, alpha=0.65, linewidths=0, zorder=3)
            if links:
                dots.set_urls([f"#dot-{dot.digests[0]}" for dot in line.dots])
    _label_ends(panel, axes, colours)


def _draw_scales(panel: Panel, axes: "Axes") -> None:
    from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator

    if panel.log_x:
        axes.set_xscale("log")
    axes.set_ylim(*panel.y_limits)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    low, high = _x_limits(panel)
    axes.set_xlim(low, high)
    if panel.ticks:
        axes.xaxis.set_major_locator(FixedLocator([at for at, _ in panel.ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels(_thinned(panel, low, high))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    if panel.y_label == ACCURACY:
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")


def _x_limits(panel: Panel) -> tuple[float, float]:
    """A margin on the left, and a wider one on the right for the labels of the lines."""
    xs = [at for at, _ in panel.ticks] or [x for line in panel.lines for x, _ in line.curve]
    low, high = min(xs), max(xs)
    if panel.log_x:
        ratio = high / low if high > low else 4.0
        return low / ratio**0.06, high * ratio**0.17
    width = (high - low) or 10.0
    return low - 0.06 * width, high + 0.17 * width


def _thinned(panel: Panel, low: float, high: float) -> list[str]:
    """The labels of the ticks, without those that would touch the one before."""
    labels, last = [], float("-inf")
    for at, label in panel.ticks:
        place = _share(at, low, high, panel.log_x)
        wanted = place - last >= TICK_GAP
        labels.append(label if wanted else "")
        last = place if wanted else last
    return labels


def _share(value: float, low: float, high: float, log: bool) -> float:
    from math import log as ln

    return (ln(value) - ln(low)) / (ln(high) - ln(low)) if log else (value - low) / (high - low)


def _label_ends(panel: Panel, axes: "Axes", colours: list[Colour]) -> None:
    """Names on the right of the lines, moved apart where they would touch; the line of chance has one too."""
    labels = [(line.label, *line.curve[-1], FIXED if line.rank is None else colours[line.rank]) for line in panel.lines if line.label]
    labels += [(line.label, *line.curve[-1], MUTED) for line in panel.backdrop]
    if panel.chance is not None:
        labels.append(("chance", _last(panel), panel.chance, MUTED))
    low, high = panel.y_limits
    places = spread([(y - low) / (high - low) for _, _, y, _ in labels], LABEL_GAP)
    for (label, x, _, colour), place in zip(labels, places, strict=True):
        end = (_share(x, *axes.get_xlim(), panel.log_x), place)
        style = "normal" if colour is MUTED else "bold"
        axes.annotate(label, end, (6, 0), "axes fraction", "offset points", color=colour.light, fontsize=8, va="center", fontweight=style)
    if panel.legend and any(line.label for line in (*panel.lines, *panel.backdrop)):
        axes.text(1.0, 1.02, panel.legend, transform=axes.transAxes, ha="right", va="bottom", color=MUTED.light, fontsize=8)


def _last(panel: Panel) -> float:
    return max(x for line in (*panel.lines, *panel.backdrop) for x, _ in line.curve)


def spread(wanted: list[float], gap: float) -> list[float]:
    """Places as near to `wanted` as they can be, in the same order, `gap` apart, and inside 0 to 1 as long as there is room."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[list[int]] = []
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and _lowest(blocks[-1], wanted, gap) < _lowest(blocks[-2], wanted, gap) + gap * len(blocks[-2]):
            last = blocks.pop()
            blocks[-1] += last
    placed = [0.0] * len(wanted)
    for block in blocks:
        for step, index in enumerate(block):
            placed[index] = _lowest(block, wanted, gap) + gap * step
    return placed


def _lowest(block: list[int], wanted: list[float], gap: float) -> float:
    """Where the first of a block of touching labels goes, so that the block lies around the middle of what its members want."""
    length = gap * (len(block) - 1)
    middle = sum(wanted[index] for index in block) / len(block)
    return max(0.0, min(middle - length / 2, 1.0 - length))


def _for_a_page(text: str, panel: Panel, name: str, anchors: Mapping[str, str]) -> str:
    body = text[text.index("<svg ") :]
    # a <style> inside a page would hold for all of the page
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\sid=")([^"]+")', rf"\g<1>{name}-\g<2>", body)
    body = re.sub(r"(url\(#)", rf"\g<1>{name}-", body)
    body = re.sub(r'(xlink:href="#)(?!dot-)', rf"\g<1>{name}-", body)
    body = _with_links(body, panel, anchors)
    swaps = {colour.light: f"var({colour.variable})" for colour in colours_of(panel)}
    body = re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda found: swaps.get(found[0], found[0]), body)
    body = body.replace(" font-family: 'DejaVu Sans';", "")
    label = escape(f"{panel.y_label} of {panel.title} against {panel.x_label}", quote=True)
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opening(label), body, count=1)


def _opening(label: str) -> str:
    return (
        r'<svg viewBox="\1" role="group" aria-label="' + label.replace("\\", r"\\") + '" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1">'
    )


def _with_links(body: str, panel: Panel, anchors: Mapping[str, str]) -> str:
    """Every dot gets its cell and value as a tooltip, and leads to the row of its record."""
    dots = iter([dot for line in panel.lines for dot in line.dots])

    def link(_: re.Match[str]) -> str:
        dot = next(dots)
        title = f"<title>{escape(dot.name)}: {dot.y:.4g}, digest {dot.digests[0][:12]}</title>"
        anchor = anchors.get(dot.digests[0])
        return f'<a href="#{anchor}">{title}' if anchor else f"<a>{title}"

    return re.sub(r'<a xlink:href="#dot-[0-9a-f]+" target="_blank">', link, body)
