"""Writes the model card: README.md of an exported student, for people and for the Hub.

Figures are those of metrics.json, claims those of claims.py; no path or text of this machine gets in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckd.evaluation.claims import MIN_EVENTS, headline_facts
from ckd.evaluation.metrics import MIN_COUNT, SHOWN
from ckd.evaluation.small_cells import parts_text
from ckd.evaluation.wording import NOT_INTENDED, known_on, wording
from ckd.visits.visit import SPLITS

Row = Sequence[str]


@dataclass(frozen=True)
class Facts:
    """What the card says beside the figures."""

    student: str
    base_model: str  # a Hub id, or ""
    max_length: int
    calibrated: bool
    data_license: str
    credentialed: bool
    engines: Mapping[str, Mapping[str, Any]]  # the rows of the ONNX table, empty without ONNX
    compared: str  # on which visits the engines were compared


def model_card(metrics: Mapping[str, Any], facts: Facts) -> str:
    """The Markdown, with YAML front matter as the Hub reads it."""
    words, labels = wording(metrics), len(metrics["held_out"]["student"]["per_label"])
    sections = [
        _front(facts),
        f"# {words.title}",
        _headline(metrics),
        "## Intended use\n" + _bullets(words.intended),
        "### Not intended\n" + _bullets(NOT_INTENDED),
        "## Limits\n" + _bullets(words.limits),
        "## How to load it\n" + _usage(facts, labels),
        "## Figures on held-out patients\n" + _figures(metrics),
        "## Calibration and thresholds\n" + _calibration(metrics, facts),
        "## ONNX\n" + _engines(facts, labels),
        "## Training data\n" + _data(metrics, facts),
    ]
    return "\n\n".join(sections) + "\n"


def _front(facts: Facts) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-classification"]
    if facts.base_model:
        lines.append(f"base_model: {facts.base_model}")
    tags = ["ehr", "icd", "next-visit-prediction", "knowledge-distillation", *(["onnx"] if facts.engines else [])]
    return "\n".join([*lines, "language: en", "tags:", *(f"- {tag}" for tag in tags), "---"])


def _headline(metrics: Mapping[str, Any]) -> str:
    top = headline_facts(metrics)
    rows = [(name, _number(value)) for name, value in top.rows]
    table = ["", _table(("student, held-out", ""), rows)] if rows else []
    cautions = ["", _bullets(top.cautions)] if top.cautions else []
    return "\n".join([top.sentence, *cautions, *table])


def _figures(metrics: Mapping[str, Any]) -> str:
    small = headline_facts(metrics).too_small
    if small:
        return f"No figures: {small}."
    counts, student = metrics["counts"], metrics["held_out"]["student"]
    thresholds = metrics["thresholds"]["student"]["values"]
    chosen = {row["disease"] for row in metrics["labels_in_macro"]}
    basis = (
        f"{counts['held_out']['visits']:,} visits of {counts['held_out']['groups']:,} patients ({counts['group']}); "
        f"macro average over {counts['labels_in_macro']} labels with at least {MIN_COUNT} positive and negative "
        f"visits{known_on(metrics)}. Brackets: 95 % interval, patients drawn anew. "
        f"A star: fewer than {MIN_EVENTS} positive visits. Other labels: too few visits, not shown."
    )
    models = {"student": student, "teacher": metrics["held_out"]["teacher"], **metrics["held_out"]["baselines"]}
    overall = [
        (name, *(_interval(block["macro"], metric) for metric in SHOWN))
        for name, block in models.items()
        if block["macro"]
    ]
    labels = [
        _label(name, student["per_label"][name], thresholds[name]) for name in student["per_label"] if name in chosen
    ]
    return "\n\n".join(
        [
            basis,
            _table(("model", *(metric.heading for metric in SHOWN.values())), overall),
            _table(("label", "positive visits", *(metric.title for metric in SHOWN.values()), "threshold"), labels),
        ]
    )


def _label(name: str, row: Mapping[str, Any], threshold: float) -> Row:
    star = "*" if row["positives"] < MIN_EVENTS else ""
    figures = (_interval(row, metric) for metric in SHOWN)
    return (name + star, f"{row['positives']:,} of {row['n']:,}", *figures, _number(threshold))


def _calibration(metrics: Mapping[str, Any], facts: Facts) -> str:
    if not facts.calibrated:
        return "There is no calibration.json: the probabilities are the model's own, and no thresholds go with them."
    text = (
        "`calibration.json` holds one map from logit to probability and one threshold per label, fitted on tuning "
        "patients alone. What `AutoModelForSequenceClassification` and `pipeline` give is uncalibrated; apply the maps "
        "to read a figure as a risk: `ckd predict` does."
    )
    block = metrics.get("calibration", {}).get("student")
    if not block or headline_facts(metrics).too_small:
        return text
    figures = {
        "slope (1 is right)": "slope",
        "expected calibration error": "ece",
        "Brier": "brier",
        "Brier skill": "brier_skill",
    }
    rows = [
        (name, *(_number(block[kind]["macro"].get(key)) if block[kind] else "-" for kind in ("raw", "calibrated")))
        for name, key in figures.items()
    ]
    return text + "\n\n" + _table(("macro, held-out", "raw", "calibrated"), rows)


def _usage(facts: Facts, labels: int) -> str:
    lines = [
        "The text is the `input` of a visit as CKD-EHR writes it; other wording is outside of what was tested.",
        "```python",
        "from transformers import pipeline",
        'classify = pipeline("text-classification", model="PATH", top_k=None, truncation=True, '
        'function_to_apply="sigmoid")',
        f'classify("The patient-acquired disease is …")  # {_names(labels)} with probabilities',
        "```",
        f"It reads {facts.max_length} tokens at a time. "
        "`truncation=True` cuts longer visits at their end, as in training.",
    ]
    return "\n".join(lines)


def _engines(facts: Facts, labels: int) -> str:
    if not facts.engines:
        return "Not in this folder; `ckd export model --onnx` adds it."
    rows = [
        (
            name,
            f"{row['megabytes']:.1f} MB",
            _small(row["largest_gap"]),
            _number(row["auroc"]),
            _signed(row["auroc_loss"]),
        )
        for name, row in facts.engines.items()
    ]
    head = ("file", "size", "largest gap of a probability to torch", "macro AUROC", "loss against torch")
    return (
        "Inputs `input_ids` and `attention_mask`, int64 [batch, sequence]; output `logits`, float32 "
        f"[batch, {labels}]. `tokenizer.json` cuts and needs no padding for one text.\n"
        "int8: its activations are scaled per batch, so score one text at a time where neighbours must not matter.\n\n"
        f"Compared on {facts.compared}:\n\n{_table(head, rows)}"
    )


def _data(metrics: Mapping[str, Any], facts: Facts) -> str:
    counts = metrics["counts"]
    visits = parts_text({split: counts[split]["visits"] for split in SPLITS})
    lines = [
        f"Trained on {visits['train']} visits, chosen and calibrated on {visits['tuning']}; "
        f"split by {counts['group']}.",
        f"License of the data: {facts.data_license or 'not stated to this folder; ask whoever trained it'}.",
    ]
    if facts.credentialed:
        lines.append(
            "**Credentialed data: a model that learned from it must not be shared outside of its data use agreement.**"
        )
    return "\n".join([*lines, f"Student `{facts.student}`, trained and exported by CKD-EHR."])


def _names(labels: int) -> str:
    return f"{labels} names" if labels > 1 else "the name"


def _table(head: Row, rows: Iterable[Row]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 4) + 0.0:+.4f}"  # never -0.0000


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _interval(row: Mapping[str, Any], name: str) -> str:
    bounds = row.get("intervals", {}).get(name)
    return _number(row[name]) + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")
