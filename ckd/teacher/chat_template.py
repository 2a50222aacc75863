"""Which chat template the teacher's prompts have: the base model's, the adapter's own, or a file.

Both engines, `ckd plan` and `ckd prompt` make their prompter here, so that all render alike.
"""

import json
from dataclasses import dataclass
from typing import Any

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.prompts import Prompter, own_template
from ckd.store.files import join, list_files, read_bytes
from ckd.store.hub import adapter_on_hub, small_files
from ckd.templates import ChatTemplate

_ADAPTERS_FILES = "chat_template.jinja, or tokenizer_config.json with chat_template"


@dataclass(frozen=True)
class Chosen:
    """A template, where it comes from (base, adapter or a file's name), and what a user should know of the choice."""

    template: ChatTemplate
    source: str
    note: str = ""


def load_prompter(config: TeacherConfig, tokenizer: Any) -> Prompter:
    """The configured teacher's prompter. Raises ConfigError for a template that is missing or cannot be used."""
    return Prompter(tokenizer, config.max_length, choose(config, tokenizer).template)


def choose(config: TeacherConfig, tokenizer: Any) -> Chosen:
    """The template that the configuration names: an adapter's own before the base's. Raises ConfigError."""
    named, theirs = named_template(config), adapter_template(config)
    base = _or_none(tokenizer)
    differs = theirs is not None and (base is None or theirs.rstrip("\n") != base.rstrip("\n"))
    if config.chat_template == "adapter" or (not config.chat_template and differs):
        text, source, where = theirs, "adapter", "teacher.adapter's chat template"
        if text is None:
            raise ConfigError(f"teacher.chat_template=adapter: {_no_template(config)}")
    elif named is not None:
        text, source, where = named, config.template_file, f"teacher.chat_template={config.template_file}"
    else:
        text = own_template(tokenizer, f"teacher.base_model={config.base_model}")
        source, where = "base", "teacher.base_model's chat template"
    template = ChatTemplate(text, where, tokenizer.special_tokens_map, config.system, config.template_arguments)
    return Chosen(
        template, source, _note(config, source) if differs and (source == "adapter" or text != theirs) else ""
    )


def named_template(config: TeacherConfig) -> str | None:
    """The text of the file that teacher.chat_template names; None where it names none. Raises ConfigError."""
    if not config.template_file:
        return None
    expected = "expected a Jinja file or URL, base or adapter"
    try:
        return read_bytes(config.template_file).decode()
    except FileNotFoundError:
        raise ConfigError(f"teacher.chat_template={config.template_file}: no such file; {expected}") from None
    except (OSError, ValueError) as error:
        why = f"cannot be read ({type(error).__name__})"
        raise ConfigError(f"teacher.chat_template={config.template_file}: {why}; {expected}") from None


def adapter_template(config: TeacherConfig) -> str | None:
    """The chat template beside the adapter, as transformers would find it; None without one. Raises ConfigError."""
    if not config.adapter:
        return None
    folder, names = files_beside(config.adapter)
    where = f"teacher.adapter={config.adapter}"
    try:
        if "chat_template.jinja" in names:
            return read_bytes(join(folder, "chat_template.jinja")).decode()
        if "tokenizer_config.json" not in names:
            return None
        found = json.loads(read_bytes(join(folder, "tokenizer_config.json")))
    except ValueError as error:
        raise ConfigError(
            f"{where}: its chat template cannot be read ({type(error).__name__}); mend it, or remove it "
            "with the adapter's other tokenizer files"
        ) from None
    found = found.get("chat_template") if isinstance(found, dict) else None
    if isinstance(found, list):  # several, by name
        found = {each["name"]: each["template"] for each in found if isinstance(each, dict) and len(each) == 2}
    return own_template(_Stored(found), where) if found else None


def files_beside(adapter: str) -> tuple[str, list[str]]:
    """The folder or URL of an adapter's small files, and their names."""
    folder = small_files("teacher.adapter", adapter) if adapter_on_hub(adapter) else adapter
    return folder, list_files(folder)


@dataclass(frozen=True)
class _Stored:
    """What a tokenizer has under this name, without loading one."""

    chat_template: Any


def _or_none(tokenizer: Any) -> str | None:
    try:
        return own_template(tokenizer)
    except ConfigError:
        return None


def _no_template(config: TeacherConfig) -> str:
    if not config.adapter:
        return "teacher.adapter is empty; set teacher.chat_template=base or the file of a template"
    return f"{config.adapter} has none; expected {_ADAPTERS_FILES} there, or set teacher.chat_template=base"


def _note(config: TeacherConfig, source: str) -> str:
    differs = "teacher.adapter brings a chat template of its own that is not the one of teacher.base_model"
    if source == "adapter":
        return f"{differs}: the adapter's is taken (teacher.chat_template=base takes the other)"
    return f"{differs}: teacher.chat_template={config.chat_template} leaves it out (adapter takes it)"
