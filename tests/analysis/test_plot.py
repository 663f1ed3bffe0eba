import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.figures.colours import RAMPS, TEXT, ramp, theme_css
from analysis.figures.panels import Dot, Figure, FigureRow, Line, Panel
from analysis.figures.plot import colours_of, panel_svg, spread_labels, write_figure

DIGEST = "ab" * 32
DOTS = (Dot(1e4, 2.0, "recipe/größe/c0/s1", (DIGEST,)), Dot(1e5, 1.5, "b & <c>", ("cd" * 32,)))
LINE = Line("0 %", 0, DOTS, ((1e4, 2.0), (1e5, 1.5)))
PANEL = Panel("held-out text", "N", "bits per byte", True, ((1e4, "10k"), (1e5, "100k")), (1.4, 2.1), "code", 1, "code", (LINE,))
FIGURE = Figure("test", "Test", "", (FigureRow("one", (PANEL, PANEL)), FigureRow("two", (PANEL,))))


def test_equal_figures_give_equal_files_without_a_date(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = write_figure(FIGURE, tmp_path), write_figure(FIGURE, tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
    assert b"dc:date" not in first.read_bytes()
    assert first.name == "test.svg"
    ElementTree.parse(first)


def test_an_embedded_panel_has_no_style_element_and_only_prefixed_ids() -> None:
    svg = panel_svg(PANEL, "mine", {})
    ElementTree.fromstring(svg)
    assert "<style" not in svg
    assert "DejaVu" not in svg
    assert all(name.startswith("mine-") for name in re.findall(r'\sid="([^"]+)"', svg))
    ids = set(re.findall(r'\sid="([^"]+)"', svg))
    assert set(re.findall(r'xlink:href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg)) <= ids


def test_every_colour_of_an_embedded_panel_is_a_variable_of_the_theme() -> None:
    svg = panel_svg(PANEL, "mine", {})
    assert not re.findall(r"(?:fill|stroke|color): ?#", svg)
    css = theme_css(colours_of(PANEL))
    used = set(re.findall(r"var\((--c[0-9a-f]{6})\)", svg))
    assert TEXT.variable in used
    assert all(css.count(f"{name}:") == 2 for name in used)


def test_a_dot_has_a_tooltip_and_a_link_to_its_result() -> None:
    svg = panel_svg(PANEL, "mine", {DIGEST: "result-ab"})
    assert f'<a href="#result-ab"><title>recipe/größe/c0/s1: 2, digest {DIGEST[:12]}</title>' in svg
    assert "<a><title>b &amp; &lt;c&gt;: 1.5" in svg


def test_dollar_signs_in_a_name_are_not_parsed_as_a_formula() -> None:
    assert ">$a_1$<" in panel_svg(replace(PANEL, lines=(replace(LINE, label="$a_1$"),)), "mine", {})


@pytest.mark.parametrize("name", RAMPS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_order_of_a_ramp_survives_in_greyscale(name: str, theme: str) -> None:
    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return float(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2)

    shades = [lightness(getattr(colour, theme)) for colour in ramp(name, 7)]
    assert shades in (sorted(shades), sorted(shades, reverse=True))
    background = 1.0 if theme == "light" else lightness("#15171b")
    # WCAG 2.2, 1.4.11 asks for 3 to 1; the threshold is lower because every line also has a label
    assert min((max(background, shade) + 0.05) / (min(background, shade) + 0.05) for shade in shades) > 2.2


@given(st.lists(st.floats(0, 1), max_size=8))
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    gap = 0.05
    placed = spread_labels(wanted, gap)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    assert all(placed[high] - placed[low] >= gap - 1e-9 for low, high in pairwise(order))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in placed)


def test_labels_with_enough_room_are_not_moved() -> None:
    assert spread_labels([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_a_ramp_returns_the_requested_number_of_colours(count: int) -> None:
    assert len(set(ramp("code", count))) == count


def test_a_line_with_one_point_and_no_label_is_drawn() -> None:
    alone = Panel("t", "x", "y", False, (), (1.0, 3.0), "code", 0, "", (Line("", None, DOTS[:1], ((1e4, 2.0),)),))
    ElementTree.fromstring(panel_svg(alone, "alone", {}))
