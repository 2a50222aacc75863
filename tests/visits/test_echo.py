"""Whether targets repeat the visit's own diseases, compared over the labels that are known of both."""

from hypothesis import given
from hypothesis import strategies as st

from ckd.visits.echo import Echo

masks = st.lists(st.booleans(), min_size=4, max_size=4).map(tuple)
cells = st.lists(st.sampled_from([True, False, None]), min_size=4, max_size=4).map(tuple)


@given(st.lists(st.tuples(masks, cells)))
def test_a_label_that_no_clause_names_is_not_compared(rows):
    echo = Echo()
    for clause, target in rows:
        echo.named(clause, target)
    nameable = [any(clause[k] for clause, _ in rows) for k in range(4)]
    wanted = [
        all(not ever or other in (None, flag) for flag, other, ever in zip(clause, target, nameable, strict=True))
        for clause, target in rows
    ]
    assert (echo.known, echo.equal) == (len(rows), sum(wanted))


@given(st.lists(st.tuples(cells, cells)))
def test_recorded_labels_are_compared_where_both_are_known(rows):
    echo = Echo()
    for current, target in rows:
        echo.recorded(current, target)
    wanted = [all(a is None or b is None or a == b for a, b in zip(*row, strict=True)) for row in rows]
    assert (echo.known, echo.equal) == (len(rows), sum(wanted))


def test_an_echo_of_named_diseases_is_one_though_an_undrugged_disease_is_in_the_target_only():
    echo = Echo()
    echo.named((True, False, False, False), (True, False, False, True))
    echo.named((False, True, False, False), (False, True, False, True))
    echo.named((True, True, False, False), (True, False, False, True))
    assert (echo.known, echo.equal) == (3, 2)
