"""Rows of a comparison: selections, medians and ratios within a round. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

# The share of a core that others may use before its figures are in doubt.
MOST_OF_OTHERS = 0.05

Record = Mapping[str, Any]
Row = Mapping[str, Any]


def rows(record: Record, kind: str, **wanted: Any) -> list[Row]:
    """Return the rows of a kind with these values."""
    return [
        row for row in record[kind] if all(row.get(name) == value for name, value in wanted.items())
    ]


def median(values: Iterable[float]) -> float | None:
    """Return the median, or None for no values."""
    found = list(values)
    return statistics.median(found) if found else None


def percentile(row: Row, percent: float) -> float:
    """Return a percentile of a load in milliseconds."""
    return float(next(value for each, value in row["milliseconds"] if each == percent))


def limit_of(record: Record, row: Row) -> float | None:
    """Return the limit of a load's workload in the same round, in requests/s."""
    precision = record["contestants"][row["contestant"]]["precision"]
    same = {name: row[name] for name in ("round", "cores", "workload")}
    found = rows(record, "limits", precision=precision, **same)
    if not found:
        # None of our contestants computes in that precision here.
        found = rows(record, "limits", **same)
    return float(found[0]["rate"]) if found else None


def share(record: Record, row: Row) -> float | None:
    """Return a load as a share of the limit."""
    limit = limit_of(record, row)
    return row["rate"] / limit if limit else None


def ratios(record: Record, kind: str, top: Row, bottom: Row, percent: float | None) -> list[float]:
    """Return the ratio of two rows for each round.

    Args:
        record: The run.
        kind: Kind of both rows.
        top: Values of the first row.
        bottom: Values of the second row.
        percent: Compare this percentile of latency, the second row's to the first's; None compares
            rates, the first row's to the second's.
    """
    found = []
    for one in rows(record, kind, **top):
        for other in rows(record, kind, **{**bottom, "round": one["round"]}):
            if one["failures"] or other["failures"] or not (one["requests"] and other["requests"]):
                continue
            if percent is None:
                found.append(one["rate"] / other["rate"])
            else:
                found.append(percentile(other, percent) / percentile(one, percent))
    return found


def disturbed(record: Record) -> tuple[int, int]:
    """Return the number of loads on one core that others disturbed, and of all loads."""
    found = rows(record, "loads", cores=1)
    return sum(row["others"] > MOST_OF_OTHERS for row in found), len(found)


def best_of_ours(record: Record) -> str | None:
    """Return the variant of our server that a user gets by default on this processor."""
    for name in ("ours-bf16", "ours-fp32"):
        if name in record["contestants"] and record["contestants"][name]["out"] is None:
            return name
    return None


def standing(record: Record) -> list[str]:
    """Return the contestants that were measured and not disqualified, in their order."""
    return [name for name, each in record["contestants"].items() if each["out"] is None]
