"""In an environment with dashscope and tiktoken: token ids of texts, as Qwen's makers encode them.

.venv-dashscope/bin/python -m benchmarks.teacher.dashscope_child   # {"texts": [...]} on stdin
"""

from importlib.metadata import version

from benchmarks.environment import answer, question


def main() -> None:
    from dashscope.tokenizers import get_tokenizer

    tokenizer = get_tokenizer("qwen-7b-chat")
    ids = [tokenizer.encode(text) for text in question()["texts"]]
    answer({"ids": ids, "versions": {name: version(name) for name in ("dashscope", "tiktoken")}})


if __name__ == "__main__":
    main()
