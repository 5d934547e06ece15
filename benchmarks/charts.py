"""The charts of README.md, as SVG. Needs matplotlib: ``pip install 'aiomutex[charts]'``."""

# matplotlib's types are partly unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Result, Table

__all__ = ["draw"]

OURS, OTHERS, INK = "#1f6feb", "#b6bfcb", "#57606a"


def _table(results: dict[str, Result], name: str, title: str) -> Table | None:
    tables = results[name].tables if name in results else []
    return next((table for table in tables if title in table.title), None)


def _bars(axes: Any, table: Table, *, limit: float | None = None) -> None:
    """Draw one bar per row, this library in colour."""
    rows = [row for row in table.rows if not row.name.startswith(("(", "bare"))][::-1]
    values = [row.median for row in rows]
    colours = [OURS if row.name.startswith(("aiomutex", "LocalRateLimiter")) else OTHERS for row in rows]
    bars = axes.barh([row.name for row in rows], values, color=colours, height=0.62)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=4, color=INK, fontsize=9)
    axes.set_title(f"{table.title} ({table.unit})", loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    axes.set_xlim(0, max(values) * 1.15)
    if limit is not None:
        axes.axvline(limit, color="#cf222e", linewidth=1, linestyle="--")


def draw(results: dict[str, Result], folder: Path) -> list[Path]:
    """Draw the charts, and return their files."""
    import matplotlib as mpl  # noqa: PLC0415  # heavy, and in an extra

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "aiomutex"  # the same figures make the same file
    folder.mkdir(parents=True, exist_ok=True)
    charts: dict[str, list[tuple[Table, float | None]]] = {
        "calls.svg": [
            (table, None) for name in ("edits", "gets") if (table := _table(results, name, "64 in flight")) is not None
        ],
        "limiters.svg": [
            (table, 100.0)
            for name, title in (("limiters", "Most permits in a sliding second"),)
            if (table := _table(results, name, title)) is not None
        ],
    }
    written: list[Path] = []
    for file, tables in charts.items():
        if not tables:
            continue
        figure, axes = plt.subplots(len(tables), 1, figsize=(7.2, 2.2 * len(tables) + 0.2), squeeze=False)
        for axis, (table, limit) in zip(axes[:, 0], tables, strict=True):
            _bars(axis, table, limit=limit)
        figure.tight_layout()
        figure.savefig(folder / file, metadata={"Date": None}, transparent=False)
        plt.close(figure)
        written.append(folder / file)
    return written
