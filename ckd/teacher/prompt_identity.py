"""What decides the teacher's prompts, as fields of the embeddings' fingerprint: above all the tokens of two probes.

Hashes of files say that something may differ; the probes' tokens say that nothing does, whatever version of a library
made them. Loading a tokenizer costs seconds, so the probes are remembered in <user cache>/prompts/<key>.json under
everything that decides them. Without a readable entry they are made anew.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.prompts import PROMPT_VERSION, Prompter, content
from ckd.store.artifacts import Fields
from ckd.store.files import digest, read_bytes, write_bytes
from ckd.store.folders import cache_folder
from ckd.store.jsonfile import json_bytes
from ckd.store.models import without_weights
from ckd.store.pretrained import Source, load_tokenizer
from ckd.teacher.chat_template import adapter_template, choose, named_template
from ckd.templates import DATE
from ckd.visits.grammar import render_input
from ckd.visits.labels import INSTRUCTION

# Invented: one with many kinds of signs, and the shortest there is.
PROBES = (
    render_input(
        ["Sepsis, unspecified", "Congestive heart failure", "Ménière's disease"],
        ["Sodium Chloride 0.9% Flush", "Vancomycin 1000mg/200mL", "β-Carotene", "5% Dextrose (EXCEL BAG)"],
        ["Venous catheterization, not elsewhere classified", "Hæmodialysis"],
        {"Essential hypertension": ["Amlodipine", "Metoprolol Tartrate"], "Pneumonia": ["Levofloxacin"]},
    )
    + "\n\n\tSpO₂ 94–97 % · 心不全 · 37.5°C  »no known allergies« 🩺",
    "None",
)
_LIBRARIES = ("transformers", "tokenizers", "jinja2")


@dataclass(frozen=True)
class Identity:
    """The prompts of one teacher. `source`: base, adapter or a file; `rendered`: the text of the short probe."""

    source: str
    template: str  # hash of its text
    tokens: str  # hash of the probes' token ids
    rendered: str
    begin: str  # the tokenizer's begin-of-text token, "" without one
    note: str  # what a user should know about the choice of the template; "" for nothing


def prompt_fields(config: TeacherConfig, tokenizer_hash: str) -> Fields:
    """The fields of the fingerprint, `tokenizer_hash` being `teacher.base_model tokenizer` of `model_fields`.

    Raises ConfigError for a template that is missing, or cannot do what the configuration asks of it.
    """
    found = identity(config, tokenizer_hash)
    arguments = config.template_arguments
    return {
        "teacher.chat_template": found.template,
        "teacher.system": digest(config.system) if config.system else None,
        "teacher.template_arguments": json.dumps(arguments, sort_keys=True) if arguments else None,
        "prompt": PROMPT_VERSION,
        "prompt tokens": found.tokens,
    }


def identity(config: TeacherConfig, tokenizer_hash: str) -> Identity:
    """The remembered identity of this teacher's prompts, else a new one, which is then remembered.

    Raises ConfigError.
    """
    facts = _facts(config, tokenizer_hash)
    path = str(cache_folder() / "prompts" / f"{digest(facts)}.json")
    known = _remembered(path, facts)
    if known:
        return known
    found = identity_of(config, base_tokenizer(config))
    with suppress(ConfigError, OSError):  # where nothing can be kept, the next command asks the tokenizer again
        write_bytes(path, json_bytes({"facts": facts, "identity": asdict(found)}, sort_keys=True))
    return found


def base_tokenizer(config: TeacherConfig) -> Any:
    """The tokenizer of teacher.base_model, without weights. Raises ConfigError, UnreachableError."""
    with without_weights("teacher.base_model", config.base_model) as folder:
        return load_tokenizer(Source("teacher.base_model", config.base_model, folder))


def identity_of(config: TeacherConfig, tokenizer: Any) -> Identity:
    """The identity of the prompts that this tokenizer makes; nothing is remembered. Raises ConfigError."""
    chosen = choose(config, tokenizer)
    prompts, _ = Prompter(tokenizer, 1 << 20, chosen.template).encode([INSTRUCTION] * len(PROBES), PROBES)
    return Identity(
        source=chosen.source,
        template=digest(chosen.template.text),
        tokens=digest(prompts),
        rendered=chosen.template.render(content(INSTRUCTION, PROBES[1])),
        begin=str(tokenizer.bos_token or ""),
        note=chosen.note,
    )


def _facts(config: TeacherConfig, tokenizer_hash: str) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer_hash,
        "chat_template": config.chat_template,
        "named": digest(named_template(config)),
        "adapter": digest(adapter_template(config)),
        "system": digest(config.system),
        "arguments": config.template_arguments,
        "date": str(DATE),
        "prompt": PROMPT_VERSION,
        "probes": digest(PROBES),
        **{name: version(name) for name in _LIBRARIES},
    }


def _remembered(path: str, facts: Mapping[str, Any]) -> Identity | None:
    try:
        stored = json.loads(read_bytes(path))
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("facts") != facts:
        return None
    found = stored.get("identity")
    if not isinstance(found, dict) or found.keys() != {each.name for each in fields(Identity)}:
        return None
    return Identity(**found) if all(isinstance(value, str) for value in found.values()) else None
