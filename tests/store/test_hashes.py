"""A model's hash holds every byte of every file that counts, read once per machine; a damaged memory is no truth."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ckd.store import hashes
from ckd.store.files import digest, write_bytes
from ckd.store.folders import upload_folder
from ckd.store.hashes import folder_hash
from ckd.store.models import adapter_hash, local_adapter, local_folder, model_fields
from ckd.store.tokenizing import tokenizer_hash

KEY = "teacher.base_model"


def every(_):
    return True


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder with two files that count as large and settled, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "_SMALL", 100)
    monkeypatch.setattr(hashes, "_SETTLED", -1)
    folder = tmp_path / "model"
    folder.mkdir()
    for seed, name in enumerate(("a.safetensors", "b.safetensors")):
        (folder / name).write_bytes(np.random.default_rng(seed).bytes(5000))
    return folder


@pytest.fixture
def reads(monkeypatch):
    """The paths that were read whole."""
    seen, read = [], hashes._read

    def reading(path, size):
        seen.append(Path(path).name)
        return read(path, size)

    monkeypatch.setattr(hashes, "_read", reading)
    return seen


def entries(tmp_path):
    return sorted((tmp_path / "cache" / "ckd" / "hashes").glob("*"))


def test_the_hash_is_that_of_names_and_whole_contents_on_a_disk_and_at_a_url(root, weights, monkeypatch):
    wanted = digest({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(weights.iterdir())})
    monkeypatch.setattr(hashes, "BLOCK", 64)  # many more blocks than are read ahead
    upload_folder(str(weights), root)
    assert folder_hash(str(weights), every) == folder_hash(root, every) == wanted
    assert folder_hash(f"{weights}/", every) == folder_hash(f"{root}/", every) == wanted


@pytest.mark.parametrize("place", [0, 1 << 20, 40 << 20, 70_000_001, (96 << 20) - 1])
def test_any_one_byte_of_a_large_file_counts(tmp_path, monkeypatch, place):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model" / "model.safetensors"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(96 << 20)
    before = folder_hash(str(path.parent), every)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x01")
    assert folder_hash(str(path.parent), every) != before


def test_a_file_is_read_once_until_it_changes_even_when_its_time_is_set_back(tmp_path, weights, reads):
    first = folder_hash(str(weights), every)
    assert sorted(reads) == ["a.safetensors", "b.safetensors"] and len(entries(tmp_path)) == 2
    assert folder_hash(str(weights), every) == first and len(reads) == 2
    path = weights / "a.safetensors"
    was = path.stat()
    content = bytearray(path.read_bytes())
    content[2500] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert path.stat().st_mtime_ns == was.st_mtime_ns and path.stat().st_size == was.st_size
    assert folder_hash(str(weights), every) != first and reads[2:] == ["a.safetensors"]
    content[2500] ^= 1
    path.write_bytes(content)
    assert folder_hash(str(weights), every) == first
    assert len(entries(tmp_path)) == 2, "an entry per path, not per version"


def test_what_changed_just_now_is_not_remembered(tmp_path, weights, reads, monkeypatch):
    monkeypatch.setattr(hashes, "_SETTLED", 3600 * 10**9)
    assert folder_hash(str(weights), every) == folder_hash(str(weights), every)
    assert len(reads) == 4 and not entries(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, weights, monkeypatch):
    read = hashes._read

    def changing(path, size):
        found = read(path, size)
        with Path(path).open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(hashes, "_read", changing)
    folder_hash(str(weights), every)
    assert not entries(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "half", "other digit", "list", "other facts", "not text"])
def test_a_damaged_entry_is_found_anew(tmp_path, weights, reads, damage):
    wanted = folder_hash(str(weights), every)
    for entry in entries(tmp_path):
        text = entry.read_text()
        kept = json.loads(text)
        digit = "0" if kept["sha256"][5] != "0" else "1"
        damaged = {
            "empty": b"",
            "half": text[: len(text) // 2].encode(),
            "other digit": json.dumps({**kept, "sha256": kept["sha256"][:5] + digit + kept["sha256"][6:]}).encode(),
            "list": b"[1]",
            "other facts": json.dumps({**kept, "facts": [1, *kept["facts"][1:]]}).encode(),
            "not text": b"\xff\xfe\x00",
        }
        entry.write_bytes(damaged[damage])
    assert folder_hash(str(weights), every) == wanted and len(reads) == 4
    assert folder_hash(str(weights), every) == wanted and len(reads) == 4


def test_writers_at_once_and_a_cache_that_cannot_be_written(tmp_path, weights, monkeypatch):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: folder_hash(str(weights), every), range(32)))
    assert len(found) == 1 and len(entries(tmp_path)) == 2
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert {folder_hash(str(weights), every)} == found


def test_at_a_url_a_file_is_read_once_until_its_listing_changes(root, weights, reads):
    upload_folder(str(weights), root)
    assert folder_hash(root, every) == folder_hash(root, every)
    assert len(reads) == 2
    write_bytes(f"{root}/a.safetensors", b"x" * 5001)
    folder_hash(root, every)
    assert reads[2:] == ["a.safetensors"]


@pytest.mark.parametrize(
    "file",
    [
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("sentencepiece.bpe.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "vocab.bpe", "bpe.codes"),
        *("qwen.tiktoken", "dict.txt", "chat_template.jinja", "additional_chat_templates/rag.jinja"),
        *("target.spm", "entity_vocab.json", "sentencepiece.model", "prophetnet.tokenizer"),
    ],
)
def test_every_file_that_tokenizing_reads_counts(tmp_path, file):
    (tmp_path / "config.json").write_text("{}")
    before = model_fields(KEY, str(tmp_path))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text('{"a": 1}')
    after = model_fields(KEY, str(tmp_path))
    assert after[f"{KEY} tokenizer"] != before[f"{KEY} tokenizer"]
    assert after[KEY] == before[KEY]


def test_of_the_configuration_only_what_chooses_the_tokenizer_counts_as_tokenizer(tmp_path):
    def written(**settings):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return model_fields(KEY, str(tmp_path))

    before, wider, other = (written(model_type=kind, hidden=h) for kind, h in (("bert", 1), ("bert", 2), ("llama", 2)))
    assert len({found[KEY] for found in (before, wider, other)}) == 3
    assert before[f"{KEY} tokenizer"] == wider[f"{KEY} tokenizer"] != other[f"{KEY} tokenizer"]


@pytest.mark.parametrize(
    "file", ["README.md", ".gitattributes", "LICENSE", "training_args.bin", "optimizer.pt", "rng_state.pth", "plot.png"]
)
def test_what_nobody_loads_does_not_count(tmp_path, file):
    (tmp_path / "config.json").write_text("{}")
    before = model_fields(KEY, str(tmp_path))
    (tmp_path / file).write_text("x")
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "tokenizer.json").write_text("x")
    assert model_fields(KEY, str(tmp_path)) == before


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_weights_count_as_weights_alone(tmp_path, file):
    (tmp_path / "config.json").write_text("{}")
    before = model_fields(KEY, str(tmp_path))
    weights = save({"a": np.zeros(3, np.float32)})
    (tmp_path / file).write_bytes(b'{"weight_map": {}}' if file.endswith(".json") else weights)
    after = model_fields(KEY, str(tmp_path))
    assert after[KEY] != before[KEY] and after[f"{KEY} tokenizer"] == before[f"{KEY} tokenizer"]


def test_named_chat_templates_are_copied_from_a_url_and_count_there(tmp_path, root, teacher_folder):
    upload_folder(f"{teacher_folder}/base", f"{root}/base")
    upload_folder(f"{teacher_folder}/adapter", f"{root}/adapter")
    before = model_fields(KEY, f"{root}/base")
    for part in ("base", "adapter"):
        write_bytes(f"{root}/{part}/additional_chat_templates/rag.jinja", b"{{ messages }}")
    assert model_fields(KEY, f"{root}/base") != before
    folder, adapter = local_folder(KEY, f"{root}/base"), local_adapter(f"{root}/adapter")
    assert model_fields(KEY, folder) == model_fields(KEY, f"{root}/base")
    for copy in (folder, adapter):
        assert (Path(copy) / "additional_chat_templates" / "rag.jinja").read_bytes() == b"{{ messages }}"


def test_an_adapter_and_the_tokenizer_beside_it_are_two_hashes(tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    adapter, tokens = adapter_hash("teacher.adapter", str(tmp_path)), tokenizer_hash(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert adapter_hash("teacher.adapter", str(tmp_path)) == adapter and tokenizer_hash(str(tmp_path)) != tokens
    tokens = tokenizer_hash(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_text("{1}")
    assert adapter_hash("teacher.adapter", str(tmp_path)) != adapter and tokenizer_hash(str(tmp_path)) == tokens


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(hashes.ConfigError, match=r"config\.json: cannot be read \(IsADirectoryError\)"):
        hashes.file_hash(str(tmp_path / "config.json"))
