"""Every engine that is installed here keeps the contract.

Engines that are wrong in one way each are caught by the clause for it.
"""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.prompts import Prompter
from ckd.teacher.engine import Load
from ckd.teacher.engines import load_engine
from ckd.teacher.work import Work
from tests.teacher.engine_contract import CONTRACT, ENGINES, MAX_LENGTH, broken_clauses
from tests.teacher.plain_teacher import PlainTeacher, contract_teacher

KEPT = []  # vLLM takes its process groups down with the first engine of a process that dies: none dies before the end


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return contract_teacher(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def plain(folder):
    return PlainTeacher(folder)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, folder):
    made_with = {"engine": request.param, "dtype": "float32", "max_length": MAX_LENGTH}
    try:
        KEPT.append(
            load_engine(TeacherConfig(base_model=f"{folder}/base", adapter=f"{folder}/adapter", **made_with), 0)
        )
    except ConfigError as error:
        if "cannot be imported" not in str(error):
            raise
        pytest.skip(f"{request.param} is not installed here")
    return KEPT[-1]


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_each_engine_keeps(clause, engine, plain):
    clause(engine, plain)


class Honest:
    """An engine made of the plain reference, with a shared prefix in its books only."""

    def __init__(self, folder, plain):
        self.prompter = Prompter(AutoTokenizer.from_pretrained(f"{folder}/base"), MAX_LENGTH)
        self.plain, self.hidden, self.work, self.calls = plain, 128, Work(), 0
        self.load = Load(1.0, "revision", "adapter", "transformers", "cpu")

    def encode(self, prompts):
        self.calls += 1
        self.work += self.count(prompts)
        return self.embed(prompts) if prompts else np.empty((0, self.hidden), np.float32)

    def count(self, prompts):
        common = (
            0
            if len(prompts) < 2
            else next((n for n, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1), 0)
        )
        tokens, saved = sum(map(len, prompts)), common * (len(prompts) - 1)
        return Work(
            prompts=len(prompts), tokens=tokens, computed=tokens - saved, prefix_saved=saved, busy_s=1.0, flops=1.0
        )

    def embed(self, prompts):
        return self.plain(prompts)

    def take_work(self):
        work, self.work = self.work, Work()
        return work


class IgnoresTheAdapter(Honest):
    def embed(self, prompts):
        return self.plain(prompts, adapter=False)


class AppliesTheAdapterByHalf(Honest):
    def embed(self, prompts):
        return (self.plain(prompts) + self.plain(prompts, adapter=False)) / 2


class Normalises(Honest):
    def embed(self, prompts):
        vectors = self.plain(prompts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class SortsAndForgets(Honest):
    def embed(self, prompts):
        return self.plain(sorted(prompts, key=len))


class PoolsTheMean(Honest):
    def embed(self, prompts):
        return np.stack([self.plain.states(prompt).mean(0) for prompt in prompts])


class PoolsTheLastColumn(Honest):
    """What a batch padded on the right gives to whoever takes position -1."""

    def embed(self, prompts):
        longest = max(map(len, prompts))
        return self.plain([prompt + [0] * (longest - len(prompt)) for prompt in prompts])


class PoolsTheTokenBefore(Honest):
    def embed(self, prompts):
        return np.stack([self.plain.states(prompt)[max(len(prompt) - 2, 0)] for prompt in prompts])


class FeelsItsNeighbours(Honest):
    def embed(self, prompts):
        vectors = self.plain(prompts)
        return vectors + 0.01 * (vectors.mean(0) - vectors)


class Remembers(Honest):
    """Within the tolerance, but not the same bytes."""

    def embed(self, prompts):
        return self.plain(prompts) + np.float32(1e-5 * self.calls)


class KeepsItsPrefix(Honest):
    """What a prefix cache that outlives its call does where the bytes happen to be equal."""

    seen = frozenset()

    def count(self, prompts):
        done = super().count(prompts)
        kept = sum(tuple(prompt) in self.seen for prompt in prompts)
        self.seen |= set(map(tuple, prompts))
        return Work(**(vars(done) | {"computed": done.computed - kept, "prefix_saved": done.prefix_saved + kept}))


class Truncates(Honest):
    def embed(self, prompts):
        return self.plain([prompt[:512] for prompt in prompts])


class CutsTheSharedPrefixAway(Honest):
    def embed(self, prompts):
        common = 256 if len(prompts) > 1 and all(len(prompt) > 256 for prompt in prompts) else 0
        return self.plain([prompt[common:] for prompt in prompts])


class RoundsToBfloat16(Honest):
    def embed(self, prompts):
        return torch.from_numpy(self.plain(prompts)).bfloat16().float().numpy()


class FailsOnNothing(Honest):
    def encode(self, prompts):
        if not prompts:
            raise ValueError("need at least one array to stack")
        return super().encode(prompts)


class CountsNoPadding(Honest):
    def count(self, prompts):
        done = super().count(prompts)
        return Work(**(vars(done) | {"computed": done.computed + 100}))


class NeverSharesAPrefix(Honest):
    def count(self, prompts):
        done = super().count(prompts)
        return Work(**(vars(done) | {"computed": done.tokens, "prefix_saved": 0}))


def test_an_engine_made_of_the_reference_keeps_the_contract(folder, plain):
    assert broken_clauses(Honest(folder, plain), plain) == []


@pytest.mark.parametrize(
    ("fake", "clause"),
    [
        (IgnoresTheAdapter, "the_adapter_is_applied"),
        (AppliesTheAdapterByHalf, "the_adapter_is_applied"),
        (Normalises, "embeddings_are_not_normalised"),
        (SortsAndForgets, "the_order_is_kept"),
        (PoolsTheMean, "mixed_lengths_equal_the_plain_forward"),
        (PoolsTheLastColumn, "mixed_lengths_equal_the_plain_forward"),
        (PoolsTheTokenBefore, "mixed_lengths_equal_the_plain_forward"),
        (FeelsItsNeighbours, "a_prompt_does_not_feel_its_neighbours"),
        (Remembers, "the_same_call_gives_the_same_bytes_whatever_came_before"),
        (KeepsItsPrefix, "the_same_call_gives_the_same_bytes_whatever_came_before"),
        (Truncates, "mixed_lengths_equal_the_plain_forward"),
        (CutsTheSharedPrefixAway, "a_shared_prefix_equals_the_plain_forward"),
        (RoundsToBfloat16, "real_prompts_equal_the_plain_forward"),
        (FailsOnNothing, "none_and_one_have_their_shapes"),
        (CountsNoPadding, "the_work_adds_up"),
        (NeverSharesAPrefix, "the_work_adds_up"),
    ],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_an_engine_that_is_wrong_in_one_way_breaks_the_clause_for_it(fake, clause, folder, plain):
    broken = broken_clauses(fake(folder, plain), plain)
    assert clause in broken


def test_the_clause_for_the_adapter_says_what_is_wrong(folder, plain):
    clause = next(c for c in CONTRACT if c.__name__ == "the_adapter_is_applied")
    with pytest.raises(AssertionError, match="the engine ignores the adapter"):
        clause(IgnoresTheAdapter(folder, plain), plain)
