"""Job: the run's student as a folder for transformers, ONNX Runtime and the Hub, with a model card."""

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckd.config import Config, absolute
from ckd.errors import ArtifactError
from ckd.predict.modelfolder import ENGINES, ModelFolder
from ckd.predict.onnxfile import require_packages
from ckd.run import Run
from ckd.store.filesystems import is_local
from ckd.store.handover import sweep
from ckd.store.hub import is_hub_id, repository
from ckd.store.jsonfile import read_json
from ckd.store.lease import lease
from ckd.visits.cohort import Cohort
from ckd.visits.datafolder import card_of
from jobs.arguments import add_config
from jobs.commands import Command
from jobs.console import Console

COMPARED = 1000  # tuning visits on which the engines are compared, drawn with the seed


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd export model`."""
    out = "the folder; it is never written over files that are no export of this student"
    parser.add_argument("--out", required=True, metavar="DIR", help=out)
    onnx = "also model.onnx (float32) and model.int8.onnx, compared with torch before anything is kept"
    parser.add_argument("--onnx", action="store_true", help=onnx)
    add_config(parser, Command("export_model", "", example="run.name=mine"))


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Export results/<run>/student to --out.

    Raises ArtifactError when it is not trained or evaluated, or ONNX differs from torch; ConfigError when --out holds
    something else, or a package is missing; TakenError when another command writes there.
    """
    from ckd.predict.bundle import KIND, build, bundle_fields, deliver, is_done

    out, onnx = arguments.out, arguments.onnx
    if onnx:
        require_packages()
    config = absolute(config)
    one = Run(config)
    out = str(Path(out).absolute()) if is_local(out) else out.rstrip("/")
    model = ModelFolder.open(one.student_folder)
    for note in model.notes:
        console.say(f"export: {note}")
    cohort = one.cohort
    metrics = _metrics(one.metrics_file, model)
    license_ = _license(config)
    fields = bundle_fields(model, onnx=onnx, card={"metrics": metrics, **license_})
    with lease(out, "ckd export model") as alone, tempfile.TemporaryDirectory() as local:
        if is_done(out, fields):
            console.say(f"export: {out} is done")
            return
        if alone:
            sweep(out)
        parity = build(model, local, onnx=onnx)
        engines, compared = _compared(config, console, cohort, model, local, parity) if onnx else ({}, "")
        card = _card(config, metrics, model, license_, engines, compared)
        deliver(local, out, fields, card, {"engines": engines, "parity": parity})
    console.say(f"export: wrote {out} ({KIND} {model.student})")
    console.event("export_model", student=model.student, onnx=onnx, parity=parity, engines=engines)


def _metrics(path: str, model: ModelFolder) -> dict[str, Any]:
    """metrics.json, if the student it is about is this one."""
    again = "run 'ckd evaluate' first: the model card holds its figures"
    try:
        metrics = dict(read_json(path, again))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; {again}") from None
    if metrics.get("model") != model.student:
        raise ArtifactError(f"{path}: is about another student than that in {model.folder}; {again}")
    return metrics


def _license(config: Config) -> dict[str, Any]:
    """License and credentialed access of the data, as the card of an ingested cohort says."""
    card = card_of(config.data.train)
    return {"data_license": str(card.get("data_license", "")), "credentialed": bool(card.get("credentialed", False))}


def _compared(
    config: Config, console: Console, cohort: Cohort, model: ModelFolder, local: str, parity: float | None
) -> tuple[dict[str, dict[str, Any]], str]:
    """Size, largest gap to torch and AUROC of each ONNX file on tuning visits, never on held_out; on which."""
    from ckd.predict.bundle import compare_engines

    texts, labels, of = _tuning(cohort, config.seed)
    found = compare_engines(model, local, texts)
    aurocs = {engine: _auroc(labels, values) for engine, values in found.items()}
    engines: dict[str, dict[str, Any]] = {}
    for engine in ("onnx", "onnx-int8"):
        gap = float(abs(found[engine] - found["torch"]).max()) if found else None
        ours, torchs = aurocs.get(engine), aurocs.get("torch")
        engines[ENGINES[engine]] = {
            "megabytes": (Path(local) / ENGINES[engine]).stat().st_size / 1e6,
            "largest_gap": gap,
            "auroc": ours,
            "auroc_loss": None if ours is None or torchs is None else torchs - ours,
        }
    visits = (
        f"{len(texts):,} of {of:,} labelled tuning visits" if texts else "no visits: there is no labelled tuning visit"
    )
    console.say(
        f"export: model.onnx agrees with torch within {parity:.1e} in a probability (random tokens, "
        f"lengths up to {model.max_length})"
    )
    for name, row in engines.items():
        loss = "unknown" if row["auroc_loss"] is None else f"{row['auroc_loss']:+.4f}"
        largest = "-" if row["largest_gap"] is None else f"{row['largest_gap']:.1e}"
        console.say(
            f"export: {name}, {row['megabytes']:.1f} MB: macro AUROC loss {loss}, largest gap {largest}, on {visits}"
        )
    return engines, visits


def _tuning(cohort: Cohort, seed: int) -> tuple[list[str], Any, int]:
    """Texts and labels [n, L] (None: unknown) of at most COMPARED labelled tuning visits, and how many there are."""
    import numpy as np

    shards = cohort.select("tuning")
    total = sum(shard.rows for shard in shards)
    places = np.sort(np.random.default_rng(seed).permutation(total)[:COMPARED])
    texts: list[str] = []
    labels: list[list[bool | None]] = []
    start = 0
    for shard in shards:
        table = cohort.read(shard, ["input", "labels"]).take(
            places[(places >= start) & (places < start + shard.rows)] - start
        )
        texts += table["input"].to_pylist()
        labels += table["labels"].to_pylist()
        start += shard.rows
    return texts, np.array(labels, object).reshape(len(texts), len(cohort.task)), total


def _auroc(labels: Any, probabilities: Any) -> float | None:
    """Macro AUROC over the labels with enough visits of both classes, else over all with both."""
    import numpy as np

    from ckd.evaluation.metrics import auroc, macro_labels, mean

    known, present = np.asarray(labels != np.array(None)), np.asarray(labels == np.array(True))
    chosen = macro_labels(present, known) or macro_labels(present, known, min_count=1)
    return mean([auroc(present[known[:, j], j], probabilities[known[:, j], j]) for j in chosen])


def _card(
    config: Config,
    metrics: Mapping[str, Any],
    model: ModelFolder,
    license_: Mapping[str, Any],
    engines: Mapping[str, Mapping[str, Any]],
    compared: str,
) -> str:
    from ckd.evaluation.modelcard import Facts, model_card

    return model_card(
        metrics,
        Facts(
            student=model.student,
            base_model=_public_base(config.student.base_model),
            max_length=model.max_length,
            calibrated=model.calibration is not None,
            engines=engines,
            compared=compared,
            **license_,
        ),
    )


def _public_base(name: str) -> str:
    """The base model's Hub repository; "" for a folder or URL, which nobody else could load."""
    return repository(name) if is_hub_id(name) else ""
