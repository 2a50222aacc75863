"""What LLaMA-Factory trains on, written out by hand: user turn and assistant prefix of its templates.

Facts of its `data/template.py`, as of August 2026. Beside each a Jinja template as that model's tokenizer brings it,
written for these tests. BOS stands for the tokenizer's begin-of-text token, which LLaMA-Factory adds as an id.
"""

from dataclasses import dataclass, field, replace

BOS = "<bos>"
_CHATML_TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
)
_QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@dataclass(frozen=True)
class Case:
    """A LLaMA-Factory template with settings, the model's chat template with ours, and the prompt for CONTENT."""

    name: str
    template: str
    prompt: str
    special: tuple[str, ...]
    system: str = ""
    arguments: dict = field(default_factory=dict)
    thinking: bool = True


CONTENT = "Name the diseases.\nThe patient-acquired disease is Sepsis, Heart failure. None."
CHATML = ("<|im_start|>", "<|im_end|>")
QWEN = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\n"
    + _QWEN_SYSTEM
    + "<|im_end|>\n' }}{% endif %}"
    + _CHATML_TURNS
    + "{% endif %}"
)
QWEN3 = (
    _CHATML_TURNS
    + "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% set turn = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set turn = bos_token + turn %}{% endif %}{{ turn }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}{{- bos_token }}"
    "{%- for m in turns %}{%- if m['role'] == 'user' %}{%- if loop.last and system is defined %}"
    "{{- '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}{%- endif %}{%- endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set first = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for m in (messages[1:] if first else messages) %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_USER = f"<|im_start|>user\n{CONTENT}<|im_end|>\n<|im_start|>assistant\n"
CASES = {
    "qwen": Case("qwen", QWEN, f"<|im_start|>system\n{_QWEN_SYSTEM}<|im_end|>\n{_USER}", CHATML),
    "qwen with a system": Case(
        "qwen", QWEN, f"<|im_start|>system\nBe brief.<|im_end|>\n{_USER}", CHATML, system="Be brief."
    ),
    "qwen on a Qwen3": Case(
        "qwen", QWEN3, f"<|im_start|>system\n{_QWEN_SYSTEM}<|im_end|>\n{_USER}", CHATML, system=_QWEN_SYSTEM
    ),
    "qwen3": Case("qwen3", QWEN3, _USER, CHATML),
    "qwen3 without thinking": Case(
        "qwen3", QWEN3, f"{_USER}<think>\n\n</think>\n\n", CHATML, arguments={"enable_thinking": False}, thinking=False
    ),
    "qwen3 with thinking said": Case("qwen3", QWEN3, _USER, CHATML, arguments={"enable_thinking": True}),
    "llama3": Case(
        "llama3",
        LLAMA3,
        f"{BOS}<|start_header_id|>user<|end_header_id|>\n\n{CONTENT}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        HEADERS,
    ),
    "llama3 with a system": Case(
        "llama3",
        LLAMA3,
        f"{BOS}<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{CONTENT}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        HEADERS,
        system="Be brief.",
    ),
    "mistral": Case("mistral", MISTRAL, f"{BOS}[INST] {CONTENT}[/INST]", ("[INST]", "[/INST]")),
    "mistral with a system": Case(
        "mistral", MISTRAL, f"{BOS}[INST] Be brief.\n\n{CONTENT}[/INST]", ("[INST]", "[/INST]"), system="Be brief."
    ),
    "gemma": Case(
        "gemma",
        GEMMA,
        f"{BOS}<start_of_turn>user\n{CONTENT}<end_of_turn>\n<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "gemma3 with a system": Case(
        "gemma3",
        GEMMA3,
        f"{BOS}<start_of_turn>user\nBe brief.\n\n{CONTENT}<end_of_turn>\n<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
        system="Be brief.",
    ),
}
CASES["gemma2"] = replace(CASES["gemma"], name="gemma2")
CASES["gemma3"] = replace(CASES["gemma"], name="gemma3", template=GEMMA3)
CASES["gemma on a Gemma 3, with a system"] = replace(CASES["gemma3 with a system"], name="gemma")
