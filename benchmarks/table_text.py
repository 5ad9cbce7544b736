"""The table in Markdown, made of the raw lines alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median, quantiles
from typing import Any

Line = Mapping[str, Any]
HOSTS = {"embedded": "the embedded host", "comfyui": "ComfyUI"}
WHOLE = ("default", "single", "tuned", "tuned-loose")  # columns that compute all of every attention
FEWEST = 3  # times that have quartiles
HEAD = "chosen,ms a step,spread,times as fast,s a picture,attention,peak GB,worst error,difference,noise floor,ran"


def gain(share: float) -> float:
    """Return by how much all of a step gets faster at most when a share of it takes no time at all (Amdahl 1967)."""
    return float("inf") if share >= 1.0 else 1.0 / (1.0 - share)


def spread(times: list[float]) -> str:
    """Return the interquartile range over the median; of less than three times there is none."""
    return f"{spread_of(times):.2f}" if len(times) >= FEWEST else "-"


def spread_of(times: list[float]) -> float:
    """Return the interquartile range over the median."""
    low, middle, high = quantiles(times, n=4)
    return (high - low) / middle


def noise(done: Mapping[str, Line]) -> float | None:
    """Return the factor by which equal steps differ, by the default's turns beside every column; None for too few.

    It is the largest of their medians over the least, and no less than the spread of any of them.
    """
    turns = [line["default_ms"] for line in done.values()]
    turns += [line["ms"] for line in done.values() if line["column"] == "default"]
    many = [times for times in turns if len(times) >= FEWEST]
    if len(turns) < 2 and not many:
        return None
    middles = [median(times) for times in turns]
    return max(max(middles) / min(middles), *(1.0 + spread_of(times) for times in many), 1.0)


def tables(lines: Iterable[Line]) -> str:
    """Return a table for each row on each machine; of two lines for one cell the later one holds."""
    groups: dict[tuple[str, ...], dict[tuple[str, str], Line]] = {}
    for line in lines:
        place = (line["row"], line["blocks"], line["dtype"], line["device"], line["on"])
        groups.setdefault(place, {})[line["column"], line["measure"]] = line
    return "\n\n".join(map(table, groups.values()))


def table(cells: Mapping[tuple[str, str], Line]) -> str:
    """Return the table of one row."""
    steps = {column: line for (column, measure), line in cells.items() if measure == "step"}
    peaks = {column: line.get("peak") for (column, measure), line in cells.items() if measure == "peak"}
    done = {column: line for column, line in steps.items() if "failed" not in line}
    rows = [cells_of(line, peaks.get(column)) for column, line in done.items()]
    text = [heading(next(iter(cells.values()))), *ceiling(done), *trust(done), *limit(done), *neutral(done, peaks)]
    if rows:
        head = HEAD.replace("s a picture", f"s a picture ({next(iter(done.values()))['picture_steps']} steps)")
        text.append("\n".join(map(row, [head.split(","), ["---", *["--:"] * 9, "---"], *rows])))
    failed = [line for line in cells.values() if "failed" in line]
    text += ["\n".join(f"- {line['text']}, {line['measure']}: not measured: {line['failed']}" for line in failed)]
    return "\n\n".join(filter(None, text))


def row(values: Iterable[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(values)} |"


def heading(line: Line) -> str:
    """Return what was measured where."""
    facts = line.get("machine") or {}
    machine = ", ".join(filter(None, [line["on"], f"{facts['threads']} threads" if "threads" in facts else ""]))
    torch = f"; torch {facts['torch']}" if "torch" in facts else ""
    title = f"### {line['title']}, in {HOSTS[line['host']]}"
    weights = "its own weights" if line["row"].endswith("demo") else "random weights"
    model = f"{line['blocks'].capitalize()}, {weights}, {line['dtype']}; timed steps of a cell: {line['steps']}."
    return f"{title}\n\n{model} {machine}{torch}; {line['when'][:10]}."


def ceiling(done: Mapping[str, Line]) -> list[str]:
    """Return what attention can change at most, and which columns say more than that."""
    if "default" not in done:
        return []
    share = done["default"]["share"]
    most = f"{gain(share):.2f}"
    above = [f"{line['text']} {speed(line):.2f}" for line in done.values() if round(speed(line), 2) > float(most)]
    return [
        f"Attention is {share:.0%} of the default's step, so no choice of attention makes a step more than "
        f"**{most} times** as fast (1 / (1 - share))."
        + (f" What is above that is noise too: {', '.join(above)}." if above else "")
    ]


def trust(done: Mapping[str, Line]) -> list[str]:
    """Return which ratios of these columns say nothing."""
    if not done:
        return []
    factor = noise(done)
    if factor is None:
        return ["The noise is not known: there are too few steps of the default."]
    text = f"The default's own steps differ by a factor of {factor:.2f} here: do not trust ratios between "
    text += f"{1 / factor:.2f} and {factor:.2f}."
    if "default" in done and factor >= gain(done["default"]["share"]):
        text += " That is all that attention can give, so this table does not tell which choice is faster."
    return [text]


def limit(done: Mapping[str, Line]) -> list[str]:
    """Return how far columns that leave nothing out are from what the processor can do at most."""
    kept = [line for line in done.values() if line.get("limit") and line["column"] in WHOLE]
    if not kept:
        return []
    least = kept[0]["limit"]
    times = [f"{line['text']} {median(line['ms']) / line['limit']['ms']:.2f}" for line in kept]
    return [
        f"All products of a step at the speed of a large one ({least['products'] / 1e9:.0f} GFLOP/s) and attention's "
        f"exponentials ({least['exponentials'] / 1e9:.2f} G/s) would take {least['ms']:.4g} ms. Times that: "
        f"{', '.join(times)}."
    ]


def speed(line: Line) -> float:
    """Return the default's median over that of a column, of steps in turn."""
    return median(line["default_ms"]) / median(line["ms"])


def neutral(done: Mapping[str, Line], peaks: Mapping[str, Any]) -> list[str]:
    """Return what a node that changes nothing costs."""
    if "neutral" not in done:
        return []
    line = done["neutral"]
    same = "gives the same to the bit" if line["difference"] == 0 else f"CHANGES the result by {line['difference']:.1e}"
    if line["device"] == "cuda":
        more = line["peak"] - line["default_peak"]
        memory = "the same peak memory to the byte" if more == 0 else f"a peak memory that DIFFERS by {more} bytes"
    elif peaks.get("neutral") and peaks.get("default"):
        apart = (peaks["neutral"] - peaks["default"]) / 1e6
        memory = f"a resident peak {apart:+.1f} MB from the default's, of two processes"
    else:
        memory = "a peak memory that was not measured"
    return [f"A node that changes nothing {same}, with {memory}."]


def cells_of(line: Line, peak: int | None) -> list[str]:
    """Return the cells of one column."""
    middle = median(line["ms"])
    whole = line["blocks"].startswith("all")
    held = line["peak"] or peak
    return [
        line["text"],
        f"{middle:.4g}",
        spread(line["ms"]),
        f"{speed(line):.2f}",
        f"{line['picture_steps'] * middle / 1e3:.3g}" if whole else "-",
        f"{line['share']:.0%}",
        f"{held / 1e9:.2f}" if held else "-",
        f"{line['error']:.1e} at {line['worst']}",
        "0 (bit-equal)" if line["difference"] == 0 else f"{line['difference']:.1e}",
        f"{line['floor']:.1e}",
        ", ".join(f"{name} {count}" for name, count in line["functions"].items()) or "-",
    ]
