import pytest

from analysis.report.tables import format_compute_time, format_metric, format_seeds, format_signed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.125, "0.125 s"), (119, "119 s"), (120, "2 min"), (3599, "1 h 0 min"), (3 * 86400 + 60, "72 h 1 min"), (4.5e6, "1,250 h 0 min")],
)
def test_compute_time_has_fractions_of_seconds_and_no_days(seconds: float, text: str) -> None:
    assert format_compute_time(seconds) == text


def test_results_have_the_decimals_of_their_metric() -> None:
    assert (format_metric("accuracy", 0.2567), format_metric("bits_per_byte", 1.23456)) == ("25.7 %", "1.235")


def test_slopes_have_a_sign() -> None:
    assert (format_signed(0.05), format_signed(-0.05)) == ("+0.0500", "\N{MINUS SIGN}0.0500")


def test_equal_seeds_are_one_number() -> None:
    assert (format_seeds(3, 3), format_seeds(1, 2)) == ("3", "init 1, data 2")
