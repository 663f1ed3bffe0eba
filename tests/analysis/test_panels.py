from statistics import fmean

from analysis.figures.panels import Figure, figures
from analysis.tables.frame import Records, cells_frame, runs_frame
from analysis.tables.scores import chance, questions, scores
from orchestrator.contract.plan import Plan
from orchestrator.contract.record import Record
from tests.analysis.synthetic_study import BALANCED_TO_TEXT, FROM_SCRATCH, SyntheticStudy, lacking, shape

STUDY = SyntheticStudy(sizes=("0.24M", "0.03M", "0.09M"), code_percents=("50", "0"))


def figures_of(plan: Plan, records: Records) -> dict[str, Figure]:
    runs = runs_frame(plan, records)
    return {figure.name: figure for figure in figures(scores(runs, cells_frame(plan, records)), chance(runs), questions(runs))}


def drawn(study: SyntheticStudy) -> dict[str, Figure]:
    plan = study.plan()
    return figures_of(plan, study.records(plan))


def test_each_recipe_has_a_panel_for_text_and_one_for_code() -> None:
    figure = drawn(STUDY)["bits-per-byte-by-size"]
    assert [strip.title for strip in figure.strips] == [
        "from-scratch, after cooldown",
        "balanced-to-text, after text: 30 % code in all that was read; in grey from-scratch",
    ]
    assert all([panel.title for panel in strip.panels] == ["held-out text", "held-out code"] for strip in figure.strips)


def test_against_size_there_is_a_line_a_code_percent_and_a_dot_a_seed() -> None:
    panel = drawn(STUDY)["bits-per-byte-by-size"].strips[0].panels[0]
    assert panel.log_x
    assert [line.label for line in panel.lines] == ["0 %", "50 %"]
    assert panel.ticks == tuple((float(shape(size).n), size) for size in ("0.03M", "0.09M", "0.24M"))
    for line in panel.lines:
        assert len(line.dots) == 3 * 2
        assert line.curve == tuple((x, fmean(dot.y for dot in line.dots if dot.x == x)) for x, _ in panel.ticks)


def test_against_code_percent_there_is_a_line_a_size_smallest_first() -> None:
    figure = drawn(STUDY)["bits-per-byte-by-code"]
    panel = figure.strips[0].panels[1]
    assert [line.label for line in panel.lines] == ["0.03M", "0.09M", "0.24M"]
    assert all([x for x, _ in line.curve] == [0.0, 50.0] for line in panel.lines)


def test_a_recipe_that_fixes_its_proportions_is_not_drawn_against_them() -> None:
    assert [strip.title for strip in drawn(STUDY)["bits-per-byte-by-code"].strips] == ["from-scratch, after cooldown"]
    only_fixed = drawn(SyntheticStudy(sizes=("0.03M",), recipes=(BALANCED_TO_TEXT,)))
    assert set(only_fixed) == {"bits-per-byte-by-size", "continuation-by-size"}


def test_a_recipe_that_fixes_its_proportions_stands_before_the_grid() -> None:
    with_grid, fixed = drawn(STUDY)["bits-per-byte-by-size"].strips
    for panel, before in zip(fixed.panels, with_grid.panels, strict=True):
        assert panel.backdrop == before.lines
        assert [line.rank for line in panel.lines] == [None]
    assert all(panel.backdrop == () for panel in with_grid.panels)
    alone = drawn(SyntheticStudy(sizes=("0.03M",), recipes=(BALANCED_TO_TEXT,)))["bits-per-byte-by-size"].strips[0]
    assert alone.title == "balanced-to-text, after text: 30 % code in all that was read"
    assert alone.panels[0].backdrop == ()


def test_panels_of_one_group_share_their_heights_so_that_recipes_compare() -> None:
    figure = drawn(STUDY)["bits-per-byte-by-size"]
    for column in (0, 1):
        limits = {strip.panels[column].y_limits for strip in figure.strips}
        assert len(limits) == 1
        low, high = limits.pop()
        assert all(low < dot.y < high for strip in figure.strips for line in strip.panels[column].lines for dot in line.dots)


def test_accuracy_shows_what_a_blind_guess_gets_even_when_all_are_better() -> None:
    figure = drawn(STUDY)["continuation-by-size"]
    assert "right in 25 %" in figure.caption
    assert "With 400 questions the standard error of one dot is up to 2.5 points." in figure.caption
    for strip in figure.strips:
        for panel in strip.panels:
            assert panel.chance == 0.25
            assert panel.y_limits[0] < 0.25


def test_stages_before_the_last_have_figures_of_their_own() -> None:
    assert [strip.title for strip in drawn(STUDY)["earlier-bits-per-byte-by-size"].strips] == ["from-scratch, after pretrain"]
    assert "earlier-bits-per-byte-by-size" not in drawn(SyntheticStudy(sizes=("0.03M",), recipes=(BALANCED_TO_TEXT,)))


def test_heights_are_those_of_what_is_drawn_and_not_of_earlier_stages() -> None:
    """Of the same models with the earlier stages a hundred times worse the figure of the last stage is the same."""
    plan = STUDY.plan()
    records = STUDY.records(plan)
    last = {each.digest for cell in plan.cells for each in cell.stages[-1].evaluations}

    def worse(record: Record) -> Record:
        if "bits_per_byte" not in record.results or record.digest in last:
            return record
        return record.model_copy(update={"results": {**record.results, "bits_per_byte": 100.0}})

    changed = {digest: worse(record) for digest, record in records.items()}
    before, after = (figures_of(plan, each)["bits-per-byte-by-size"] for each in (records, changed))
    assert [panel.y_limits for strip in before.strips for panel in strip.panels] == [
        panel.y_limits for strip in after.strips for panel in strip.panels
    ]


def test_every_dot_names_its_cell_and_digests() -> None:
    plan = STUDY.plan()
    of = {(c.name, e.source): e.digest for c in plan.cells for e in c.stages[-1].evaluations if e.suite == "bpb"}
    panel = figures_of(plan, STUDY.records(plan))["bits-per-byte-by-size"].strips[0].panels[1]
    assert all(dot.digests == (of[dot.name, "stdlib"],) for line in panel.lines for dot in line.dots)


def test_a_hole_leaves_the_mean_to_the_seeds_that_are_there() -> None:
    plan = STUDY.plan()
    records = STUDY.records(plan, lacking(plan, ["from-scratch/0.09M/c0/s1", "from-scratch/0.24M/c0/s1", "from-scratch/0.24M/c0/s2"]))
    line = figures_of(plan, records)["bits-per-byte-by-size"].strips[0].panels[0].lines[0]
    assert [x for x, _ in line.curve] == [shape("0.03M").n, shape("0.09M").n]
    assert line.curve[1][1] == next(dot.y for dot in line.dots if dot.name == "from-scratch/0.09M/c0/s2")


def test_nothing_done_draws_nothing() -> None:
    assert figures_of(STUDY.plan(), {}) == {}


def test_one_size_one_seed_and_one_proportion_still_draw() -> None:
    tiny = drawn(SyntheticStudy(sizes=("0.03M",), seeds=(1,), code_percents=("25",), recipes=(FROM_SCRATCH,)))
    panel = tiny["bits-per-byte-by-size"].strips[0].panels[0]
    assert [len(line.dots) for line in panel.lines] == [1]
    assert panel.y_limits[0] < panel.y_limits[1]
