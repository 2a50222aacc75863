"""The picture of an autoscaling run, as SVG: a bar per node with its shards, below it the shards done and the nodes."""

from typing import Any

WIDTH, LEFT, RIGHT = 1000, 84, 130
TOP, ROW, CHART, GAP = 66, 26, 150, 40
BAR, SEEN = 18, 4  # SEEN: the least width of what was lost
FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
INK, FAINT, NODE, SHARD, LOST = "#222222", "#d8d8d8", "#dbe7f3", "#3b75af", "#d1493f"
CURVE, COUNT = "#3b75af", "#8a8a8a"
TITLE = "ckd embed, workers 0..4, on a cluster that scales itself: one node killed, one drained"
ENDS = {"machine": "killed", "drain": "notice (black), gone", "idle": "idle, removed"}


def draw(report: dict[str, Any]) -> str:
    """The SVG of a report of benchmarks.cluster.autoscaling."""
    nodes, shards = report["nodes"], report["shards"]
    last = max(node["to"] for node in nodes) + 3
    chart = TOP + ROW * len(nodes) + GAP
    height = chart + CHART + 44

    def x(seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / last, 1)

    font = f'font-family="{FONT}" font-size="12" fill="{INK}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {font}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{TITLE}</text>',
        *_legend(),
        *_grid(x, last, chart),
    ]
    for row, node in enumerate(nodes):
        parts += _node(x, TOP + ROW * row, node, [shard for shard in shards if shard["node"] == node["node"]])
    parts += _curves(x, chart, nodes, shards)
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> list[str]:
    found, at = [], LEFT
    for colour, text in (
        (NODE, "node there"),
        (SHARD, "shard embedded (a worker's first: and the model loaded)"),
        (LOST, "begun and lost, embedded again elsewhere"),
    ):
        box = f'<rect x="{at}" y="34" width="12" height="12" fill="{colour}"/>'
        found.append(f'{box}<text x="{at + 18}" y="44">{text}</text>')
        at += 46 + 7 * len(text)
    return found


def _grid(x: Any, last: float, chart: int) -> list[str]:
    step = 10 if last <= 130 else 20 if last <= 260 else 60
    bottom, stroke = chart + CHART, f'stroke="{FAINT}" stroke-width="0.6"'
    found = []
    for at in range(0, int(last) + 1, step):
        found.append(f'<line x1="{x(at)}" y1="{TOP - 8}" x2="{x(at)}" y2="{bottom}" {stroke}/>')
        found.append(f'<text x="{x(at)}" y="{bottom + 16}" text-anchor="middle">{at}</text>')
    found.append(
        f'<text x="{x(last / 2)}" y="{bottom + 34}" text-anchor="middle">seconds after the head started</text>'
    )
    return found


def _node(x: Any, y: int, node: dict[str, Any], shards: list[dict[str, Any]]) -> list[str]:
    end, left = _end(node), x(node["from"])
    found = [
        f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">node {int(node["node"], 16)}</text>',
        f'<rect x="{left}" y="{y}" width="{round(x(end) - left, 1)}" height="{BAR}" fill="{NODE}"/>',
    ]
    for shard in shards:
        right = x(shard.get("to", end))
        width = max(round(right - x(shard["from"]) - 0.8, 1), 1 if "to" in shard else SEEN)
        colour, left = SHARD if "to" in shard else LOST, round(right - width, 1)
        found.append(f'<rect x="{left}" y="{y + 3}" width="{width}" height="{BAR - 6}" fill="{colour}"/>')
    if node["end"] == "drain":
        at = x(node["blow"])
        found.append(f'<line x1="{at}" y1="{y - 3}" x2="{at}" y2="{y + BAR + 3}" stroke="{INK}" stroke-width="2"/>')
    return [*found, f'<text x="{x(end) + 6}" y="{y + 13}">{ENDS[node["end"]]}</text>']


def _end(node: dict[str, Any]) -> float:
    """When a node was gone: a killed one at the blow."""
    end: float = node["blow"] if node["end"] == "machine" else node["to"]
    return end


def _curves(x: Any, top: int, nodes: list[dict[str, Any]], shards: list[dict[str, Any]]) -> list[str]:
    """Shards done and nodes that are there, as steps."""
    done = sorted({shard["shard"]: shard["to"] for shard in reversed(shards) if "to" in shard}.values())
    changes = sorted([(node["from"], 1) for node in nodes] + [(_end(node), -1) for node in nodes])
    there, counts = 0, []
    for at, change in changes:
        there += change
        counts.append((at, there))
    most = max(count for _, count in counts)
    last = changes[-1][0] + 3
    return [
        *_steps(x, top, [(at, n + 1) for n, at in enumerate(done)], len(done), last, CURVE, 2.2),
        *_steps(x, top, counts, most, last, COUNT, 1.6),
        f'<text x="{LEFT - 8}" y="{top + 4}" text-anchor="end" fill="{CURVE}">{len(done)} shards</text>',
        f'<text x="{LEFT - 8}" y="{top + 20}" text-anchor="end" fill="{COUNT}">{most} nodes</text>',
        f'<text x="{LEFT - 8}" y="{top + CHART + 4}" text-anchor="end">0</text>',
    ]


def _steps(
    x: Any, top: int, points: list[tuple[float, int]], most: int, last: float, colour: str, width: float
) -> list[str]:
    def y(value: int) -> float:
        return round(top + CHART * (1 - value / most), 1)

    path, before = [f"M{x(0)},{y(0)}"], 0
    for at, value in points:
        path.append(f"L{x(at)},{y(before)} L{x(at)},{y(value)}")
        before = value
    path.append(f"L{x(last)},{y(before)}")
    return [f'<path d="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="{width}"/>']
