"""What lies beside an adapter about its training, compared with the prompts that it will get.

LLaMA-Factory formats prompts by rules of its own, chosen by `template:`, and saves the base model's Jinja template
beside the adapter whatever it trained with. So its settings file is the better witness, where there is one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ckd.config import TeacherConfig
from ckd.prompts import content
from ckd.store.artifacts import Fields
from ckd.store.files import join, read_bytes
from ckd.teacher.chat_template import files_beside
from ckd.teacher.prompt_identity import PROBES, Identity, identity
from ckd.visits.labels import INSTRUCTION

_KEYS = ("template", "default_system", "enable_thinking", "cutoff_len")
_NO_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Format:
    """One of LLaMA-Factory's templates: the first user turn and the assistant's beginning, as it trains on them.

    `user` holds {system} where the format puts it inside the user's turn, else `system` stands before it.
    """

    user: str
    system: str
    default_system: str = ""
    begins: bool = False  # with the begin-of-text token
    thinks: bool = False  # Qwen3: without thinking, an empty thought belongs to the prompt

    def prompt(self, text: str, begin: str, system: str = "", *, thinking: bool = True) -> str:
        """The prompt of the user's `text`, with `begin` as the tokenizer's begin-of-text token."""
        system = system or self.default_system
        shown = self.system.replace("{system}", system) if system else ""
        user = self.user.replace("{content}", text)
        user = user.replace("{system}", shown) if "{system}" in self.user else shown + user
        return (begin if self.begins else "") + user + (_NO_THOUGHT if self.thinks and not thinking else "")


_CHATML_SYSTEM = "<|im_start|>system\n{system}<|im_end|>\n"
_CHATML = "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
_GEMMA = Format(
    "<start_of_turn>user\n{system}{content}<end_of_turn>\n<start_of_turn>model\n", "{system}\n\n", begins=True
)
# From LLaMA-Factory's src/llamafactory/data/template.py, as of August 2026.
FORMATS = {
    "qwen": Format(_CHATML, _CHATML_SYSTEM, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "qwen3": Format(_CHATML, _CHATML_SYSTEM, thinks=True),
    "qwen3_nothink": Format(_CHATML, _CHATML_SYSTEM),
    "llama3": Format(
        "<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        begins=True,
    ),
    "mistral": Format("[INST] {system}{content}[/INST]", "{system}\n\n", begins=True),
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
}


def prompt_notes(config: TeacherConfig, fields: Fields) -> list[str]:
    """What a user should know about the prompts, one line each. `fields`: the fingerprint of the embeddings.

    Raises ConfigError for a template that cannot be used.
    """
    found = identity(config, str(fields["teacher.base_model tokenizer"]))
    return [*([found.note] if found.note else []), *differences(config, found)]


def differences(config: TeacherConfig, found: Identity) -> Iterator[str]:
    """How the training settings beside the adapter differ from the prompts that will be made, one line each."""
    if not config.adapter:
        return
    folder, names = files_beside(config.adapter)
    for name in names:
        if not name.endswith((".yaml", ".yml", ".json")) or not ("args" in name or name.startswith("llamaboard")):
            continue
        where = f"teacher.adapter: {name} beside it says"
        settings = _settings(read_bytes(join(folder, name)))
        if settings is None:
            yield f"teacher.adapter: {name} beside it is not readable YAML, so nothing of it is compared"
            continue
        yield from _other_prompt(where, settings, found)
        cutoff = settings.get("cutoff_len")
        if isinstance(cutoff, int) and cutoff != config.max_length:
            longer = "longer than" if cutoff < config.max_length else "shorter than"
            yield (
                f"{where} cutoff_len: {cutoff}; with teacher.max_length={config.max_length} the longest prompts are "
                f"{longer} in training; set teacher.max_length={cutoff}"
            )


def _settings(data: bytes) -> Mapping[str, Any] | None:
    """The keys of a settings file that say something of prompts, without their sections (`top.template`)."""
    try:
        found = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError):  # ValueError: YAML for a date that there is not
        return None
    if not isinstance(found, dict):
        return None
    keys = {str(key).rpartition(".")[2]: value for key, value in found.items()}
    return {key: keys[key] for key in _KEYS if keys.get(key) not in (None, "")}


def _other_prompt(where: str, settings: Mapping[str, Any], found: Identity) -> Iterator[str]:
    name, system = settings.get("template"), str(settings.get("default_system", ""))
    if system and system.strip() not in found.rendered:
        yield f"{where} default_system, which the prompts do not hold; set teacher.system to it"
        return
    thinking = bool(settings.get("enable_thinking", True))
    if name is None:
        if not thinking and "<think>" not in found.rendered:
            yield f"{where} enable_thinking: false; set teacher.template_arguments.enable_thinking=false"
        return
    known = FORMATS.get(str(name))
    if known is None:
        yield f"{where} template: {name}, whose prompts are not known here; compare with what 'ckd prompt' shows"
        return
    trained = known.prompt(content(INSTRUCTION, PROBES[1]), found.begin, system, thinking=thinking)
    if trained != found.rendered:
        others = "whose prompts are others than 'ckd prompt' shows"
        yield f"{where} template: {name}, {others}; {_remedy(known, trained, found)}"


def _remedy(known: Format, trained: str, found: Identity) -> str:
    """The key that brings the rendered prompt nearer to the one of the training."""
    if known.default_system and known.default_system not in found.rendered:
        return f'set teacher.system="{known.default_system}"'
    if (_NO_THOUGHT in trained) != (_NO_THOUGHT in found.rendered):
        return f"set teacher.template_arguments.enable_thinking={'false' if _NO_THOUGHT in trained else 'true'}"
    return "give the file of a template that writes them as teacher.chat_template (docs/teacher.md)"
