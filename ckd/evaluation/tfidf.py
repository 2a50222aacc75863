"""Fits the text baseline: TF-IDF of the visit's words into a logistic regression per label."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from ckd.evaluation.logistic import Examples, OneVsRest, fit
from ckd.evaluation.scores import NotComputableError, Rows, Scores

MAX_TRAIN = 200_000  # training visits that the vocabulary and the weights are fitted on; memory stays bounded
MAX_WORDS = 20_000
GRID = (0.1, 0.3, 1.0, 3.0, 10.0)
_WORD = r"(?u)\b\w+\b"
Texts = Iterable[list[str]]  # shard by shard


@dataclass(frozen=True)
class TfidfModel:
    """Words of the input, sublinear TF-IDF, one L2 logistic regression per label."""

    vectorizer: TfidfVectorizer
    regression: OneVsRest
    trained_on: int  # visits

    def predict(self, texts: Texts) -> Scores:
        """Probabilities [n, L], a shard of texts at a time."""
        shards = [self.regression.predict(self.vectorizer.transform(shard)) for shard in texts]
        return np.concatenate(shards) if shards else np.zeros((0, len(self.regression.bias)), dtype=np.float32)


def fit_tfidf(
    train: Texts, rows: Rows, tuning: Texts, tuning_rows: Rows, seed: int, max_train: int = MAX_TRAIN
) -> TfidfModel:
    """Fit on at most `max_train` training visits drawn with the seed; C by tuning log-loss.

    `rows` and `tuning_rows` have the labels, in the order of the texts. Texts are streamed; only their word counts
    stay in memory. Raises NotComputableError without a word.
    """
    chosen = sample(len(rows), max_train, seed)
    frequent = 2 if len(chosen) >= 100 else 1  # a word of one visit cannot be learned from
    vectorizer = TfidfVectorizer(
        token_pattern=_WORD, sublinear_tf=True, min_df=frequent, max_features=MAX_WORDS, dtype=np.float64
    )
    try:
        x = vectorizer.fit_transform(_take(train, chosen))
    except ValueError as error:  # an empty vocabulary; scikit-learn's other ValueErrors need other arguments
        raise NotComputableError("the training texts hold no word") from error
    x_tuning = _transform(vectorizer, tuning)
    examples = Examples(x, rows.labels[chosen], rows.known[chosen])
    model = fit(examples, Examples(x_tuning, tuning_rows.labels, tuning_rows.known), GRID)
    return TfidfModel(vectorizer, model, len(chosen))


def sample(n: int, most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of n positions, drawn without replacement, ascending."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, size=most, replace=False))


def _take(texts: Texts, positions: NDArray[np.int64]) -> Iterator[str]:
    start = 0
    for shard in texts:
        first, last = np.searchsorted(positions, [start, start + len(shard)])
        yield from (shard[int(p) - start] for p in positions[first:last])
        start += len(shard)


def _transform(vectorizer: TfidfVectorizer, texts: Texts) -> Any:
    from scipy.sparse import csr_matrix, vstack

    shards = [vectorizer.transform(shard) for shard in texts]
    return vstack(shards, format="csr") if shards else csr_matrix((0, len(vectorizer.vocabulary_)))
