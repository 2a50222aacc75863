"""results/<run>/config.yaml: what a run was started with, whole or not there, without what was refused."""

import shlex

import pytest

from ckd.configfile import load
from ckd.errors import ConfigError, IncompleteError
from jobs.cli import main, make_parser
from jobs.commands import COMMANDS, GROUPS
from jobs.saved import load_saved, saving
from testbed.rows import row, write_jsonl


@pytest.fixture
def started(tmp_path):
    """The words of a run, and where its configuration is saved."""
    rows = write_jsonl(tmp_path / "rows.json", [row(1)])
    return [f"run.results={tmp_path}", "run.name=007", f"data.train={rows}", "seed=3"], tmp_path / "007/config.yaml"


def test_it_holds_every_key_and_is_what_a_run_is_looked_at_with(started):
    words, file = started
    config = load(None, words)
    with saving(config):
        assert load(str(file)) == config, "there while the run goes on"
    assert load_saved(words[:2]) == (config, f"settings of {file}")
    assert load_saved([*words[:2], "seed=4"])[0] == load(None, [*words, "seed=4"])
    assert load_saved(["run.name=other", words[0]])[1] == ""
    assert [path.name for path in file.parent.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(("error", "kept"), [(ConfigError, 3), (IncompleteError, 9), (KeyboardInterrupt, 9)])
def test_what_was_refused_does_not_stay_and_what_stopped_does(started, error, kept):
    words, file = started
    for before in ([], [3]):
        for seed in before:
            with saving(load(None, [*words, f"seed={seed}"])):
                pass
        with pytest.raises(error), saving(load(None, [*words, "seed=9"])):
            raise error("x")
        assert file.exists() == (bool(before) or kept == 9)
        assert file.parent.exists() == file.exists()
        if file.exists():
            assert load(str(file)).seed == kept
            file.unlink()


def test_inputs_that_are_gone_are_left_out_so_that_the_prepared_visits_are_looked_at(started):
    words, file = started
    with saving(load(None, words)):
        pass
    (file.parents[1] / "rows.json").unlink()
    config, said = load_saved(words[:2])
    assert (config.data.train, config.seed) == ("", 3)
    assert said.endswith("without its inputs: not all of them are there any more")


def test_a_command_that_is_refused_leaves_none(started, capsys):
    words, file = started
    assert main(["embed", *words]) == 2
    assert not file.exists() and "have one subject" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["runn"], "'runn': no such command; did you mean 'run'?"),
        (["train_head"], "did you mean 'train-head'?"),
        (["xyzzy"], "'ckd --help' lists them"),
        (["run", "--data.train=a b.json"], "did you mean data.train=a b.json"),
        (["run", "--teacher.workers", "2"], "did you mean teacher.workers=…"),
    ],
)
def test_a_slip_gets_a_hint_in_one_line(words, hint, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert hint in err and err.count("\n") == 1


def test_every_command_is_in_one_group_of_the_help_and_has_an_example_that_parses(capsys):
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    text = make_parser(None).format_help()
    assert [text.index(f"\n{group}:") for group in GROUPS] == sorted(text.index(f"\n{group}:") for group in GROUPS)
    for name, command in COMMANDS.items():
        program, *words = shlex.split(command.line)
        assert (program, words[0]) == ("ckd", name)
        arguments, rest = make_parser(name).parse_known_args(words)
        load(getattr(arguments, "config", None), [w for w in getattr(arguments, "words", []) + rest if "=" in w])
        assert not [word for word in rest if word.startswith("-")]
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert f"example:\n  {command.line}\n" in capsys.readouterr().out
