"""In an environment with LLaMA-Factory: the prompt ids that it trains on, by its own converter and processor.

torchaudio and torchvision come from PyPI as CUDA builds that break imports beside a CPU's torch: an empty torchaudio
stands in, which only its audio models would use.

    .venv-llamafactory/bin/python -m benchmarks.teacher.llamafactory_child   # on stdin: as `main` reads it
"""

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any

from benchmarks.environment import answer, question

_IGNORED = -100  # the label of a token that is not learned


def main() -> None:
    """Asked: a list of tokenizer (folder), template, thinking, cutoff_len, rows. Answers each row's prompt ids."""
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    stand_in = ModuleType("torchaudio")
    stand_in.__spec__ = ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = stand_in
    names = ("llamafactory", "transformers", "tokenizers")
    answer({"prompts": [prompts(**asked) for asked in question()], "versions": {each: version(each) for each in names}})


def prompts(
    tokenizer: str, template: str, thinking: bool, cutoff_len: int, rows: list[dict[str, str]]
) -> list[list[int]]:
    """The ids before the first learned one of each row (instruction, input, output and system)."""
    from llamafactory.data.converter import AlpacaDatasetConverter
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.data.template import TEMPLATES, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    settings = DataArguments(template=template, enable_thinking=thinking, cutoff_len=cutoff_len)
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    chosen = get_template_and_fix_tokenizer(loaded, settings)
    chosen.mm_plugin = TEMPLATES["empty"].mm_plugin  # gemma3's would want an image processor, for text too
    columns = DatasetAttr("file", "visits", system="system")
    converted = [AlpacaDatasetConverter(columns, settings)(row) for row in rows]
    examples = {name: [row[name] for row in converted] for name in converted[0]}
    made = SupervisedDatasetProcessor(chosen, loaded, None, settings).preprocess_dataset(examples)
    return [unlearned(*each) for each in zip(made["input_ids"], made["labels"], strict=True)]


def unlearned(ids: list[int], labels: list[int]) -> list[int]:
    """The ids before the first that is learned."""
    learned: Any = (place for place, label in enumerate(labels) if label != _IGNORED)
    return ids[: next(learned, len(ids))]


if __name__ == "__main__":
    main()
