"""`ckd ingest` as a whole: against plain Python, on synthetic tables with known labels, killed and continued, on Ray, and into `ckd run`."""

import json

import pytest
from ehr_tables import write_mimic3
from ingest_reference import cohort_by_hand, ingest, random_tables, read_tables

from ckd.grammar import TREATMENT
from ckd.labels import INSTRUCTION

SMALL = ("ingest.min_support=1", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.3")
BY_HAND = {"m": 1, "folds": 2, "tuning": 0.2, "held_out": 0.3}


@pytest.mark.parametrize("seed", range(12))
def test_every_row_is_the_one_that_plain_python_makes(tmp_path, seed):
    folder = write_mimic3(tmp_path / "tables", random_tables(seed), gz=seed % 2 == 0, upper=seed % 3 == 0)
    method, delay, newborns = ("lift", "count")[seed % 2], (3, 0, 1.5)[seed % 3], seed % 4 == 0
    options = (f"ingest.treatment={method}", f"ingest.coding_delay_days={delay}", f"ingest.newborns={newborns}", f"seed={seed}")
    wanted = cohort_by_hand(read_tables(folder), method=method, delay=delay, newborns=newborns, seed=seed, **BY_HAND)
    found = {count: ingest(folder, tmp_path / f"out{count}", *SMALL, *options, f"ingest.partitions={count}") for count in (1, 2, 5)}
    assert set(found[1]) == set(wanted)
    for visit, row in wanted.items():
        assert found[1][visit] == {**row, "instruction": INSTRUCTION}
    assert found[2] == found[1] and found[5] == found[1]
    assert any(TREATMENT in row["input"] for row in wanted.values())
    cards = [json.loads((tmp_path / f"out{count}" / "card.json").read_text()) for count in (1, 2, 5)]
    for card in cards:
        card["settings"].pop("ingest.partitions")
    assert cards[0] == cards[1] == cards[2]
    assert len({(tmp_path / f"out{count}" / "association.csv").read_bytes() for count in (1, 2, 5)}) == 1
