"""Shows metrics.json as lines for a terminal. Computes nothing."""

from collections.abc import Mapping
from typing import Any

from ckd.evaluation.claims import headline_facts
from ckd.evaluation.comparisons import lines as comparison_lines
from ckd.evaluation.metrics import METRICS
from ckd.evaluation.wording import known_on

_AUROC = METRICS["auroc"].heading
_COLUMNS = {  # heading -> where the figure is in a model's block
    _AUROC: ("macro", "auroc"),
    "new onset": ("new_onset", "macro", "auroc"),
    "persistent": ("persistent", "macro", "auroc"),
    **{metric.heading: ("macro", name) for name, metric in METRICS.items() if metric.heading not in ("", _AUROC)},
    "micro AUROC": ("micro", "auroc"),
}


def render(metrics: Mapping[str, Any]) -> str:
    """The models' table, the counts behind it, the warnings and the headline; lines joined by newlines."""
    held_out, counts = metrics["held_out"], metrics["counts"]
    models = {name: block for name, block in held_out.items() if name != "baselines"} | held_out["baselines"]
    rows = [("held_out", *_COLUMNS)]
    rows += [(name, *(_figure(block, path) for path in _COLUMNS.values())) for name, block in models.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    lines += ["", _basis(metrics, counts), _macro_basis(metrics)]
    lines.append(f"teacher_saw_held_out: {'yes' if metrics['teacher_saw_held_out'] else 'no'}")
    lines.append(_calibration(metrics["calibration"]["student"]))
    shares = {name: ceiling["share_of_gain"] for name, ceiling in metrics["ceilings"].items()}
    lines += [
        f"the student reaches {share:.0%} of {name}'s AUROC gain over .5"
        for name, share in shares.items()
        if share is not None
    ]
    lines += ["", *comparison_lines(metrics["comparisons"]["student"], metrics["intervals"]), ""]
    lines += [f"warning: {line}" for line in metrics["warnings"]]
    return "\n".join([*lines, headline_facts(metrics).sentence])


def _figure(block: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value: Any = block
    for key in path:
        value = value[key] if value is not None else None
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no minus sign before a zero


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    )


def _basis(metrics: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    sizes = ", ".join(
        f"{split} {counts[split]['visits']:,} visits of {counts[split]['groups']:,}"
        for split in ("train", "tuning", "held_out")
    )
    optimism = metrics["adapter_optimism"]
    return f"{sizes} (unit: {counts['group']})" + ("" if optimism is None else f"; adapter optimism {optimism:+.4f}")


def _calibration(student: Mapping[str, Any]) -> str:
    """One line on the student's calibrated probabilities beside its raw ones."""
    block = student["calibrated"]
    whole, before = block["macro"], student["raw"]["macro"]
    line = (
        f"student calibrated on tuning: slope {_plain(whole['slope'])} (raw {_plain(before['slope'])}), "
        f"ECE {_plain(whole['ece'])} (raw {_plain(before['ece'])}, a constant {_plain(whole['ece_of_constant'])}), "
        f"Brier skill > 0 on {block['labels_with_brier_skill']} of {len(block['per_label'])} labels"
    )
    distance = block["pooled"]["distance_to_truth"]
    return line + ("" if distance is None else f", {distance:.3f} from the true probability on average")


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _macro_basis(metrics: Mapping[str, Any]) -> str:
    counted = metrics["labels_in_macro"]
    positives = sorted(row["positives"] for row in counted)
    middle = f", median {positives[len(positives) // 2]} positive visits" if positives else ""
    student = metrics["held_out"]["student"]
    views = [view for view in ("new_onset", "persistent") if student[view]["macro"] is not None]
    inside = ", ".join(f"{view.replace('_', ' ')} {len(metrics[f'labels_in_macro_{view}'])}" for view in views)
    whole = f"macro over {len(counted)} of {len(student['per_label'])} labels{middle}"
    return whole + (f" ({inside})" if inside else "") + known_on(metrics)
