"""Folders of data as tools leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.folders import held_out_split, read_parts, split_files, training_split
from rlhf_bench.tasks.sources import BadRows


def table(*texts: str) -> pa.Table:
    return pa.table({"prompt": list(texts)})


def texts(folder: Path, split: str) -> list[str]:
    return [row.values["prompt"] for row in read_parts(split_files(folder)[split], BadRows())]


def test_shards_of_a_split_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "train.jsonl").write_text("{}\n")
    (tmp_path / "dataset_infos.json").write_text("{}")
    for at, words in enumerate((("a", "b"), ("c",))):
        parquet.write_table(table(*words), tmp_path / "data" / f"train_prefs-0000{at}-of-00002.parquet")
    parquet.write_table(table("d"), tmp_path / "data" / "test_prefs-00000-of-00001-0123456789abcdef.parquet")
    found = split_files(tmp_path)
    assert texts(tmp_path, "train_prefs") == ["a", "b", "c"]
    assert training_split(found, "train") == "train_prefs"
    assert held_out_split(found, "train_prefs") == "test_prefs"
    (tmp_path / "data" / "train_prefs-00000-of-00002.parquet").unlink()
    with pytest.raises(BenchError, match="lacks shard 0 of 2"):
        split_files(tmp_path)


def test_what_save_to_disk_writes(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    folder = tmp_path / "train"
    folder.mkdir()
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"):
        with ipc.new_stream(str(folder / name), table("").schema) as stream:
            stream.write_table(table(name))
    files = [{"filename": f"data-0000{at}-of-00002.arrow"} for at in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    assert texts(tmp_path, "train") == texts(folder, "train") == [one["filename"] for one in files]
    (folder / files[1]["filename"]).write_bytes(b"no Arrow")
    with pytest.raises(BenchError, match="not an Arrow file"):
        texts(folder, "train")
    (folder / files[1]["filename"]).unlink()
    with pytest.raises(BenchError, match="is missing"):
        split_files(folder)


def test_one_split_in_two_folders_is_refused(tmp_path: Path) -> None:
    for name in ("harmless-base", "helpful-base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(BenchError, match="Name one of these folders"):
        split_files(tmp_path)


@pytest.mark.parametrize("listed", ['{"splits": ["../x"]}', '{"splits": 3}', "[]"])
def test_a_damaged_list_of_splits_is_refused(listed: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text(listed)
    with pytest.raises(BenchError, match="names no splits"):
        split_files(tmp_path)
