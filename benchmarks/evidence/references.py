"""What is shown beside the arms on the split that a phase may read: the teacher, TF-IDF and the oracles.

In the selection that is tuning, and nothing of held_out is read.
"""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.arms import SPLITS, figures
from benchmarks.evidence.cohort import configuration
from benchmarks.evidence.setup import Trial
from ckd.ehr.synthetic.rows import CEILINGS_FILE
from ckd.evaluation.scores import read_split, texts
from ckd.evaluation.tfidf import fit_tfidf
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import join, read_table
from ckd.visits.cohort import Cohort
from ckd.visits.columns import matrix
from ckd.visits.visit import Split


def references(trial: Trial) -> dict[str, Any]:
    """Figures of the references on the phase's split, the number of visits, the heads' adapter_optimism."""
    split = SPLITS[trial.phase][-1]
    config = configuration(trial, "shared/all")
    cohort = Cohort.open(config.run.artifacts_root)
    rows = read_split(cohort, split, ["soft_labels"])
    oracles = read_table(str(Path(config.data.train).with_name(CEILINGS_FILE)))
    place = {visit: n for n, visit in enumerate(oracles["visit_id"].to_pylist())}
    wanted = [place[visit] for visit in rows.visit_ids.to_pylist()]
    baseline = tfidf(cohort, split, trial.setup.raw["reference_seed"])
    probabilities = {"teacher": rows.scores["soft_labels"], "tfidf_logreg": baseline}
    probabilities |= {name: matrix(oracles[name])[wanted] for name in ("oracle_observed", "oracle_latent")}
    heads = Path(config.run.artifacts_root).parents[2]
    visits = {name: cohort.count(name) for name in ("train", "tuning", "held_out")}
    return {
        "split": split,
        "patients": len(np.unique(rows.groups)),
        "visits": visits | {"unlabeled train": cohort.count("train", labeled=False)},
        "models": {name: figures(rows.labels, p) for name, p in probabilities.items()},
        "adapter_optimism": {folder.name: _optimism(folder) for folder in sorted(heads.iterdir())},
    }


def tfidf(cohort: Cohort, split: Split, seed: int) -> np.ndarray:
    """The text baseline's probabilities on a split. Its C is chosen on tuning, so there it is slightly too good."""
    train, tuning = read_split(cohort, "train"), read_split(cohort, "tuning")
    model = fit_tfidf(texts(cohort, "train"), train, texts(cohort, "tuning"), tuning, seed)
    return model.predict(texts(cohort, split))


def _optimism(folder: Path) -> float | None:
    content = FolderArtifact(join(str(folder), "run/artifacts/head"), {}).load() or {}
    value: float | None = content.get("extra", {}).get("adapter_optimism")
    return value
