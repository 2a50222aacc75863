"""The hidden life of synthetic patients: what they suffer, get and are coded with, visit by visit, and the true
probability of every next recorded label. Parameters: parameters.yaml (frozen).

A visit's hidden state is h = (true conditions X, severity S, cluster loads Z, age, sex, drugs given). Given h, the next
visit's conditions are independent Bernoulli draws, and coming back depends only on h. So P(label recorded next | h,
back) is known exactly.
"""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ckd.store.files import digest
from ckd.visits.labels import DISEASES, NUM_LABELS

Array = np.ndarray
PARAMETERS = Path(__file__).with_name("parameters.yaml")


@dataclass(frozen=True)
class Condition:
    """One of the conditions; those with a label come first, in label order."""

    key: str
    code: str  # ICD-9-CM, without the point
    title: str  # of its three-digit category
    label: str | None


@dataclass(frozen=True)
class Parameters:
    """parameters.yaml as arrays over C conditions, G drugs, P procedures, K clusters. Weights are logits."""

    raw: dict[str, Any]
    conditions: tuple[Condition, ...]
    base: Array
    first: Array
    stay: Array
    age: Array
    severity: Array
    men_only: Array
    load: Array
    link: Array  # [now, next]
    drugs: tuple[tuple[str, ...], ...]  # names of one drug each; 2k and 2k+1 are label k's effective and inert one
    drug_for: Array  # index of the condition it is given for
    procedures: tuple[str, ...]
    procedure_base: Array
    procedure_severity: Array
    called: Array


@dataclass(frozen=True)
class Encounters:
    """V visits of all patients, sorted by patient and order. Arrays of V rows."""

    seed: int
    patient: Array  # int: 0..patients-1
    order: Array  # int: 0, 1, … within the patient
    day: Array  # int: days since the patients' common first day
    age: Array  # years
    male: Array  # bool
    split: Array  # int: index into ckd.visits.SPLITS, one per patient
    severity: Array
    died: Array  # bool: in this visit
    true: Array  # bool [V, C]
    recorded: Array  # bool [V, C]: the true ones with 10 % missed and .5 % false codes
    given: Array  # bool [V, G]
    done: Array  # bool [V, P]
    probability: Array  # float32 [V, 25]: P(label recorded in the next visit | hidden state, there is one)

    @property
    def has_next(self) -> Array:
        """bool [V]: the same patient's next visit is row + 1."""
        return np.append(self.patient[1:] == self.patient[:-1], False)


@cache
def parameters() -> Parameters:
    """Read parameters.yaml, once per process."""
    raw = yaml.safe_load(PARAMETERS.read_text(encoding="utf-8"))
    rows = raw["conditions"]
    index = {row["key"]: i for i, row in enumerate(rows)}
    if [row.get("label") for row in rows[:NUM_LABELS]] != list(DISEASES):
        raise ValueError(f"{PARAMETERS}: the labelled conditions must come first, in label order")
    link = np.zeros((len(rows), len(rows)))
    for now, then, weight in raw["links"]:
        link[index[now], index[then]] = weight
    called = np.zeros((len(rows), len(raw["procedures"])))
    for p, procedure in enumerate(raw["procedures"]):
        called[[index[key] for key in procedure.get("after", [])], p] = raw["called"]
    drugs = [(index[key], names) for key, pair in raw["label_drugs"].items() for names in pair]
    drugs += [(index[key], names) for key, names in raw["other_drugs"].items()]
    return Parameters(
        raw=raw,
        conditions=tuple(Condition(r["key"], r["code"], r["title"], r.get("label")) for r in rows),
        base=_column(rows, "base"),
        first=np.array([raw["kinds"][r["kind"]]["first"] for r in rows]),
        stay=np.array([raw["kinds"][r["kind"]]["stay"] for r in rows]),
        age=_column(rows, "age"),
        severity=_column(rows, "severity"),
        men_only=np.array([r.get("only") == "M" for r in rows]),
        load=np.array([[r.get("in", {}).get(k, 0.0) for r in rows] for k in raw["clusters"]]),
        link=link,
        drugs=tuple(tuple(names) for _, names in drugs),
        drug_for=np.array([condition for condition, _ in drugs]),
        procedures=tuple(p["name"] for p in raw["procedures"]),
        procedure_base=_column(raw["procedures"], "base"),
        procedure_severity=_column(raw["procedures"], "severity"),
        called=called,
    )


def generator_fields(patients: int, seed: int) -> dict[str, str | int]:
    """What decides the encounters, for an artifact's fields."""
    parameters = digest(PARAMETERS.read_text(encoding="utf-8"))
    return {"generator": 1, "parameters": parameters, "patients": patients, "seed": seed}


def generate(patients: int, seed: int) -> Encounters:
    """Simulate patients from their first visit until they stay away, die, or reach the most visits.
    Equal seeds give equal arrays."""
    model = parameters()
    raw = model.raw
    rng = np.random.default_rng(seed)
    life = _People.draw(rng, patients, raw)
    probability = _sigmoid(_person_logit(model, life) + model.first)
    alive = np.arange(patients)
    blocks: list[dict[str, Array]] = []
    for order in range(raw["visits"]["most"]):
        visit = _visit(rng, model, life, probability, alive)
        visit["order"] = np.full(len(alive), order)
        probability = _next_probability(model, life, visit["true"], visit["given"])
        visit["probability"] = _as_recorded(probability[:, :NUM_LABELS], raw["coding"])
        blocks.append(visit)
        back = ~visit["died"] & (rng.random(len(alive)) < _logistic(raw["visits"]["return"], life.severity))
        alive, probability = alive[back], probability[back]
        life = life.later(rng, back, raw["visits"]["severity_memory"])
    arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    by_patient = np.lexsort((arrays["order"], arrays["patient"]))
    return Encounters(seed=seed, **{f.name: arrays[f.name][by_patient] for f in fields(Encounters) if f.name != "seed"})


@dataclass
class _People:
    """The patients still coming: what no visit shows."""

    load: Array
    age: Array
    male: Array
    day: Array
    split: Array
    severity: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, raw: dict[str, Any]) -> "_People":
        ages, shares = raw["ages"], list(raw["subjects"].values())
        return cls(
            load=rng.standard_normal((n, len(raw["clusters"]))),
            age=np.clip(rng.normal(ages["mean"], ages["sd"], n), ages["least"], ages["most"]),
            male=rng.random(n) >= raw["women"],
            day=rng.integers(0, 3650, n),
            split=np.searchsorted(np.cumsum(shares), rng.random(n) * sum(shares), side="right"),
            severity=rng.standard_normal(n),
        )

    def later(self, rng: np.random.Generator, back: Array, memory: float) -> "_People":
        days = 1 + rng.exponential(200, int(back.sum())).astype(int)
        noise = rng.standard_normal(int(back.sum()))
        return _People(
            load=self.load[back],
            age=self.age[back] + days / 365.25,
            male=self.male[back],
            day=self.day[back] + days,
            split=self.split[back],
            severity=memory * self.severity[back] + np.sqrt(1 - memory**2) * noise,
        )


def _visit(
    rng: np.random.Generator, model: Parameters, life: _People, probability_NC: Array, patient: Array
) -> dict[str, Array]:
    """Draw one visit of every patient still coming. The order of the draws decides the cohort."""
    raw, severity_N1 = model.raw, life.severity[:, None]
    true = rng.random(probability_NC.shape) < probability_NC
    recorded = rng.random(true.shape) < _as_recorded(true.astype(float), raw["coding"])
    use = raw["drug_use"]
    wanted = np.where(true[:, model.drug_for], use["given"] + use["severity"] * severity_N1, use["otherwise"])
    done = model.procedure_base + severity_N1 * model.procedure_severity + true @ model.called
    shown = {name: getattr(life, name) for name in ("day", "age", "male", "split", "severity")}
    return {
        **shown,
        "patient": patient,
        "died": rng.random(len(patient)) < _logistic(raw["visits"]["death"], life.severity),
        "true": true,
        "recorded": recorded,
        "given": rng.random(wanted.shape) < _sigmoid(wanted),
        "done": rng.random(done.shape) < _sigmoid(done),
    }


def _person_logit(model: Parameters, life: _People) -> Array:
    age = (life.age[:, None] - model.raw["ages"]["mean"]) / 10
    logit = model.base + life.load @ model.load + age * model.age + life.severity[:, None] * model.severity
    return np.where(model.men_only & ~life.male[:, None], -np.inf, logit)


def _next_probability(model: Parameters, life: _People, true_NC: Array, given_NG: Array) -> Array:
    """P(condition in the next visit | hidden state of this one), [N, C]."""
    now = true_NC.astype(float)
    logit = _person_logit(model, life) + now * model.stay + now @ model.link
    effective = given_NG[:, 0 : 2 * NUM_LABELS : 2] & true_NC[:, :NUM_LABELS]
    logit[:, :NUM_LABELS] += model.raw["drug_use"]["effect"] * effective
    return _sigmoid(logit)


def _as_recorded(p: Array, coding: dict[str, float]) -> Array:
    """P(coded) from P(there): some true codes are missed, some false ones written."""
    return np.asarray(p * (1 - coding["missed"]) + (1 - p) * coding["invented"], np.float32)


def _logistic(weights: dict[str, float], severity: Array) -> Array:
    return _sigmoid(weights["base"] + weights["severity"] * severity)


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def _column(rows: list[dict[str, Any]], name: str) -> Array:
    return np.array([float(row.get(name, 0.0)) for row in rows])
