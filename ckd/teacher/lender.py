"""Another run's embeddings, taken where they are those of the same visits: one pass of the teacher serves many tasks.

A visit's embedding is taken where visit_id, instruction and input are equal and the teacher is the same. Whole shards
are told by their text_hash; of visits that are cut into other shards a 64-bit hash is held in memory, 16 bytes per
visit, and never a text. What is not there is computed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ckd.errors import ArtifactError, ConfigError, MismatchError
from ckd.store.artifacts import Fields, Stage, Versions
from ckd.visits.cohort import Cohort
from ckd.visits.columns import lists, matrix
from ckd.visits.visit import Shard, hash64

TEXTS = ["visit_id", "instruction", "input"]  # all that an embedding depends on beside the teacher
Places = NDArray[np.int64]  # of each visit of a shard the part << 32 | the row; NOWHERE where it is not lent
NOWHERE = -1
_PARTS = 8  # of the lender kept in memory: visits that lie in one shard here are mostly close to each other there


@dataclass
class Rows:
    """Reads embeddings by place. Picklable: a worker gets it with the places of the shards that are lent in part."""

    stage: Stage
    places: Mapping[int, Places] = field(default_factory=dict)  # shard -> of its visits
    _read: dict[int, pa.Table] = field(default_factory=dict)

    def filled(
        self, ids: pa.ChunkedArray, places: Places, computed: pa.Array | None
    ) -> tuple[pa.Table, list[Versions]]:
        """A part for visits `ids`: lent rows at their places, `computed` in order for the others; what made the former.

        Raises ArtifactError when a part is missing or damaged, or holds another visit at a place.
        """
        values: NDArray[np.generic] | None = None
        if computed is not None:
            own = matrix(pa.chunked_array([computed]), None)
            values = np.empty((len(ids), own.shape[1]), own.dtype)
            values[places == NOWHERE] = own
        made: list[Versions] = []
        for index in np.unique(places[places != NOWHERE] >> 32).tolist():
            here = np.flatnonzero(places >> 32 == index)
            part, rows = self._part(index), places[here] & 0xFFFFFFFF
            if part["visit_id"].take(rows) != ids.take(here):
                raise ArtifactError(f"{self.stage.path(index)}: its rows are not those of its visits; see 'ckd verify'")
            lent = matrix(part["embedding"], None)[rows]
            values = np.empty((len(ids), lent.shape[1]), lent.dtype) if values is None else values
            values[here] = lent
            made.append(self.made_with(index))
        if values is None:
            raise ValueError("neither a lent nor a computed row")
        return pa.table({"visit_id": ids, "embedding": lists(values)}), made

    def made_with(self, index: int) -> Versions:
        """The versions of the libraries that made a part."""
        footer = self.stage.footer(index)
        return footer.made_with if footer else {}

    def _part(self, index: int) -> pa.Table:
        part = self._read.get(index)  # two threads may ask at once: at worst both read it
        if part is None:
            part = self._read[index] = self.stage.read(index, ["visit_id", "embedding"])
            while len(self._read) > _PARTS:
                self._read.pop(next(iter(self._read)), None)
        return part


class Lender:
    """The run in `root`, whose embeddings are taken."""

    def __init__(self, root: str, stage: Stage, named: str) -> None:
        """`stage` is the own one, `named` the `key=value` that names the root. Costs a read of a footer per part.

        Raises ConfigError when the root is the own one, ArtifactError when there are no visits and embeddings in it,
        MismatchError naming the field when another teacher made these.
        """
        if Stage(root, stage.name, {}).folder == stage.folder:
            raise ConfigError(f"{named}: this run's own artifacts; name those of another run, or leave it empty")
        try:
            self.cohort = Cohort.open(root)
        except ArtifactError as error:
            raise ArtifactError(f"{named}: {error}") from None
        self.root, self.named, self.stage = root, named, Stage(root, stage.name, {})
        self.shards = {shard.index: shard for shard in self._embedded(stage.fields)}
        if not self.shards:
            raise ArtifactError(
                f"{named}: nothing is embedded in {root}; run 'ckd embed' for that run first, or leave it empty"
            )
        self._whole = {shard.text_hash: index for index, shard in self.shards.items()}

    def whole(self, shard: Shard) -> int | None:
        """The part with the embeddings of exactly this shard's visits, in their order."""
        return self._whole.get(shard.text_hash)

    def places(self, visits: pa.Table) -> Places:
        """Where the embeddings of these visits (columns TEXTS) are."""
        keys, places = self._index
        wanted = _keys(visits)
        found = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        return np.where(keys[found] == wanted, places[found], NOWHERE)

    @cached_property
    def _index(self) -> tuple[NDArray[np.uint64], Places]:
        """The hashes of all visits that are lent, ascending, and their places. Reads every text once."""
        keys, places = [], []
        for index, shard in self.shards.items():
            keys.append(_keys(self.cohort.read(shard, TEXTS)))
            places.append((index << 32) + np.arange(shard.rows, dtype=np.int64))
        hashes = np.concatenate(keys)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], np.concatenate(places)[order]

    def _embedded(self, wanted: Fields) -> Iterator[Shard]:
        there = set(self.stage.indices())
        for shard in self.cohort.shards:
            footer = self.stage.footer(shard.index) if shard.index in there else None
            if footer is None or footer.input_hash != shard.text_hash:
                continue  # not made yet, or from visits of before: nothing to take
            for name in sorted({*footer.fields, *wanted}):
                if footer.fields.get(name) != wanted.get(name):
                    raise MismatchError(
                        f"{self.named}: {self.root} was made with {name}={footer.fields.get(name)!r}, this run has "
                        f"{name}={wanted.get(name)!r}; give the teacher that run had, or leave it empty"
                    )
            yield shard


@dataclass(frozen=True)
class Taken:
    """What was taken: visits in whole parts of this run, visits of parts that a worker completes."""

    visits: int
    rows: Rows


def take(lender: Lender, cohort: Cohort, stage: Stage, missing: Iterable[Shard]) -> Taken:
    """Write the parts of `missing` shards of which every visit is lent; say where those of the others are.

    Safe to run twice. Raises ArtifactError when a part of the lender is damaged.
    """
    rows, visits = Rows(lender.stage), 0
    places_of: dict[int, Places] = {}
    for shard in missing:
        index = lender.whole(shard)
        if index is not None:
            lent = lender.stage.read(index, ["visit_id", "embedding"], input_hash=shard.text_hash)
            part = pa.table({"visit_id": lent["visit_id"], "embedding": lists(matrix(lent["embedding"], None))})
            made = [rows.made_with(index)]
        else:
            table = cohort.read(shard, TEXTS)
            places = lender.places(table)
            found = int((places != NOWHERE).sum())
            if found < shard.rows:
                visits += found
                places_of |= {shard.index: places} if found else {}
                continue
            part, made = rows.filled(table["visit_id"], places, None)
        stage.write(shard.index, part, rows=shard.rows, input_hash=shard.text_hash, made_with=together(made))
        visits += shard.rows
    return Taken(visits, Rows(lender.stage, places_of))


def together(made: Iterable[Versions]) -> Versions:
    """The versions of all: of a library with several, all of them."""
    found: dict[str, dict[str, None]] = {}
    for versions in made:
        for library, version in versions.items():
            found.setdefault(library, {})[version or "unknown"] = None
    return {library: " and ".join(sorted(several)) for library, several in sorted(found.items())}


def _keys(visits: pa.Table) -> NDArray[np.uint64]:
    """A 64-bit hash of each visit's id and texts; the length keeps two texts apart that are cut elsewhere."""
    columns = [visits[name].to_pylist() for name in TEXTS]
    hashes = (hash64(one, len(question), question, text) for one, question, text in zip(*columns, strict=True))
    return np.fromiter(hashes, np.uint64, len(visits))
