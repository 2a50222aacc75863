"""The vocabulary benchmark: ranks become merges, and each of its checks finds a prompt that is not as it should be."""

from benchmarks.teacher.qwen import merges
from benchmarks.teacher.vocabulary import check_truncated, main

BYTES = {bytes([byte]): n for n, byte in enumerate(b"abcd")}


def test_a_token_is_merged_from_what_its_bytes_become_by_the_ranks_before_it():
    ranks = BYTES | {b"bc": 4, b"ab": 5, b"abc": 6, b"abab": 7, b"dabc": 8}
    assert merges(ranks) == [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc"), (b"ab", b"ab"), (b"d", b"abc")]


def test_a_prompt_that_is_cut_otherwise_is_counted():
    whole, tail = [1, 2, 3, 4, 5, 9, 9], [9, 9]
    assert not check_truncated([whole], [whole], tail, 7)
    assert not check_truncated([whole], [[1, 2, 3, 9, 9]], tail, 5)
    assert check_truncated([whole], [[1, 2, 3, 4, 5]], tail, 5) == {"truncated otherwise at 5": 1}
    assert check_truncated([whole], [whole], tail, 5) == {"truncated otherwise at 5": 1, "of another length at 5": 1}


def test_without_the_package_it_says_what_is_missing(tmp_path, capsys):
    visits = tmp_path / "visits.json"
    visits.write_text('{"instruction": "Name them.", "input": "None.", "output": null}\n')
    out = tmp_path / "out.json"
    assert main(["--visits", str(visits), "--python", str(tmp_path / "bin" / "python"), "--out", str(out)]) == 2
    assert "make bench-prompts" in capsys.readouterr().err and not out.exists()
