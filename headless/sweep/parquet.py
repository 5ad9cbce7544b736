"""The table of a sweep as Parquet."""

from __future__ import annotations

import io
import json
from typing import Any


def as_parquet(rows: list[dict[str, Any]], names: list[str]) -> bytes:
    """Return rows as a Parquet file with these columns."""
    import pyarrow
    from pyarrow import parquet

    columns = {name: _column(pyarrow, [row.get(name) for row in rows]) for name in names}
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def _column(pyarrow: Any, values: list[Any]) -> Any:
    """Return a column of numbers, texts or lists of texts; values of several kinds are written as JSON."""
    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    if not known:  # what may be missing everywhere are numbers, lpips for one
        return pyarrow.array(values, pyarrow.float64())
    if kinds == {int} and max(known) >= 2**63 and all(0 <= value < 2**64 for value in known):
        return pyarrow.array(values, pyarrow.uint64())
    plain = any(kinds <= same for same in ({bool}, {int, float}, {str}, {list}))
    fits = all(abs(value) < 2 ** (53 if float in kinds else 63) for value in known if isinstance(value, int))
    if plain and fits:
        return pyarrow.array(values)
    return pyarrow.array([None if value is None else json.dumps(value) for value in values])
