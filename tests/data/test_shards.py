from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from danlu.data.shards import ShardWriter


@pytest.mark.parametrize("limit", [5, 12, 1000])
def test_documents_come_back_as_they_were_written(tmp_path: Path, limit: int) -> None:
    writer = ShardWriter(tmp_path, "train", np.dtype("<u2"), limit)
    documents = [[1], [2, 3, 4], [5, 6, 7, 8, 9, 10, 11], [12], [], [13, 14, 15, 16]]
    for group in (documents[:2], documents[2:3], documents[3:]):
        tokens = np.array([token for document in group for token in document], dtype="<u2")
        writer.append(tokens, np.array([len(document) for document in group]), np.array([10 * len(document) for document in group]))
    told = writer.finish()
    found = []
    for shard in told["shards"]:
        tokens = np.load(tmp_path / shard["tokens_file"]["name"], mmap_mode="r")
        rows = np.load(tmp_path / shard["documents_file"]["name"])
        ends = [*rows[1:, 0].tolist(), len(tokens)]
        found += [tokens[begin:end].tolist() for begin, end in zip(rows[:, 0].tolist(), ends, strict=True)]
        assert shard["documents"] == len(rows) and shard["tokens"] == len(tokens)
        assert len(tokens) <= limit or len(rows) == 1
        for described in (shard["tokens_file"], shard["documents_file"]):
            content = (tmp_path / described["name"]).read_bytes()
            assert described["size"] == len(content) and described["sha256"] == hashlib.sha256(content).hexdigest()
    assert found == documents
    assert told["tokens"] == 16 and told["bytes"] == 160 and told["documents"] == 6
    assert len(told["shards"]) == {5: 3, 12: 2, 1000: 1}[limit]


def test_nothing_written_is_no_shard(tmp_path: Path) -> None:
    assert ShardWriter(tmp_path, "test", np.dtype("<u2")).finish() == {"documents": 0, "tokens": 0, "bytes": 0, "shards": []}
    assert not list(tmp_path.iterdir())
