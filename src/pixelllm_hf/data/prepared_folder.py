"""A folder of grounded rows in parquet shards with the images inside: what `load_dataset` and a Hub repository serve.

README.md                    the dataset card; names the shards
preparation.json             settings, counts in and out by reason, one entry per finished shard
instances.json               what is in the images, where that is known (see `prepared_objects`)
data/train-00000.parquet ... rows in the reader's order, image files as they were
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, Value

from pixelllm_hf.data.annotation_text import load_json
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError, ReadReport
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES
from pixelllm_hf.data.record_fields import checked_record, checked_string, checked_whole, required, required_one, shown
from pixelllm_hf.data.shard_reading import PreparedFolderError, check_shard, load_shards, stream_shards
from pixelllm_hf.files import atomic_text
from pixelllm_hf.folders import LOCK
from pixelllm_hf.processing.tasks import TASK_SPECS

CARD, STATE, SHARDS = "README.md", "preparation.json", "data"
VERSION = 2
_READABLE = (1, VERSION)  # rows of version 1 lack the fields of `LATER_FIELDS`


@dataclass
class PreparedFolder:
    """The folder's record of itself, preparation.json.

    settings: what the rows come from. shards: by file name, the rows, bytes and prompts in it, what it dropped and a
    digest of the records it was made from. counts: of the whole folder, once it is finished.
    """

    folder: Path
    settings: dict[str, Any]
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, Any] | None = None

    @classmethod
    def load(cls, folder: str | Path) -> PreparedFolder:
        """Of a folder that has one."""
        path = Path(folder) / STATE
        if not path.is_file():
            raise FileNotFoundError(
                f"{str(folder)!r} is no prepared data set: it has no {STATE}. Make one with scripts/prepare_dataset.py."
            )
        try:
            content = load_json(path, dict)
        except AnnotationFileError as error:
            raise PreparedFolderError(f"{error} Prepare into a new folder.") from error
        try:
            return cls(Path(folder), *_checked_state(content))
        except BadRecordError as error:
            raise PreparedFolderError(f"{str(path)!r} cannot be used ({error}) Prepare into a new folder.") from error

    @classmethod
    def begin(cls, folder: str | Path, settings: dict[str, Any]) -> PreparedFolder:
        """Of a new folder, or of one that was begun with the same settings."""
        folder = Path(folder)
        settings = json.loads(json.dumps(settings))  # as it is read back
        for left in folder.glob(f".{Path(STATE).stem}.*.tmp.json"):  # of a killed run
            left.unlink(missing_ok=True)
        if not (folder / STATE).is_file():
            if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
                raise PreparedFolderError(
                    f"{str(folder)!r} is not empty and holds no earlier preparation. Name another folder."
                )
            folder.mkdir(parents=True, exist_ok=True)
            state = cls(folder, settings)
            state.save()
            return state
        state = cls.load(folder)
        names = {*settings, *state.settings}
        different = sorted(name for name in names if settings.get(name) != state.settings.get(name))
        if different and not state.shards:  # nothing was written under the others
            state.settings = settings
            state.save()
        elif different:
            there, now = ({name: one.get(name) for name in different} for one in (state.settings, settings))
            raise PreparedFolderError(
                f"{str(folder)!r} was begun with other settings, {there}, and not {now}. Name another folder, or "
                "delete this one."
            )
        return state

    def save(self) -> None:
        """Write it down; a reader sees the old record or the new one."""
        content = {"version": VERSION, "settings": self.settings, "counts": self.counts, "shards": self.shards}
        with atomic_text(self.folder / STATE) as file:
            json.dump(content, file, indent=1, ensure_ascii=False)

    def finish(self, report: ReadReport) -> None:
        """Add up what the reader (`report`) and the shards counted, and write it down with the dataset card."""
        dropped, first = Counter(report.dropped), dict(report.first)
        for shard in self.shards.values():
            dropped.update(shard["dropped"])
            first = {**shard["first_dropped"], **first}
        self.counts = {
            "read": dict(report.read),
            "rows": sum(shard["rows"] for shard in self.shards.values()),
            "prompts": sum(shard["prompts"] for shard in self.shards.values()),
            "dropped": dict(sorted(dropped.items())),
            "first_dropped": dict(sorted(first.items())),
        }
        self.save()
        with atomic_text(self.folder / CARD) as file:
            file.write(self._card())

    def table(self) -> str:
        """Counts in and out, one a line."""
        counts = self.counts or {}
        lines = [f"{number:>9} {name} in" for name, number in counts["read"].items()]
        lines.append(f"{counts['rows']:>9} rows out with {counts['prompts']} prompts, {len(self.shards)} shard(s)")
        by_number = sorted(counts["dropped"].items(), key=lambda pair: (-pair[1], pair[0]))
        lines += [f"{number:>9} dropped: {why} (first: {counts['first_dropped'][why]})" for why, number in by_number]
        return "\n".join(lines)

    def summary(self) -> str:
        """One line: kept and dropped."""
        counts = self.counts or {}
        return f"kept {counts['rows']}, dropped {sum(counts['dropped'].values())} when it was prepared"

    def _card(self) -> str:
        split = self.settings["split"]
        return f"""---
configs:
- config_name: default
  data_files:
  - split: {split}
    path: {SHARDS}/{split}-*.parquet
---

Grounded rows made by pixelllm_hf from annotations in the layout `{self.settings.get("format")}`, read as task
`{self.settings.get("task")}`. What was kept, what was dropped and why is in `{STATE}`:

```
{self.table()}
```

```python
from datasets import load_dataset

rows = load_dataset("<this repository or folder>", split="{split}", streaming=True)
```

A row is an image with prompts. Boxes are x0, y0, x1, y1 in pixels of the image, masks are COCO run lengths. The
licences of images and annotations are those of their sources: name them here before sharing.
"""


def read_prepared(
    folder: str | Path,
    *,
    task: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    for_evaluation: bool = False,
    cache_dir: str | Path | None = None,
) -> Dataset | IterableDataset:
    """The rows of a prepared folder. An unfinished preparation is refused.

    Raises `PreparedFolderError` for a folder that is not as its record says, with the name of the shard.
    task: read "region" rows as "dense" ones and the other way round, or "segment" rows as "refer".
    split: the one that the folder was prepared as; there is no other in it.
    for_evaluation: a folder that was prepared for it holds what nothing can be learnt from, and is refused without.
    cache_dir: where `datasets` keeps the uncompressed copy that it maps into memory; by default its own place.
    """
    state = PreparedFolder.load(folder)
    own, stored = state.settings["split"], state.settings.get("task")
    if state.counts is None:
        raise PreparedFolderError(f"the preparation of {str(folder)!r} was interrupted. Run it again to finish it.")
    if state.settings.get("for_evaluation") and not for_evaluation:
        raise PreparedFolderError(
            f"{str(folder)!r} was prepared for evaluation and holds images that nothing can be learnt from. Prepare "
            "another folder without --for_evaluation for training."
        )
    if split not in (None, own):
        raise PreparedFolderError(f"{str(folder)!r} holds the split {own!r}, not {split!r}. Leave it out.")
    if task not in (None, stored) and (task not in TASK_SPECS or TASK_SPECS[task].rows_of != stored):
        raise PreparedFolderError(
            f"{str(folder)!r} holds rows of task {stored!r}, which do not serve {task!r}. Prepare it for that task."
        )
    files = [str(state.folder / name) for name in sorted(state.shards)]
    for name in sorted(state.shards):
        check_shard(state.folder / name, rows=state.shards[name]["rows"])
    if streaming:
        rows = IterableDataset.from_generator(stream_shards, features=GROUNDED_FEATURES, gen_kwargs={"files": files})
    else:
        rows = load_shards(files, own, cache_dir, rows=state.counts["rows"])
    if task in (None, stored):
        return rows
    if streaming:
        return rows.map(_Retask(str(task)), features=GROUNDED_FEATURES)
    # A new column beside the others; `map` would copy all images.
    column = rows.remove_columns("task").add_column("task", [task] * len(rows), feature=Value("string"))
    return column.select_columns(list(GROUNDED_FEATURES))


@dataclass(frozen=True)
class _Retask:
    task: str

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"task": self.task}


def _checked_state(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """settings, shards and counts of a record; what is not as `PreparedFolder.save` wrote it is a bad record."""
    version, settings, shards, counts = required(STATE, content, "version", "settings", "shards", "counts")
    if isinstance(version, bool) or version not in _READABLE:
        raise BadRecordError("version", STATE, f"its version is {shown(version)}, not one of {_READABLE}.", "")
    where = f"{STATE}, settings"
    split = checked_string(where, required_one(where, settings, "split"), "split")
    if not re.fullmatch(r"\w+(\.\w+)*", split):
        raise BadRecordError("malformed text", where, f"no split has the name {shown(split)}.", "")
    if settings.get("task") is not None:
        checked_string(where, settings["task"], "task")
    for name, shard in checked_record(f"{STATE}, shards", shards).items():
        where = f"{STATE}, shard {shown(name)}"
        if not re.fullmatch(rf"{SHARDS}/[^/\\\0]+\.parquet", name):
            raise BadRecordError("malformed text", where, f"a shard is a file {SHARDS}/NAME.parquet of the folder.", "")
        _check_numbers(where, shard, "rows", "prompts", "bytes")
        _check_counters(where, shard, "dropped", "first_dropped")
        checked_string(where, required_one(where, shard, "records"), "records")
    if counts is not None:
        _check_numbers(f"{STATE}, counts", counts, "rows", "prompts")
        _check_counters(f"{STATE}, counts", counts, "dropped", "first_dropped")
        _check_counters(f"{STATE}, counts", counts, "read")
        if counts["rows"] != sum(shard["rows"] for shard in shards.values()):
            raise BadRecordError("lost shard", STATE, "its shards do not have as many rows as it counts.", "")
    return settings, shards, counts


def _check_numbers(where: str, record: Any, *names: str) -> None:
    for name, value in zip(names, required(where, record, *names), strict=True):
        if checked_whole(where, value, name) < 0:
            raise BadRecordError("malformed number", where, f"{name} must be 0 or more, but it is {shown(value)}.", "")


def _check_counters(where: str, record: Any, numbers: str, messages: str | None = None) -> None:
    counted = checked_record(f"{where}, {numbers}", required_one(where, record, numbers))
    _check_numbers(f"{where}, {numbers}", counted, *counted)
    if messages is None:
        return
    first = checked_record(f"{where}, {messages}", required_one(where, record, messages))
    for reason in (*counted, *first):
        checked_string(f"{where}, {messages}", required_one(f"{where}, {messages}", first, reason), shown(reason))
