"""What the chaos benchmark puts into the product still fits it."""

from benchmarks.cluster.work import recording
from benchmarks.student.geometry import TINY
from benchmarks.student.loops import make_config
from benchmarks.student.visits import make_visits, write_base, write_cohort
from ckd.student.batches import Batches
from ckd.student.examples import Examples
from ckd.student.tokens import token_fields


class Lines:
    def __init__(self):
        self.found = []

    def write(self, what, **more):
        self.found.append({"what": what, **more})


def test_the_ledger_gets_the_visits_of_every_micro_batch(tmp_path):
    config = make_config(tmp_path, write_base(tmp_path / "base", TINY))
    shards = write_cohort(config, make_visits(12, TINY.vocabulary, 0, shorter=8)).shards
    examples, ledger = Examples(config.run.artifacts_root, shards, token_fields(config)), Lines()
    batches = recording(ledger, Batches)(examples, seed=0, batch_size=8, pad_id=0, accumulation=2)
    for slot in (0, 1):
        batches.micro_batch(0, 0, slot)
    assert [(line["what"], line["batch"], line["rank"], line["world"]) for line in ledger.found] == [
        ("batch", 0, 0, 1)
    ] * 2
    assert {visit for line in ledger.found for visit in line["visits"]} == set(batches.visit_ids(0, 0))
