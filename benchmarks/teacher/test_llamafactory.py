"""The comparison with LLaMA-Factory finds where two prompts part, and says what is missing."""

from benchmarks.teacher.llamafactory import ROWS, compare, main, prompter
from benchmarks.teacher.llamafactory_child import unlearned
from testbed.prompt_formats import BOS, CASES
from testbed.small_tokenizers import byte_level


def test_a_token_that_differs_is_shown_and_a_known_difference_is_not_unexpected(tmp_path):
    case = CASES["llama3"]
    byte_level([BOS, *case.special], bos=BOS).save_pretrained(tmp_path)
    theirs, _ = prompter(case, tmp_path).encode(*zip(*ROWS.values(), strict=True))
    found = {"equal": 0, "known": [], "unexpected": []}
    compare(found, case, "byte-level", tmp_path, theirs)
    assert found == {"equal": len(ROWS), "known": [], "unexpected": []}
    places = [*ROWS].index("visit"), [*ROWS].index("blank after it")
    for place in places:
        theirs[place] = [*theirs[place][:-1], 0, 0]
    compare(found, case, "byte-level", tmp_path, theirs)
    (unexpected,), (known,) = found["unexpected"], found["known"]
    assert (unexpected["text"], known) == ("visit", "byte-level, blank after it")
    assert unexpected["at"] == len(theirs[places[0]]) - 2
    assert unexpected["ours"][-2:] == ["<|end_header_id|>", "ĊĊ"] and unexpected["theirs"][-2:] == [BOS, BOS]


def test_a_prompt_ends_where_learning_begins():
    assert unlearned([1, 2, 3, 4], [-100, -100, 3, 4]) == [1, 2]
    assert unlearned([1, 2], [-100, -100]) == [1, 2]


def test_without_the_packages_it_says_what_is_missing(tmp_path, capsys):
    out, python = tmp_path / "out.json", str(tmp_path / "bin" / "python")
    assert main(["--python", python, "--dashscope-python", python, "--out", str(out)]) == 2
    assert "make bench-prompts" in capsys.readouterr().err and not out.exists()
