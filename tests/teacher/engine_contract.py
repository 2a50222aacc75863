"""What every engine must do, as plain functions over an engine and a slow plain reference.

A clause takes (engine, plain): an engine with the adapter of a folder, and `plain(prompts, adapter=True)`, the forward
pass of the causal model one prompt at a time, float32 [n, hidden] at each last token, with or without the adapter. It
raises AssertionError when the engine is wrong. The engine must have been made with MAX_LENGTH and float32; the model
needs 300 tokens in its vocabulary. Nothing here knows a library of engines.
"""

from typing import get_args

import numpy as np

from ckd.config import TeacherConfig
from ckd.visits.labels import INSTRUCTION

ENGINES = get_args(TeacherConfig.model_fields["engine"].annotation)
MAX_LENGTH = 640
TOLERANCE = 1e-4
WEAK = 1e-2  # the least that the adapter must change: far above the tolerance, or the clauses could not tell


def ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(3, 299, shape).tolist()


def mixed(seed=0):
    """Lengths 1, 2, 3, everything between, and the longest there may be.

    Some prompts are prefixes of others, one is there twice.
    """
    prompts = [ids(n, seed=seed + n) for n in (5, 1, 63, 64, 65, 2, 130, 3, MAX_LENGTH, 17, 300)]
    return [*prompts, prompts[6][:129], prompts[0], prompts[10] + [7]]


def sharing(seed=0):
    """Prompts behind one long prefix, as all visits' are.

    One is the prefix itself, two are equal, one shares only its start.
    """
    prefix = ids(260, seed=seed + 1)
    tails = [ids(n, seed=seed + n) for n in (3, 40, 1, 90, 40, 12)]
    return [prefix + tails[0], prefix, *[prefix + tail for tail in tails], [*prefix[:50], 9, 9], prefix + tails[5]]


def visits(seed=0):
    """Prompts that all go on behind one prefix of 260 tokens; two are equal."""
    prefix = ids(260, seed=seed + 8)
    return [prefix + ids(n, seed=seed + n) for n in (1, 2, 30, 31, 90, 250, 250, 40)]


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


def mixed_lengths_equal_the_plain_forward(engine, plain):
    close(engine.encode(mixed()), plain(mixed()))


def a_shared_prefix_equals_the_plain_forward(engine, plain):
    close(engine.encode(sharing()), plain(sharing()))
    close(engine.encode(visits()), plain(visits()))
    close(engine.encode([visits()[0]] * 3), plain([visits()[0]] * 3))


def real_prompts_equal_the_plain_forward(engine, plain):
    texts = ["", "The patient-acquired disease is disease 3.", "Heart failure. None. " * 9]
    prompts, truncated = engine.prompter.encode([INSTRUCTION] * len(texts), texts)
    assert truncated == 0
    close(engine.encode(prompts), plain(prompts))


def the_adapter_is_applied(engine, plain):
    prompts = mixed(seed=1)
    with_adapter, bare = plain(prompts), plain(prompts, adapter=False)
    assert np.abs(with_adapter - bare).max(1).min() > WEAK, "the reference's adapter is too weak for this contract"
    found = engine.encode(prompts)
    assert np.abs(found - bare).max(1).min() > WEAK / 2, "the engine ignores the adapter"
    close(found, with_adapter)


def embeddings_are_not_normalised(engine, plain):
    prompts = mixed(seed=2)
    wanted = np.linalg.norm(plain(prompts), axis=1)
    assert np.abs(wanted - 1).min() > 0.1, "the reference's own norms are 1"
    np.testing.assert_allclose(np.linalg.norm(engine.encode(prompts), axis=1), wanted, rtol=1e-4)


def the_order_is_kept(engine, plain):
    prompts = mixed(seed=3)
    order = np.random.default_rng(3).permutation(len(prompts))
    close(engine.encode([prompts[i] for i in order]), engine.encode(prompts)[order])
    wanted = plain(prompts)
    distance = np.linalg.norm(engine.encode(prompts)[:, None] - wanted[None], axis=2)
    distinct = [i for i, prompt in enumerate(prompts) if prompts.count(prompt) == 1]
    assert [int(distance[i].argmin()) for i in distinct] == distinct


def a_prompt_does_not_feel_its_neighbours(engine, plain):
    prompts = mixed(seed=4)
    together = engine.encode(prompts)
    close(np.concatenate([engine.encode([prompt]) for prompt in prompts]), together)
    close(engine.encode([*sharing(seed=5), *prompts])[-len(prompts) :], together)


def none_and_one_have_their_shapes(engine, plain):
    none, one = engine.encode([]), engine.encode([[5]])
    assert (none.shape, none.dtype) == ((0, engine.hidden), np.float32)
    assert (one.shape, one.dtype) == ((1, engine.hidden), np.float32)
    close(one, plain([[5]]))


def the_same_call_gives_the_same_bytes_whatever_came_before(engine, plain):
    engine.take_work()
    first, work = engine.encode(visits(seed=6)), engine.take_work()
    engine.encode(mixed(seed=6))
    engine.encode(visits(seed=6)[2:5])
    engine.take_work()
    again, repeated = engine.encode(visits(seed=6)), engine.take_work()
    assert again.tobytes() == first.tobytes()
    assert (repeated.computed, repeated.prefix_saved) == (work.computed, work.prefix_saved), (
        "what is computed depends on earlier calls"
    )


def the_work_adds_up(engine, plain):
    engine.take_work()
    assert engine.take_work().prompts == 0
    engine.encode(mixed())
    engine.encode([])
    engine.encode(visits())
    work, prompts = engine.take_work(), [*mixed(), *visits()]
    assert (work.prompts, work.tokens) == (len(prompts), sum(map(len, prompts)))
    assert work.computed == work.tokens - work.prefix_saved + work.padding
    assert work.prefix_saved > 7 * 200, "a prefix of 260 tokens that eight prompts share was computed more than once"
    assert work.busy_s > 0 and work.flops > 0 and work.ooms == 0
    assert engine.take_work().prompts == 0


def the_load_is_reported(engine, plain):
    assert engine.load.seconds > 0 and engine.load.device and engine.load.adapter
    assert engine.load.engine in ENGINES


CONTRACT = [
    mixed_lengths_equal_the_plain_forward,
    a_shared_prefix_equals_the_plain_forward,
    real_prompts_equal_the_plain_forward,
    the_adapter_is_applied,
    embeddings_are_not_normalised,
    the_order_is_kept,
    a_prompt_does_not_feel_its_neighbours,
    none_and_one_have_their_shapes,
    the_same_call_gives_the_same_bytes_whatever_came_before,
    the_work_adds_up,
    the_load_is_reported,
]


def broken_clauses(engine, plain):
    """The names of the clauses that an engine breaks, by AssertionError or by any exception of its own."""
    broken = []
    for clause in CONTRACT:
        try:
            clause(engine, plain)
        except Exception:  # noqa: BLE001 (a fake may break in any way; its clause counts as broken)
            broken.append(clause.__name__)
    return broken
