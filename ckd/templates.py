"""Chat templates: rendered as transformers renders them, but on a fixed date, and with every setting put to use.

The same environment as `apply_chat_template` of transformers 5.23 (`utils/chat_template_utils.py`): a Jinja sandbox
with its filters and functions. Only `strftime_now` differs: a prompt must have the same tokens tomorrow, and in every
locale. What a template does not read, refuses or lacks is a ConfigError before any visit is shown to it.
"""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckd.config import Argument
from ckd.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.sandbox import SandboxedEnvironment

DATE = date(2024, 7, 26)  # what Llama 3.1 and 3.2 take where nobody tells them the date
_OURS = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception")
_ENGLISH = {  # of DATE; Python would ask the locale for them
    "a": "Fri", "A": "Friday", "b": "Jul", "B": "July", "h": "Jul", "p": "AM", "P": "am",
    "c": "Fri Jul 26 00:00:00 2024", "x": "07/26/24", "X": "00:00:00", "r": "12:00:00 AM", "s": "1721952000",
}  # fmt: skip
_PROBE = "Name the diseases."


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template with a system text and arguments; `where` names it in errors.

    `text` is Jinja's source, `tokens` the tokenizer's special tokens by name (bos_token, …), which templates read.
    """

    text: str
    where: str = "teacher.base_model's chat template"
    tokens: Mapping[str, str] = field(default_factory=dict)
    system: str = ""
    arguments: Mapping[str, Argument] = field(default_factory=dict)

    def render(self, content: str) -> str:
        """The prompt around the user's `content`. Raises ConfigError, which quotes neither it nor the template."""
        try:
            return self._rendered(content, self.system)
        except Exception as error:  # noqa: BLE001  a template may raise anything, in words that quote the visit
            raise ConfigError(f"{self.where}: fails on a visit ({type(error).__name__}); mend the template") from None

    def check(self) -> None:
        """Raise ConfigError unless the template renders, and reads every argument and the system text."""
        self._check_arguments()
        try:
            rendered = self._rendered(_PROBE, self.system)
        except Exception as error:  # noqa: BLE001  a template may raise anything
            raise ConfigError(self._why_not(error)) from None
        if self.system.strip() not in rendered and self._renders_with("") == rendered:
            raise ConfigError(
                f"teacher.system: {self.where} does not show it; leave teacher.system empty, or give as "
                "teacher.chat_template the file of a template that takes a system message"
            )

    @property
    def asks_for_the_date(self) -> bool:
        """Whether the prompt may hold a date, which is then DATE unless an argument says otherwise."""
        from jinja2 import nodes

        called = {name.name for name in self._tree.find_all(nodes.Name)}
        return bool({"strftime_now", "date_string"} & called)

    @cached_property
    def options(self) -> frozenset[str]:
        """The arguments that the template reads, such as enable_thinking or bos_token. Raises ConfigError."""
        from jinja2 import meta

        return frozenset(meta.find_undeclared_variables(self._tree)) - {*_OURS}

    @cached_property
    def literals(self) -> str:
        """The text that stands in the template itself, pieces parted by null characters."""
        from jinja2 import nodes

        found = [each.data for each in self._tree.find_all(nodes.TemplateData)]
        found += [each.value for each in self._tree.find_all(nodes.Const) if isinstance(each.value, str)]
        return "\0".join(found)

    @property
    def _tree(self) -> "nodes.Template":
        return self._compiled.environment.parse(self.text)

    @cached_property
    def _compiled(self) -> "Template":
        from jinja2 import TemplateSyntaxError

        try:
            return _environment().from_string(self.text)
        except TemplateSyntaxError as error:
            why = f"line {error.lineno}: {_line(error)}"
            raise ConfigError(f"{self.where}: not a Jinja template ({why}); mend it, or name another") from None

    def _rendered(self, content: str, system: str) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": content})
        given = {**self.tokens, **self.arguments}
        return self._compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **given)

    def _check_arguments(self) -> None:
        options = self.options
        for name in sorted(self.arguments.keys() - options):
            close = difflib.get_close_matches(name, options, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it reads {', '.join(sorted(options)) or 'none'}"
            raise ConfigError(f"teacher.template_arguments.{name}: {self.where} does not read it; {hint}")

    def _why_not(self, error: Exception) -> str:
        """What to do about a template that raised `error` on an invented text."""
        why = f"{type(error).__name__}: {_line(error)}"
        if self.system and self._renders_with("") is not None:
            return (
                f"teacher.system: {self.where} refuses a system message ({why}); leave teacher.system empty, or give "
                "as teacher.chat_template the file of a template that takes one"
            )
        if not self.system and self._renders_with("You are helpful.") is not None:
            return f"{self.where}: wants a system message ({why}); set teacher.system to the one used in training"
        return f"{self.where}: cannot be rendered ({why}); mend it, or name another with teacher.chat_template"

    def _renders_with(self, system: str) -> str | None:
        try:
            return self._rendered(_PROBE, system)
        except Exception:  # noqa: BLE001  a template may raise anything; the first error is reported
            return None


def _environment() -> "SandboxedEnvironment":
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    # A prompt is plain text, not HTML.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation(), loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": on_the_date}
    return environment


def on_the_date(form: str) -> str:
    """strftime of DATE at midnight, with English names whatever the locale."""

    def english(found: re.Match[str]) -> str:
        name = _ENGLISH.get(found[2], found[0])
        return name.upper() if found[1] == "^" else name

    form = re.sub(r"%([-_^#0]?)[EO]?([a-zA-Z%])", english, str(form))
    return datetime.combine(DATE, time()).strftime(form)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _generation() -> Any:
    """Jinja's `{% generation %}` block, which marks the assistant's words in training; here only what is inside."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  as Jinja has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return Generation


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
