"""JSON files are strict in both directions, and their errors are one line that quotes nothing."""

import math

import pytest

from ckd.errors import ArtifactError
from ckd.store.files import read_bytes
from ckd.store.jsonfile import JsonError, parse_json, read_json, sealed, write_json

MARKER = "zyxmarkerqq"
BAD = {
    b'{"a": NaN}': "JSON with NaN or Infinity",
    b'{"a": -Infinity}': "JSON with NaN or Infinity",
    b'{"a": 1, "a": 2}': "JSON with a repeated key",
    b'{"a": "' + MARKER.encode(): "broken JSON",
    b"\xff" + MARKER.encode(): "not UTF-8",
    b"[" * 100_000: "broken JSON",
    b"": "broken JSON",
}


@pytest.mark.parametrize(("text", "reason"), BAD.items())
def test_what_is_not_strict_json_is_refused_in_one_line_without_its_text(tmp_path, text, reason):
    with pytest.raises(JsonError) as refused:
        parse_json(text)
    assert str(refused.value) == reason
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ArtifactError) as error:
        read_json(str(tmp_path / "a.json"), "make it again")
    assert str(error.value) == f"{tmp_path}/a.json: {reason}; make it again"


def test_what_is_written_comes_back_and_a_missing_file_is_not_found(tmp_path):
    path, value = str(tmp_path / "a.json"), {"b": [1, 0.1, None, "ß"], "a": {}}
    write_json(path, value)
    assert read_bytes(path) == b'{\n "b": [\n  1,\n  0.1,\n  null,\n  "\\u00df"\n ],\n "a": {}\n}\n'
    assert read_json(path, "") == value and list(read_json(path, "")) == ["b", "a"]
    with pytest.raises(FileNotFoundError):
        read_json(str(tmp_path / "b.json"), "")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path, number):
    path = str(tmp_path / "a.json")
    write_json(path, 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": number})
    assert read_json(path, "") == 1


def test_a_sealed_file_with_any_flipped_bit_is_read_as_it_was_or_refused(tmp_path):
    path, value = tmp_path / "a.json", {"b": [1, 0.1, None, "ß"], "a": {"10": 1, "9": {"x": -0.0}}, "c": 1e300}
    write_json(str(path), sealed(value))
    whole, refused = path.read_bytes(), 0
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_json(str(path), "make it again")
            # Only the seal's own name can be lost unseen, and then what it seals is whole.
            assert found == value or {k: found[k] for k in value} == value, bit
        except ArtifactError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert refused > 0.9 * len(whole) * 8


def test_what_a_seal_covers_does_not_depend_on_the_order_or_the_kind_of_keys(tmp_path):
    write_json(str(tmp_path / "a.json"), sealed({10: "a", 9: "b", "x": (1, 2)}))
    assert read_json(str(tmp_path / "a.json"), "") == {"10": "a", "9": "b", "x": [1, 2]}
