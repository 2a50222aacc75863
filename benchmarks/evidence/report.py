"""The ablation's results: benchmarks/results/ablation.json of the finished arms, and the tables of docs/ablation.md."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.choice import compare, intervals
from benchmarks.evidence.cohort import configuration
from benchmarks.evidence.references import references
from benchmarks.evidence.setup import BASE, METRICS, Setup, Trial
from benchmarks.report import RESULTS, ROOT, Report
from ckd.evaluation.bootstrap import LEVEL, make_draws
from ckd.evaluation.metrics import macro_labels
from ckd.evaluation.scores import read_split
from ckd.store.jsonfile import write_json
from ckd.visits.cohort import Cohort

OUT, PAGE = RESULTS / "ablation.json", ROOT / "docs/ablation.md"
_BEGIN, _END = "<!-- {} -->", "<!-- end -->"


def report(work: Path, setup: Setup, out: Path = OUT, page: Path = PAGE) -> None:
    """Write the JSON, and the tables between the page's marks, from what is finished."""
    trial = Trial(work, setup, "selection")
    found = trial.results()
    whole = Report("evidence.ablation", ["report"], out)
    whole["setup"] = setup.raw
    whole["selection"] = {
        "references": references(trial),
        "compared": [{**asdict(c), "arm": c.arm.name} for c in compare(trial, found)],
        "arms": list(found.values()),
    }
    choice = work / "choice.json"
    if choice.exists():
        whole["choice"] = json.loads(choice.read_text())
        whole["confirmation"] = confirmation(Trial(work, setup, "confirmation"), whole["choice"]["candidate"])
    write_json(str(out), whole)
    print(f"wrote {out}")
    page.write_text(filled(page.read_text(encoding="utf-8"), tables(whole)), encoding="utf-8")
    print(f"wrote the tables of {page}")


def confirmation(trial: Trial, candidate: str) -> dict[str, Any] | None:
    """The confirmation's arms, references and paired intervals over patients and seeds.

    None until all seeds of base and candidate are there.
    """
    found, seeds, raw = trial.results(), trial.seeds, trial.setup.raw
    wanted = dict.fromkeys([BASE, candidate, *raw["confirmation"]["beside"]])
    names = [name for name in wanted if all((name, seed) in found for seed in seeds)]
    if not {BASE, candidate} <= set(names):
        return None
    rows = read_split(Cohort.open(configuration(trial, "shared/all").run.artifacts_root), "held_out")
    draws = make_draws(rows, raw["confirmation"]["resamples"], raw["reference_seed"])
    chosen = macro_labels(rows.labels)

    def p(name: str) -> list[np.ndarray]:
        return [np.load(trial.result_file(name, seed).with_suffix(".npz"))["held_out"] for seed in seeds]

    def mean(name: str, metric: str) -> float:
        return float(np.mean([found[name, seed]["held_out"][metric] for seed in seeds]))

    base, others = p(BASE), [candidate, *(name for name in names if name not in (BASE, candidate))]
    return {
        "references": references(trial),
        "means": {name: {metric: mean(name, metric) for metric in METRICS} for name in names},
        "against_base": {name: intervals(rows.labels, p(name), base, draws, chosen) for name in others},
        "level": LEVEL,
        "resamples": draws.resamples,
        "patients": draws.groups,
        "labels_in_macro": len(chosen),
        "arms": list(found.values()),
    }


def filled(page: str, made: Mapping[str, str]) -> str:
    """The page with each table between its marks. Raises ValueError for a mark that is not there."""
    for name, text in made.items():
        begin = _BEGIN.format(name)
        before, mark, rest = page.partition(begin)
        _, end, after = rest.partition(_END)
        if not mark or not end:
            raise ValueError(f"no '{begin} … {_END}' on the page")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def tables(whole: Mapping[str, Any]) -> dict[str, str]:
    """The parts of docs/ablation.md that hold figures, by the name of their mark."""
    made = {"cohort": _cohort(whole), "selection": _selection(whole)}
    confirmed = whole.get("confirmation")
    made["confirmation"] = _confirmation(whole, confirmed) if confirmed else "Not run yet."
    return made


def _cohort(whole: Mapping[str, Any]) -> str:
    found, setup = whole["selection"]["references"], whole["setup"]
    sizes = ", ".join(f"{count:,} {name}" for name, count in found["visits"].items())
    known = {name: value for name, value in found["adapter_optimism"].items() if value is not None}
    optimism = ", ".join(f"{name} {value:+.4f}" for name, value in known.items())
    loads = [arm["load_average"] for arm in whole["selection"]["arms"]]
    commits = sorted({arm["commit"][:9] for arm in whole["selection"]["arms"]})
    return (
        f"Selection: generator seed {setup['selection']['generator_seed']}, visits: {sizes}; {found['patients']:,} "
        f"patients in tuning; training seeds {setup['selection']['seeds']}. `adapter_optimism` of the heads: "
        f"{optimism}. Commit {', '.join(commits)}; load average {min(loads):.1f} to {max(loads):.1f} on 2 cores, so "
        "nothing here is a timing."
    )


def _selection(whole: Mapping[str, Any]) -> str:
    arms, found = whole["setup"]["arms"], whole["selection"]
    top = found["references"]["models"]["oracle_observed"]["macro_auroc"]
    lines = [
        "| arm | what it changes | against | macro AUROC | difference ± sd over seeds | macro AUPRC | log-loss "
        "| of oracle_observed's gain | cut |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    cut = {arm["arm"]: arm["truncated_share"] for arm in found["arms"]}
    for c in found["compared"]:
        row, mean = arms[c["arm"]], c["mean"]
        own = c["arm"] == row.get("against", BASE)
        gap = "" if own else f"{c['difference']['macro_auroc']:+.4f} ± {c['deviation']['macro_auroc']:.4f}"
        kind = " (control)" if row.get("kind") == "control" else ""
        against = "" if own else row.get("against", BASE)
        lines.append(
            f"| `{c['arm']}`{kind} | {row['changes']} | {against} | {mean['macro_auroc']:.4f} | {gap} "
            f"| {mean['macro_auprc']:.4f} | {mean['log_loss']:.4f} | {_share(mean, top):.1%} | {cut[c['arm']]:.0%} |"
        )
    for name, row in found["references"]["models"].items():
        auprc, loss, share = f"{row['macro_auprc']:.4f}", f"{row['log_loss']:.4f}", f"{_share(row, top):.1%}"
        lines.append(f"| *{name}* | | | {row['macro_auroc']:.4f} | | {auprc} | {loss} | {share} | |")
    missing = [name for name in arms if name not in {c["arm"] for c in found["compared"]}]
    note = f"\n\nNot finished with all seeds, so not compared: {', '.join(missing)}." if missing else ""
    choice = whole.get("choice")
    said = (
        f"\n\nBy the criterion ({choice['criterion']} on tuning) the winner is `{choice['winner']}`; "
        f"`{choice['candidate']}` goes into the confirmation ({choice['gain_on_tuning']:+.4f} on tuning)."
        if choice
        else ""
    )
    return "\n".join(lines) + note + said


def _confirmation(whole: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    arms, choice, setup = whole["setup"]["arms"], whole["choice"], whole["setup"]["confirmation"]
    models, level = found["references"]["models"], f"{found['level']:.0%}"
    lines = [
        f"| held_out of generator seed {setup['generator_seed']} | macro AUROC | minus `base`, {level} interval "
        f"| macro AUPRC | minus `base`, {level} interval | log-loss | of oracle_observed's gain | of oracle_latent's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows = {f"`{name}`: {arms[name]['changes']}": mean for name, mean in found["means"].items()}
    rows |= {f"*{name}*": figures for name, figures in models.items()}
    gaps = [found["against_base"].get(name, {}) for name in found["means"]] + [None] * len(models)
    for (name, row), gap in zip(rows.items(), gaps, strict=True):
        auroc, auprc = (" " if gap is None else f" {_bounds(gap.get(m))} " for m in ("macro_auroc", "macro_auprc"))
        tops = (models[top]["macro_auroc"] for top in ("oracle_observed", "oracle_latent"))
        shares = " | ".join(f"{_share(row, top):.1%}" for top in tops)
        lines.append(
            f"| {name} | {row['macro_auroc']:.4f} |{auroc}| {row['macro_auprc']:.4f} |{auprc}| {row['log_loss']:.4f} "
            f"| {shares} |"
        )
    low, high = found["against_base"][choice["candidate"]]["macro_auroc"]["interval"]
    verdict = (
        "better than `base`" if low > 0 else "worse than `base`" if high < 0 else "a null result: the interval holds 0"
    )
    return "\n".join(lines) + (
        f"\n\nThe one confirmation, `{choice['candidate']}` minus `base` in macro AUROC: {verdict}. "
        f"{len(setup['seeds'])} training seeds, {found['patients']:,} patients, {found['labels_in_macro']} labels, "
        f"{found['resamples']:,} resamples of seeds and patients. "
        "The other differences are for the reader; nothing was chosen from them."
    )


def _bounds(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = row["interval"]
    return f"{row['difference']:+.4f} ({low:+.4f} to {high:+.4f})"


def _share(figures: Mapping[str, float], top: float) -> float:
    return (figures["macro_auroc"] - 0.5) / (top - 0.5)
