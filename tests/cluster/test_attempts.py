"""Which starts count, and what follows: against a plain reference, over random lives of nodes."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.attempts import MOST, Attempts, Ruling, Verdict


class Machines:
    """Nodes a to e; what `Attempts` sees of them."""

    def __init__(self):
        self.alive, self.draining = set("abcde"), set()

    def __call__(self):
        return set(self.alive), self.draining & self.alive


def test_the_fourth_start_that_counts_is_refused_and_does_not_run():
    attempts = Attempts(Machines())
    rulings = [attempts.rule(7, "a", alone=True) for _ in range(5)]
    assert rulings[:3] == [Ruling(Verdict.RUN, n, n) for n in (1, 2, 3)]
    assert rulings[3:] == [Ruling(Verdict.REFUSE, 4, 3)] * 2
    assert attempts.rule(8, "a", alone=True).verdict is Verdict.RUN, "another item"


def test_starts_whose_machine_died_or_was_to_end_do_not_count_even_after_it_is_forgotten():
    machines = Machines()
    attempts = Attempts(machines)
    for starts, node in enumerate("abc", 1):
        assert attempts.rule(7, node, alone=False) == Ruling(Verdict.RUN, 1, starts)
        machines.alive -= {node}
    assert attempts.rule(7, "d", alone=False) == Ruling(Verdict.RUN, 1, 4)
    machines.draining = {"d"}
    assert attempts.rule(7, "e", alone=False) == Ruling(Verdict.RUN, 1, 5)
    machines.draining = set()
    assert attempts.rule(7, "e", alone=True) == Ruling(Verdict.RUN, 2, 6), "e's own start counts, d's never again"


def test_an_item_on_a_machine_that_is_to_end_goes_elsewhere_and_one_that_may_have_killed_its_process_runs_alone():
    machines = Machines()
    attempts = Attempts(machines)
    machines.draining = {"a"}
    assert attempts.rule(7, "a", alone=True) == Ruling(Verdict.LEAVE, 0, 0)
    assert attempts.rule(7, "b", alone=False) == Ruling(Verdict.RUN, 1, 1)
    assert attempts.rule(7, "b", alone=False) == Ruling(Verdict.ALONE, 1, 1)
    assert attempts.rule(7, "b", alone=True) == Ruling(Verdict.RUN, 2, 2)


@given(st.lists(st.tuples(st.sampled_from(["start", "die", "drain"]), st.sampled_from("abcde")), max_size=40))
def test_no_item_runs_more_often_than_three_times_on_machines_that_stay(steps):
    machines, ran = Machines(), []
    attempts = Attempts(machines)
    for step, node in steps:
        if step == "die":
            machines.alive -= {node}
        elif step == "drain":
            machines.draining |= {node}
            attempts.rule(0, "nowhere", alone=True)  # somebody asks while it drains
        elif node in machines.alive:
            ruling = attempts.rule(1, node, alone=True)
            stay = machines.alive - machines.draining
            assert (ruling.verdict is Verdict.REFUSE) == (sum(n in stay for n in ran) == MOST)
            assert (ruling.verdict is Verdict.LEAVE) <= (node in machines.draining)
            if ruling.verdict is Verdict.RUN:
                ran.append(node)
    assert sum(n in machines.alive - machines.draining for n in ran) <= MOST
