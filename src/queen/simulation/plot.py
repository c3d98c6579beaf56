"""A simulation's report as a picture: what each worker did, and how many jobs waited, over time.

Run as `python -m queen.simulation.plot`: the report comes as JSON on standard input, a PNG goes to standard output.
This is a process of its own because drawing reads fonts, and the one that runs policies can open no file.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wire import errors

_ABSENT: Final = (1.0, 1.0, 1.0)
_LOADING: Final = (0.98, 0.75, 0.35)
_IDLE: Final = (0.88, 0.91, 0.95)
_BUSY: Final = (0.10, 0.32, 0.62)


def picture(report: Mapping[str, Any]) -> bytes:
    """Returns a PNG: a lane for each worker, from pale (idle) to dark (all slots taken), and the queue below.

    Raises `WrongState` PLOT_MISSING when matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise errors.WrongState(
            "a picture needs matplotlib, which is not installed where the queen runs: pip install 'rbee[plot]'",
            "PLOT_MISSING",
        ) from None
    timeline = report["timeline"]
    lanes, column_minutes = timeline["lanes"], timeline["column_s"] / 60
    minutes = len(timeline["queue"]) * column_minutes
    figure = Figure(figsize=(12, 2.5 + 0.16 * max(4, len(lanes))), layout="constrained")
    FigureCanvasAgg(figure)
    heights = [max(4, len(lanes)), 6]
    workers, queue = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    if lanes:
        image = [_colours(lane["loading"], lane["ready"], lane["busy"]) for lane in lanes]
        workers.imshow(image, aspect="auto", interpolation="nearest", extent=(0, minutes, len(lanes) - 0.5, -0.5))
        workers.set_yticks(range(len(lanes)), [f"{lane['worker']} {lane['model']}" for lane in lanes], fontsize=6)
    done = f"{report['completed']:,} of {report['jobs']:,} jobs completed"
    workers.set_title(f"{report['policy']} on {report['cluster']}: {done}")
    legend = [
        Patch(color=_LOADING, label="loading"),
        Patch(color=_IDLE, label="idle"),
        Patch(color=_BUSY, label="busy"),
    ]
    workers.legend(handles=legend, loc="upper right", fontsize=6, ncols=3)
    times = [(column + 0.5) * column_minutes for column in range(len(timeline["queue"]))]
    queue.fill_between(times, timeline["queue"], step="mid", color=_BUSY, alpha=0.6)
    queue.set(ylabel="jobs waiting", xlabel="minutes", ylim=(0, None))
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=120)
    return made.getvalue()


def _colours(
    loading: Sequence[float], ready: Sequence[float], busy: Sequence[float]
) -> list[tuple[float, float, float]]:
    """Returns the colour of each column: a mixture by the shares of its time."""
    colours = []
    for loads, is_ready, runs in zip(loading, ready, busy, strict=True):
        parts = ((_LOADING, loads), (_BUSY, runs), (_IDLE, max(0.0, is_ready - runs)))
        absent = max(0.0, 1 - loads - max(is_ready, runs))
        red, green, blue = (
            min(1.0, sum(colour[part] * share for colour, share in (*parts, (_ABSENT, absent)))) for part in range(3)
        )
        colours.append((red, green, blue))
    return colours


if __name__ == "__main__":
    sys.stdout.buffer.write(picture(json.load(sys.stdin)))
