"""Chat templates: rendered as transformers does, on a fixed date in English, and refused in one line."""

import locale
import time

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from ckd.errors import ConfigError
from ckd.templates import DATE, ChatTemplate, on_the_date

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if quiet %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
FEATURES = (
    "{{- bos_token }}\n{%- if tools is not none %}tools{% endif %}\n"
    "  {% set ns = namespace(found=false) %}\n"
    "{%- for m in messages %}\n"
    "    {%- if m.role == 'system' %}{% set ns.found = true %}{% continue %}{% endif %}\n"
    "{% generation %}{{ m.content | tojson }} {{ dict(a=1)['a'] }} {{ m['content'][:3] ~ loop.index0 }}"
    "{% endgeneration %}\n{% endfor %}{{ 'S' if ns.found else 'N' }} {{ date_string is defined }} {{ undefined_name }}|"
)
DATED = "{{ messages[0]['content'] }} on {{ strftime_now('%d %B %Y, %A, %b, %c, %p') }}."
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('none here') }}{% endif %}{{ messages[0].content }}!"
)
ONLY_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('one first') }}{% endif %}{{ messages[1].content }}"
)


@pytest.mark.parametrize("text", [CHATML, FEATURES])
@pytest.mark.parametrize("content", ["Name <b>\n ünlaut ", "x" * 300])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_template_renders_as_in_transformers(text, content, system):
    arguments = {"quiet": True, "date_string": "today"}
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": content})
    theirs, _ = render_jinja_template(
        [messages], chat_template=text, add_generation_prompt=True, bos_token="<s>", **arguments
    )
    ours = ChatTemplate(text, tokens={"bos_token": "<s>"}, system=system, arguments=arguments)
    assert [ours.render(content)] == theirs


def test_the_date_is_fixed_and_english_whatever_the_clock_and_the_locale(monkeypatch):
    template, expected = ChatTemplate(DATED), "A on 26 July 2024, Friday, Jul, Fri Jul 26 00:00:00 2024, AM."
    assert template.render("A") == expected
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    before = locale.setlocale(locale.LC_TIME)
    others = [name for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8", "POSIX") if _has(name)]
    try:
        for name in others:
            locale.setlocale(locale.LC_TIME, name)
            assert template.render("A") == expected
    finally:
        locale.setlocale(locale.LC_TIME, before)
    assert template.asks_for_the_date and not ChatTemplate(CHATML).asks_for_the_date


def test_every_name_that_a_locale_could_change_is_given_by_us(monkeypatch):
    """Where this machine has no other locale: strftime is asked for digits only."""
    asked = []

    class Digits:
        @staticmethod
        def combine(day, midnight):
            return Digits()

        def strftime(self, form):
            asked.append(form)
            return form

    monkeypatch.setattr("ckd.templates.datetime", Digits)
    on_the_date("%a %A %b %B %h %p %c %x %X %r %^b %Ex %d %H:%M:%S %j %U %% %-d")
    assert asked == [
        "Fri Friday Jul July Jul AM Fri Jul 26 00:00:00 2024 07/26/24 00:00:00 12:00:00 AM JUL 07/26/24 "
        "%d %H:%M:%S %j %U %% %-d"
    ]


def test_the_names_are_those_of_the_date():
    assert [on_the_date(f"%{name}") for name in "aAbBd"] == [DATE.strftime(f"%{name}") for name in "aAbBd"]


def test_a_date_that_the_template_takes_can_be_given():
    asks = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    for given, expected in (({}, "26 Jul 2024A"), ({"date_string": "01 Jan 2025"}, "01 Jan 2025A")):
        template = ChatTemplate(asks + "{{ date_string }}{{ messages[0].content }}", arguments=given)
        template.check()
        assert template.render("A") == expected


@pytest.mark.parametrize(
    ("text", "settings", "says"),
    [
        ("{% if %}", {}, r"^[^(]*: not a Jinja template \(line 1: .*\); mend it"),
        ("{{ nothing.role }}", {}, r"cannot be rendered \(UndefinedError: 'nothing' is undefined\); mend it"),
        ("{{ raise_exception('never\nmind') }}", {}, r"cannot be rendered \(TemplateError: never mind\); mend it"),
        ("{{ messages.clear() }}", {}, r"cannot be rendered \(SecurityError: .*\); mend it"),
        (NO_SYSTEM, {"system": "Be brief."}, r"teacher\.system: .* refuses a system message .*; leave .* empty"),
        (ONLY_SYSTEM, {}, r"wants a system message .*; set teacher\.system"),
        ("{{ messages[-1].content }}", {"system": "Be brief."}, r"teacher\.system: .* does not show it; leave"),
        (
            CHATML,
            {"arguments": {"quite": True}},
            r"template_arguments\.quite: .* does not read it; did you mean 'quiet'",
        ),
        (NO_SYSTEM, {"arguments": {"quiet": True}}, r"does not read it; it reads none$"),
        (
            CHATML,
            {"arguments": {"messages": "x"}},
            r"template_arguments\.messages: .* does not read it; it reads quiet",
        ),
        (CHATML, {"arguments": {"add_generation_prompt": False}}, r"does not read it"),
    ],
)
def test_a_template_that_cannot_do_what_was_asked_is_refused_in_one_line(text, settings, says):
    with pytest.raises(ConfigError, match=says) as error:
        ChatTemplate(text, **settings).check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "system"), [(NO_SYSTEM, ""), (ONLY_SYSTEM, "Be brief."), (CHATML, " Be brief.\n")])
def test_a_template_that_gets_what_it_wants_is_taken(text, system):
    template = ChatTemplate(text, system=system)
    template.check()
    assert template.render("A").startswith(("A", "<|im_start|>system\nBe brief.<|im_end|>"))


def test_an_error_on_a_visit_quotes_nothing_of_it():
    template = ChatTemplate(
        "{% if messages[0].content|length > 30 %}{{ raise_exception(messages[0].content) }}{% endif %}"
    )
    with pytest.raises(ConfigError, match=r"fails on a visit \(TemplateError\)") as error:
        template.render("MARKERPATIENT" * 9)
    assert "MARKER" not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


def _has(name):
    before = locale.setlocale(locale.LC_TIME)
    try:
        locale.setlocale(locale.LC_TIME, name)
        return True
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_TIME, before)
