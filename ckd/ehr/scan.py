"""A folder of hospital tables as canonical lazy frames: which files there are, their columns, where a row stands, what they may be used for.
Column names belong to layouts, cells to cells, the lines of a CSV file to csvfile, MEDS events to meds, which rows are usable to later steps."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from ckd.ehr import cells, csvfile, layouts, meds, parquetfile
from ckd.ehr.layouts import KINDS, LAYOUTS, NOT_STATED, PLACE_BITS, SCHEMAS, TABLE_NAMES, Layout, Table
from ckd.ehr.parquetfile import ROW
from ckd.errors import ConfigError, DataError

SUSPECT = "suspect"  # extra column of Source.rows: the row may have too few cells, or has too many
TITLES = {"kind": pl.String(), "version": pl.String(), "code": pl.String(), "title": pl.String()}
_MORE = "\0more"  # a column after the last one: only lines with too many cells have it
_ENDINGS = (".csv.gz", ".csv", ".parquet")


@dataclass(frozen=True)
class File:
    """One source file: `name` relative to the source's folder, bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Source:
    """An opened source; every file was found and has the columns it needs. Picklable."""

    kind: str
    folder: str
    split_column: str
    paths: tuple[Path, ...]  # a place's upper bits are an index into these
    columns: tuple[Mapping[str, pl.DataType], ...]  # of each path, in the file's order, names lower case
    tables: Mapping[str, tuple[int, ...]]  # table, "diagnosis" or "procedure" (titles) -> indices of its files
    plain: frozenset[int] = (
        frozenset()
    )  # CSV files that are read as if a quote were any character: each line is a record then, none can hide

    @classmethod
    def open(cls, kind: str, folder: str, split_column: str = "") -> "Source":
        """Find the files of `kind` below `folder` and read their headers.

        Raises DataError when a table or a column is missing, is there twice, or is of no use; ConfigError when no table has `split_column`.
        """
        if kind not in KINDS:
            raise ConfigError(f"'{kind}': no kind of tables; expected one of {', '.join(KINDS)}")
        root = Path(folder)
        if not root.is_dir():
            raise DataError(f"{folder}: no such folder; give the folder that holds the {kind} tables")
        if kind == "meds":
            shards = meds.shards(root)
            source = cls(
                kind,
                folder,
                split_column.lower(),
                shards,
                tuple(map(_columns, shards)),
                {"events": tuple(range(len(shards)))},
            )
            for path, types in zip(shards, source.columns, strict=True):
                meds.require_columns(path, types)
        else:
            found = _find_tables(kind, root)
            paths = tuple(path for files in found.values() for path in files)
            indices = {name: tuple(paths.index(path) for path in files) for name, files in found.items()}
            columns = tuple(map(_columns, paths))
            plain = frozenset(
                i for i, path in enumerate(paths) if path.suffix != ".parquet" and csvfile.starts_plain(path)
            )
            source = cls(kind, folder, split_column.lower(), paths, columns, indices, plain)
            source._require_columns()
        source._require_split_column()
        return source

    def scan(self, table: str) -> pl.LazyFrame:
        """Table `table` with the columns of layouts.SCHEMAS, in that order; diagnoses, medications and procedures with subject_id before them."""
        subject = [] if "subject_id" in SCHEMAS[table] else ["subject_id"]
        return self.rows(table).select(*subject, *SCHEMAS[table])

    def rows(self, table: str) -> pl.LazyFrame:
        """Like scan, in any order, with SUSPECT."""
        if self.kind == "meds":
            return meds.scan(table, self.paths, self.columns, self.split_column).with_columns(
                pl.lit(False).alias(SUSPECT)
            )
        names = {**SCHEMAS[table], "subject_id": pl.String(), SUSPECT: pl.Boolean()}
        if not self.tables.get(table):
            return pl.LazyFrame(schema=names)
        return pl.concat([self._rows_of_file(table, index).select(*names) for index in self.tables[table]])

    def locate(self, table: str, place: int) -> str:
        """`file:line` of a row (Parquet: `file:row`). `table` is not needed: a place knows its file."""
        path, record = self.paths[place >> PLACE_BITS], place & (1 << PLACE_BITS) - 1
        return f"{path}:{record if path.suffix == '.parquet' else csvfile.line_of(path, record)}"

    def titles(self) -> pl.DataFrame:
        """The data set's own code titles: kind ("diagnosis" or "procedure"), version, code, title; empty where it has none."""
        if self.kind == "meds":
            return meds.titles(Path(self.folder)).select(pl.col(name).cast(dtype) for name, dtype in TITLES.items())
        frames = [pl.DataFrame(schema=TITLES)]
        for kind, table in self._layout.titles.items():
            for index in self.tables.get(kind, ()):
                with self.explained(kind):
                    cell = {name: self._cell(name, source, index) for name, source in table.required.items()}
                    cell |= {name: pl.lit(value) for name, value in table.constants.items()}
                    rows = self._raw(index).select(kind=pl.lit(kind), **cell).select(*TITLES)
                    frames.append(rows.filter(pl.col("code").is_not_null() & pl.col("title").is_not_null()).collect())
        return pl.concat(frames)

    @property
    def files(self) -> list[File]:
        """Every file that is read."""
        return [File(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in self.paths]

    def content_hash(self) -> str:
        """SHA-256 over the names and bytes of the files."""
        return self._content_hash

    @property
    def license(self) -> str:
        """What the folder's LICENSE file (or the MEDS metadata) says in its first line, else what holds for this kind of source."""
        path = self._license_file
        stated = path and next(
            (line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()), ""
        )
        return stated or (meds.stated_license(Path(self.folder)) if self.kind == "meds" else self._layout.license)

    @property
    def credentialed(self) -> bool:
        """Whether whoever passes rows on must be warned: the license asks for credentials, or none is stated."""
        path = self._license_file
        text = path.read_text(errors="replace") if path else self.license
        return "credentialed" in text.lower() or text == NOT_STATED

    @contextmanager
    def explained(self, table: str) -> Iterator[None]:
        """Turn what polars raises while rows of `table` are read into a DataError that names file, line, damage and remedy, and no cell."""
        try:
            yield
        except (pl.exceptions.ComputeError, pl.exceptions.SchemaError, OSError) as error:
            for index in self._indices(table):
                self._find_damage(index)
            hint = "is there space left, may it be read?"
            raise DataError(
                f"{self.folder}: {table} could not be read or stored ({type(error).__name__}); {hint}"
            ) from None

    def misread(self, found: Mapping[int, Mapping[str, int]]) -> frozenset[int]:
        """Which files were read as if they had no quotes, but left a doubt, and do have some. `found`: file -> rows, records, suspects."""
        doubtful = [
            i
            for i, read in found.items()
            if i in self.plain and (read["suspects"] or read["records"] > read["rows"] + 1)
        ]
        return frozenset(i for i in doubtful if csvfile.has_quotes(self.paths[i]))

    def minding_quotes(self, files: frozenset[int]) -> "Source":
        """This source, with those files read as CSV with quotes."""
        return replace(self, plain=self.plain - files)

    def check_lines(self, index: int, rows: int, records: int, suspects: int) -> int:
        """Raise DataError if rows of file `index` have too few or too many cells or are hidden inside a quote; returns how many are blank.

        `rows` were read, the last of them was record `records`, `suspects` of them are SUSPECT. In a file with quotes every line is counted, since
        two stray quotes hide what lies between them; only if that leaves a doubt is every line's inside looked at. What escapes, in a file without
        quotes: a line with a comma too many that ends in an empty cell, where no other line does.
        """
        path = self.paths[index]
        header = 0 if path.suffix == ".parquet" else 1
        blank = max(records, header) - header - rows
        sure = index in self.plain or not header or csvfile.survey(path) == (max(records, header), 0)
        if header and (blank or suspects or not sure):
            csvfile.check_lines(path, len(self.columns[index]))
        return blank

    @property
    def _layout(self) -> Layout:
        return LAYOUTS[self.kind]

    @cached_property
    def _content_hash(self) -> str:
        whole = hashlib.sha256()
        for file, path in zip(self.files, self.paths, strict=True):
            with path.open("rb") as stream:
                whole.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()

    @cached_property
    def _license_file(self) -> Path | None:
        found = sorted(p for p in Path(self.folder).iterdir() if p.name.lower().startswith("license") and p.is_file())
        return found[0] if found else None

    def _indices(self, table: str) -> Sequence[int]:
        return self.tables["events"] if self.kind == "meds" else self.tables.get(table, ())

    def _raw(self, index: int) -> pl.LazyFrame:
        """File `index` as it stands, names lower case, with the 0-based row number ROW."""
        path, columns = self.paths[index], self.columns[index]
        if path.suffix == ".parquet":
            return parquetfile.scan_rows(path, columns)
        # Positional names: polars would mend a header that is there twice, and says nothing of cells beyond the last column it reads.
        schema = dict.fromkeys([*columns, _MORE], pl.String)
        return pl.scan_csv(
            path,
            has_header=False,
            skip_lines=1,
            schema=schema,
            missing_columns="insert",
            row_index_name=ROW,
            glob=False,
            raise_if_empty=False,
            quote_char=None if index in self.plain else '"',
        )

    def _rows_of_file(self, table: str, index: int) -> pl.LazyFrame:
        layout, columns = self._layout.tables[table], self.columns[index]
        used = {
            name: source for name, source in (*layout.required.items(), *layout.optional.items()) if source in columns
        }
        if "cut" in SCHEMAS[table] and self.split_column in columns:
            used["cut"] = self.split_column
        cell = {name: self._cell(name, source, index) for name, source in used.items()}
        cell |= {name: pl.lit(value) for name, value in layout.constants.items()}
        for name, bad in (("start", "start_bad"), ("end", "end_bad")):
            if bad in SCHEMAS[table]:
                cell[bad] = cells.is_given(used[name], columns[used[name]]) & cell[name].is_null()
        first = 1 if self.paths[index].suffix == ".parquet" else 2  # a CSV file's header is line 1
        cell["place"] = pl.col(ROW).cast(pl.UInt64) + (index << PLACE_BITS) + first
        begin, last = next(iter(columns)), list(columns)[-1]
        # polars fills the cells of a short line with nulls, and does not look beyond the last column that it reads.
        cell[SUSPECT] = pl.col(last).is_null() | pl.col(_MORE).is_not_null() if first == 2 else pl.lit(False)
        if index in self.plain:
            cell[SUSPECT] |= pl.any_horizontal(
                pl.col(source).str.starts_with('"').fill_null(False) for source in used.values()
            )
        # The first cell is looked at too: it is what is left of a line that was cut off.
        rows = self._raw(index).filter(
            pl.any_horizontal(pl.col(source).is_not_null() for source in {begin, *used.values(), last})
        )
        return _derived(table, rows.select(**cell))

    def _cell(self, name: str, source: str, index: int) -> pl.Expr:
        return cells.column(
            name, source, self.columns[index][source], self._layout.time_formats, str(self.paths[index])
        )

    def _find_damage(self, index: int) -> None:
        path = self.paths[index]
        if path.suffix == ".parquet":
            parquetfile.find_damage(path)
        else:
            csvfile.find_damage(path, len(self.columns[index]))

    def _require_columns(self) -> None:
        layout = self._layout
        for name, table in (*layout.tables.items(), *layout.titles.items()):
            for index in self.tables.get(name, ()):
                for source in table.required.values():
                    if source not in self.columns[index]:
                        raise layouts.missing_column(
                            self.paths[index], source, self.columns[index], table.required.values()
                        )
                if name in TABLE_NAMES:
                    with self.explained(name):
                        self._rows_of_file(name, index)  # raises DataError for a type that will not do

    def _require_split_column(self) -> None:
        known = {table: {c for i in self._indices(table) for c in self.columns[i]} for table in ("visits", "patients")}
        if self.split_column and not any(self.split_column in columns for columns in known.values()):
            there = "; ".join(f"{table}: {', '.join(sorted(columns))}" for table, columns in known.items() if columns)
            raise ConfigError(
                f"ingest.split_column={self.split_column}: no such column in {self.folder} ({there}); name one of these"
            )


def _derived(table: str, rows: pl.LazyFrame) -> pl.LazyFrame:
    """`rows` with every canonical column: died and newborn from what the source has, null where it has nothing."""
    names = rows.collect_schema().names()
    if table == "visits":
        death = pl.col("death").is_not_null() if "death" in names else pl.lit(False)
        kind = pl.col("admission_type").str.to_uppercase() == "NEWBORN" if "admission_type" in names else pl.lit(False)
        newborn = pl.col("newborn") if "newborn" in names else pl.lit(False)
        rows = rows.with_columns(died=pl.col("expired") | death, newborn=newborn | kind.fill_null(False))
        names += ["died", "newborn"]
    return rows.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in SCHEMAS[table].items() if name not in names
    )


def _columns(path: Path) -> Mapping[str, pl.DataType]:
    return (
        parquetfile.read_columns(path)
        if path.suffix == ".parquet"
        else dict.fromkeys(csvfile.read_header(path), pl.String())
    )


def _find_tables(kind: str, root: Path) -> dict[str, tuple[Path, ...]]:
    """Table (or kind of titles) -> its files. Raises DataError for a table that is missing or there twice."""
    layout = LAYOUTS[kind]
    if kind == "mimic4" and (hosp := [p for p in root.iterdir() if p.name.lower() == "hosp" and p.is_dir()]):
        root = hosp[0]
    found = {
        name: _files(table, root, layout.parquet) for name, table in (*layout.tables.items(), *layout.titles.items())
    }
    for name, table in layout.tables.items():
        if not found[name]:
            there = ", ".join(sorted(p.name for p in root.iterdir())[:30]) or "nothing"
            endings = "(.gz) or .parquet" if layout.parquet else "(.gz)"
            raise DataError(
                f"{root}: no table '{table.file}' (there: {there}); expected {table.file}.csv{endings}, if need be with its header only"
            )
    return found


def _files(table: Table, root: Path, parquet: bool) -> tuple[Path, ...]:
    found = [
        p
        for p in root.iterdir()
        if p.is_file() and p.name.lower() in [table.file + ending for ending in _ENDINGS[: 3 if parquet else 2]]
    ]
    if parquet:
        found += [p for p in root.iterdir() if p.is_dir() and p.name.lower() == table.file]
    if len(found) > 1:
        raise DataError(
            f"{root}: {' and '.join(sorted(p.name for p in found))} are there, so which one counts is open; keep one"
        )
    if not found or found[0].is_file():
        return tuple(found)
    parts = sorted(
        p for p in found[0].iterdir() if p.name.lower().endswith(_ENDINGS) and not p.name.startswith((".", "_"))
    )
    repeated = [stem for stem, count in Counter(p.name.lower().partition(".")[0] for p in parts).items() if count > 1]
    if repeated:
        raise DataError(f"{found[0]}: more than one file '{repeated[0]}', so which one counts is open; keep one")
    return tuple(parts)
