"""Azure's storage is refused by name wherever a URL is taken: pyarrow has a file system for it that was never tried."""

import pytest

from ckd.configfile import load
from ckd.errors import ConfigError
from ckd.store.filesystems import resolve
from jobs.cli import main

URLS = [
    "abfs://visits@hospital.dfs.core.windows.net/ckd",
    "abfss://visits/ckd",
    "az://visits/ckd?sig=secret",
    "wasbs://visits@hospital.blob.core.windows.net/ckd",
    "adl://hospital/ckd",
    "https://hospital.blob.core.windows.net/visits/ckd?sig=secret",
]


@pytest.mark.parametrize("url", URLS)
def test_the_store_and_the_configuration_refuse_it_and_show_no_more_than_its_scheme(tmp_path, url):
    file = tmp_path / "a.yaml"
    file.write_text(f"run: {{results: '{url}'}}\n")
    for take in (lambda: resolve(url), lambda: load(str(file)), lambda: load(None, [f"teacher.base_model={url}"])):
        with pytest.raises(ConfigError, match="Azure's storage is not supported; expected s3://bucket/folder") as told:
            take()
        assert "hospital" not in str(told.value) and "secret" not in str(told.value)


@pytest.mark.parametrize(
    "words",
    [
        ["validate", URLS[0]],
        ["ingest", "mimic4", URLS[1], "--out", "out"],
        ["synth", "--patients", "2", "--out", URLS[0]],
        ["export", "jsonl", URLS[3], "--out", "data"],
        ["predict", "in.jsonl", "--out", URLS[0]],
        ["submit", "run", "--dry-run", f"run.results={URLS[0]}"],
        ["run", "--dry-run", f"data.train={URLS[4]}"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_it_in_one_line_before_anything_starts(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Azure's storage is not supported" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["s3://bucket/azure", "gs://az/abfs", "a/b", "topaz://x"])
def test_what_only_looks_like_it_is_not_taken_for_azure(name):
    load(None, [f"run.results={name}"])
