"""Format counts and durations for people. Pure; used by the command line, the controller and the report."""


def format_count(number: float) -> str:
    """Format a count with three significant digits: 950, 12.3k, 4.1M, 200B."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            return f"{float(f'{number / limit:.3g}'):g}{suffix}"
    return f"{number:.0f}"


def format_duration(seconds: float) -> str:
    """Format a duration: 8 s, 3 min 20 s, 5 h 02 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
