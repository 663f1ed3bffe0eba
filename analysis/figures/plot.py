"""Draw figures as SVG: a self-contained file per figure, or single panels to embed in the page.

`report` calls it with the figures of `panels` and `curves`. Equal figures give equal bytes: the SVG contains no date and no random id.
matplotlib is imported on the first drawing; no window is opened.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from warnings import catch_warnings, filterwarnings

from analysis.figures.colours import BACKGROUND, GRID, MUTED, REFERENCE, TEXT, UNRANKED, Colour, ramp
from analysis.figures.panels import Figure, Panel
from orchestrator.contract.vocabulary import ACCURACY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Size of one panel in inches. A phone shows a panel at about this size, so its text keeps the font size in points
_PANEL_WIDTH: Final = 4.5
_PANEL_HEIGHT: Final = 3.3
_MARGINS: Final = {"left": 0.56, "right": 0.06, "bottom": 0.5, "top": 0.27}
_ROW_TITLE_HEIGHT: Final = 0.34
"""Height in inches of the title above a row of panels."""

_STYLE: Final[dict[Any, Any]] = {
    "font.family": ["DejaVu Sans"], "font.size": 9.0, "axes.labelsize": 8.5, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0,
    "axes.titlesize": 10.0, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": MUTED.light, "axes.linewidth": 0.8, "axes.labelcolor": MUTED.light, "axes.titlecolor": TEXT.light,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "text.color": TEXT.light,
    "xtick.color": MUTED.light, "ytick.color": MUTED.light, "xtick.major.size": 3.0, "ytick.major.size": 0.0, "xtick.minor.size": 0.0,
    "grid.color": GRID.light, "grid.linewidth": 0.8, "path.simplify": False, "axes.formatter.useoffset": False,
    # a name with two dollar signs is shown as it is and not as a formula
    "text.parse_math": False,
}  # fmt: skip

LABEL_GAP: Final = 0.055
"""Minimum distance between two line labels, as a fraction of the panel's height."""

TICK_GAP: Final = 0.085
"""Minimum distance between two labels of the x axis, as a fraction of the panel's width."""


def write_figure(figure: Figure, folder: Path) -> Path:
    """Write the figure to `folder`/<name>.svg in the light theme and return the path.

    Text is drawn as outlines, so the figure looks the same without its font.
    """
    row_height = _ROW_TITLE_HEIGHT + _PANEL_HEIGHT
    width, height = max(len(row.panels) for row in figure.rows) * _PANEL_WIDTH, len(figure.rows) * row_height
    with _matplotlib_settings(figure.name, "path"):
        canvas = _canvas(width, height)
        canvas.set_facecolor(BACKGROUND.light)
        for index, row in enumerate(figure.rows):
            top = height - index * row_height
            canvas.text(0.12 / width, (top - 0.22) / height, row.title, fontsize=10)
            for column, panel in enumerate(row.panels):
                _draw(panel, _axes(canvas, column * _PANEL_WIDTH, top - row_height))
        path = folder / f"{figure.name}.svg"
        path.write_text(_svg(canvas), encoding="utf-8")
    return path


def panel_svg(panel: Panel, name: str, anchors: Mapping[str, str]) -> str:
    """Return one panel as an <svg> element to embed in a page.

    Text uses the page's font, colours are CSS variables, and every id has the prefix `name`. `anchors`: digest -> id of the page element
    that a dot links to; dots of other digests have no link.
    """
    with _matplotlib_settings(name, "none"):
        canvas = _canvas(_PANEL_WIDTH, _PANEL_HEIGHT)
        _draw(panel, _axes(canvas, 0, 0), links=True)
        text = _svg(canvas)
    return _embeddable(text, panel, name, anchors)


def colours_of(panel: Panel) -> list[Colour]:
    """Return every colour that `panel_svg` may use, for the style sheet."""
    return [BACKGROUND, TEXT, MUTED, GRID, UNRANKED, REFERENCE, *ramp(panel.ramp, panel.ranks)]


@contextmanager
def _matplotlib_settings(salt: str, fonttype: str) -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt, "svg.fonttype": fonttype}), catch_warnings():
        # the file shows boxes for characters that the font lacks; the page uses the browser's fonts and shows them
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
    """Add axes for the panel whose lower left corner is at (`left`, `bottom`), in inches.

    The margins are fixed because matplotlib's automatic layout took 0.2 s per panel.
    """
    width, height = canvas.get_size_inches()
    inside = (_PANEL_WIDTH - _MARGINS["left"] - _MARGINS["right"], _PANEL_HEIGHT - _MARGINS["bottom"] - _MARGINS["top"])
    corner = ((left + _MARGINS["left"]) / width, (bottom + _MARGINS["bottom"]) / height)
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
        axes.plot([axes.get_xlim()[0], _last_x(panel)], [panel.chance] * 2, color=MUTED.light, linewidth=0.9, dashes=(4, 3))
    for line in panel.reference_lines:
        axes.plot(*zip(*line.curve, strict=True), color=REFERENCE.light, linewidth=1.1, solid_capstyle="round", solid_joinstyle="round")
    for line in panel.lines:
        colour = (UNRANKED if line.rank is None else colours[line.rank]).light
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
        axes.set_xticklabels(_tick_labels(panel, low, high))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    if panel.y_label == ACCURACY:
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")


def _x_limits(panel: Panel) -> tuple[float, float]:
    """Return the x limits with a margin on the left and a wider one on the right for the line labels."""
    xs = [at for at, _ in panel.ticks] or [x for line in panel.lines for x, _ in line.curve]
    low, high = min(xs), max(xs)
    if panel.log_x:
        ratio = high / low if high > low else 4.0
        return low / ratio**0.06, high * ratio**0.17
    width = (high - low) or 10.0
    return low - 0.06 * width, high + 0.17 * width


def _tick_labels(panel: Panel, low: float, high: float) -> list[str]:
    """Return the labels of the ticks; a label that would overlap the previous one is empty."""
    labels, last = [], float("-inf")
    for at, label in panel.ticks:
        position = _axis_fraction(at, low, high, panel.log_x)
        fits = position - last >= TICK_GAP
        labels.append(label if fits else "")
        last = position if fits else last
    return labels


def _axis_fraction(value: float, low: float, high: float, log: bool) -> float:
    from math import log as ln

    return (ln(value) - ln(low)) / (ln(high) - ln(low)) if log else (value - low) / (high - low)


def _label_ends(panel: Panel, axes: "Axes", colours: list[Colour]) -> None:
    """Label lines and chance level at their right ends; labels that would overlap are moved apart."""
    labels = [(line.label, *line.curve[-1], UNRANKED if line.rank is None else colours[line.rank]) for line in panel.lines if line.label]
    labels += [(line.label, *line.curve[-1], MUTED) for line in panel.reference_lines]
    if panel.chance is not None:
        labels.append(("chance", _last_x(panel), panel.chance, MUTED))
    low, high = panel.y_limits
    heights = spread_labels([(y - low) / (high - low) for _, _, y, _ in labels], LABEL_GAP)
    for (label, x, _, colour), y in zip(labels, heights, strict=True):
        end = (_axis_fraction(x, *axes.get_xlim(), panel.log_x), y)
        style = "normal" if colour is MUTED else "bold"
        axes.annotate(label, end, (6, 0), "axes fraction", "offset points", color=colour.light, fontsize=8, va="center", fontweight=style)
    if panel.legend and any(line.label for line in (*panel.lines, *panel.reference_lines)):
        axes.text(1.0, 1.02, panel.legend, transform=axes.transAxes, ha="right", va="bottom", color=MUTED.light, fontsize=8)


def _last_x(panel: Panel) -> float:
    return max(x for line in (*panel.lines, *panel.reference_lines) for x, _ in line.curve)


def spread_labels(wanted: list[float], gap: float) -> list[float]:
    """Return label positions at least `gap` apart, in the order of `wanted` and as close to it as possible.

    Positions are fractions of the axis. They lie between 0 and 1 if there is room for all labels.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[list[int]] = []
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and _block_start(blocks[-1], wanted, gap) < _block_start(blocks[-2], wanted, gap) + gap * len(blocks[-2]):
            last = blocks.pop()
            blocks[-1] += last
    positions = [0.0] * len(wanted)
    for block in blocks:
        for step, index in enumerate(block):
            positions[index] = _block_start(block, wanted, gap) + gap * step
    return positions


def _block_start(block: list[int], wanted: list[float], gap: float) -> float:
    """Return the position of a block's first label; the block is centred on the mean of its wanted positions."""
    length = gap * (len(block) - 1)
    middle = sum(wanted[index] for index in block) / len(block)
    return max(0.0, min(middle - length / 2, 1.0 - length))


def _embeddable(text: str, panel: Panel, name: str, anchors: Mapping[str, str]) -> str:
    body = text[text.index("<svg ") :]
    # a <style> element would apply to the whole page
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\sid=")([^"]+")', rf"\g<1>{name}-\g<2>", body)
    body = re.sub(r"(url\(#)", rf"\g<1>{name}-", body)
    body = re.sub(r'(xlink:href="#)(?!dot-)', rf"\g<1>{name}-", body)
    body = _with_links(body, panel, anchors)
    variables = {colour.light: f"var({colour.variable})" for colour in colours_of(panel)}
    body = re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda found: variables.get(found[0], found[0]), body)
    body = body.replace(" font-family: 'DejaVu Sans';", "")
    label = escape(f"{panel.y_label} of {panel.title} against {panel.x_label}", quote=True)
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', _svg_tag(label), body, count=1)


def _svg_tag(label: str) -> str:
    return (
        r'<svg viewBox="\1" role="group" aria-label="' + label.replace("\\", r"\\") + '" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1">'
    )


def _with_links(body: str, panel: Panel, anchors: Mapping[str, str]) -> str:
    """Give every dot a tooltip with its cell and value, and a link to its result in the page."""
    dots = iter([dot for line in panel.lines for dot in line.dots])

    def link(_: re.Match[str]) -> str:
        dot = next(dots)
        title = f"<title>{escape(dot.cell)}: {dot.y:.4g}, digest {dot.digests[0][:12]}</title>"
        anchor = anchors.get(dot.digests[0])
        return f'<a href="#{anchor}">{title}' if anchor else f"<a>{title}"

    return re.sub(r'<a xlink:href="#dot-[0-9a-f]+" target="_blank">', link, body)
