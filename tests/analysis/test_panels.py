from statistics import fmean

from analysis.figures.panels import Figure, score_figures
from analysis.tables.frame import Records, cells_frame, runs_frame
from analysis.tables.scores import chance_accuracy, compute_scores, item_counts
from orchestrator.contract.plan import Plan
from orchestrator.contract.record import Record
from tests.analysis.synthetic_study import BALANCED_TO_TEXT, FROM_SCRATCH, SyntheticStudy, shape, without_evaluations

STUDY = SyntheticStudy(sizes=("0.24M", "0.03M", "0.09M"), code_percents=("50", "0"))


def figures_of(plan: Plan, records: Records) -> dict[str, Figure]:
    runs = runs_frame(plan, records)
    scores = compute_scores(runs, cells_frame(plan, records))
    return {figure.name: figure for figure in score_figures(scores, chance_accuracy(runs), item_counts(runs))}


def drawn(study: SyntheticStudy) -> dict[str, Figure]:
    plan = study.plan()
    return figures_of(plan, study.records(plan))


def test_each_recipe_has_a_panel_for_text_and_one_for_code() -> None:
    figure = drawn(STUDY)["bits-per-byte-by-size"]
    assert [row.title for row in figure.rows] == [
        "from-scratch, after cooldown",
        "balanced-to-text, after text: 30 % code over all stages; grey: from-scratch",
    ]
    assert all([panel.title for panel in row.panels] == ["held-out text", "held-out code"] for row in figure.rows)


def test_panels_over_size_have_one_line_per_code_percent_and_one_dot_per_seed() -> None:
    panel = drawn(STUDY)["bits-per-byte-by-size"].rows[0].panels[0]
    assert panel.log_x
    assert [line.label for line in panel.lines] == ["0 %", "50 %"]
    assert panel.ticks == tuple((float(shape(size).n), size) for size in ("0.03M", "0.09M", "0.24M"))
    for line in panel.lines:
        assert len(line.dots) == 3 * 2
        assert line.curve == tuple((x, fmean(dot.y for dot in line.dots if dot.x == x)) for x, _ in panel.ticks)


def test_panels_over_code_percent_have_one_line_per_size_smallest_first() -> None:
    figure = drawn(STUDY)["bits-per-byte-by-code"]
    panel = figure.rows[0].panels[1]
    assert [line.label for line in panel.lines] == ["0.03M", "0.09M", "0.24M"]
    assert all([x for x, _ in line.curve] == [0.0, 50.0] for line in panel.lines)


def test_a_recipe_with_fixed_proportions_has_no_panel_over_code_percent() -> None:
    assert [row.title for row in drawn(STUDY)["bits-per-byte-by-code"].rows] == ["from-scratch, after cooldown"]
    only_fixed = drawn(SyntheticStudy(sizes=("0.03M",), recipes=(BALANCED_TO_TEXT,)))
    assert set(only_fixed) == {"bits-per-byte-by-size", "continuation-by-size"}


def test_a_recipe_with_fixed_proportions_is_drawn_over_the_lines_of_the_grid() -> None:
    with_grid, fixed = drawn(STUDY)["bits-per-byte-by-size"].rows
    for panel, before in zip(fixed.panels, with_grid.panels, strict=True):
        assert panel.reference_lines == before.lines
        assert [line.rank for line in panel.lines] == [None]
    assert all(panel.reference_lines == () for panel in with_grid.panels)
    alone = drawn(SyntheticStudy(sizes=("0.03M",), recipes=(BALANCED_TO_TEXT,)))["bits-per-byte-by-size"].rows[0]
    assert alone.title == "balanced-to-text, after text: 30 % code over all stages"
    assert alone.panels[0].reference_lines == ()


def test_panels_of_one_group_share_their_y_limits() -> None:
    figure = drawn(STUDY)["bits-per-byte-by-size"]
    for column in (0, 1):
        limits = {row.panels[column].y_limits for row in figure.rows}
        assert len(limits) == 1
        low, high = limits.pop()
        assert all(low < dot.y < high for row in figure.rows for line in row.panels[column].lines for dot in line.dots)


def test_accuracy_panels_include_the_chance_level() -> None:
    figure = drawn(STUDY)["continuation-by-size"]
    assert "A random choice has an accuracy of 25 %." in figure.caption
    assert "With 400 items per evaluation, the standard error of a dot is at most 2.5 percentage points." in figure.caption
    for row in figure.rows:
        for panel in row.panels:
            assert panel.chance == 0.25
            assert panel.y_limits[0] < 0.25


def test_stages_before_the_last_have_their_own_figures() -> None:
    assert [row.title for row in drawn(STUDY)["earlier-bits-per-byte-by-size"].rows] == ["from-scratch, after pretrain"]
    assert "earlier-bits-per-byte-by-size" not in drawn(SyntheticStudy(sizes=("0.03M",), recipes=(BALANCED_TO_TEXT,)))


def test_y_limits_ignore_earlier_stages() -> None:
    """Much worse scores of earlier stages do not change the figure of the last stage."""
    plan = STUDY.plan()
    records = STUDY.records(plan)
    last = {each.digest for cell in plan.cells for each in cell.stages[-1].evaluations}

    def worse(record: Record) -> Record:
        if "bits_per_byte" not in record.results or record.digest in last:
            return record
        return record.model_copy(update={"results": {**record.results, "bits_per_byte": 100.0}})

    changed = {digest: worse(record) for digest, record in records.items()}
    before, after = (figures_of(plan, each)["bits-per-byte-by-size"] for each in (records, changed))
    assert [panel.y_limits for row in before.rows for panel in row.panels] == [panel.y_limits for row in after.rows for panel in row.panels]


def test_every_dot_has_its_cell_and_digests() -> None:
    plan = STUDY.plan()
    of = {(c.name, e.source): e.digest for c in plan.cells for e in c.stages[-1].evaluations if e.suite == "bpb"}
    panel = figures_of(plan, STUDY.records(plan))["bits-per-byte-by-size"].rows[0].panels[1]
    assert all(dot.digests == (of[dot.cell, "stdlib"],) for line in panel.lines for dot in line.dots)


def test_means_use_the_seeds_that_have_scores() -> None:
    plan = STUDY.plan()
    records = STUDY.records(
        plan, without_evaluations(plan, ["from-scratch/0.09M/c0/s1", "from-scratch/0.24M/c0/s1", "from-scratch/0.24M/c0/s2"])
    )
    line = figures_of(plan, records)["bits-per-byte-by-size"].rows[0].panels[0].lines[0]
    assert [x for x, _ in line.curve] == [shape("0.03M").n, shape("0.09M").n]
    assert line.curve[1][1] == next(dot.y for dot in line.dots if dot.cell == "from-scratch/0.09M/c0/s2")


def test_a_study_without_records_has_no_figures() -> None:
    assert figures_of(STUDY.plan(), {}) == {}


def test_one_size_one_seed_and_one_code_percent_give_a_figure() -> None:
    tiny = drawn(SyntheticStudy(sizes=("0.03M",), seeds=(1,), code_percents=("25",), recipes=(FROM_SCRATCH,)))
    panel = tiny["bits-per-byte-by-size"].rows[0].panels[0]
    assert [len(line.dots) for line in panel.lines] == [1]
    assert panel.y_limits[0] < panel.y_limits[1]
