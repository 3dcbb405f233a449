from __future__ import annotations

import torch

from danlu.inference.cache import COLUMNS, Cache, CacheShape

SHAPE = CacheShape(num_layers=2, num_kv_heads=2, head_dim=4)


def new(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 2, length, 4), torch.randn(rows, 2, length, 4)


def test_growing_keeps_what_is_stored_and_respects_the_limit() -> None:
    cache = Cache(SHAPE, most_tokens=4 * COLUMNS)
    cache.reserve(1, 10, [])
    key, value = new(1, 10)
    cache.view([0], [0], 10)[1].append(key, value)
    cache.reserve(2, COLUMNS + 1, [10])
    assert cache.rows * cache.columns <= 4 * COLUMNS and cache.rows >= 2 and cache.columns > COLUMNS
    more = new(1, 1)
    keys, values = cache.view([0], [10], 1)[1].append(*more)
    torch.testing.assert_close(keys, torch.cat([key, more[0]], 2))
    torch.testing.assert_close(values, torch.cat([value, more[1]], 2))
    assert not cache.fits(3, 2 * COLUMNS)


def test_rows_of_different_lengths_are_stored_each_at_its_end() -> None:
    cache = Cache(SHAPE, most_tokens=10_000)
    cache.reserve(4, 20, [])
    cached = [new(1, length) for length in (3, 7, 5)]
    for row, (key, value) in enumerate(cached):
        cache.view([row], [0], key.shape[2])[0].append(key, value)
    key, value = new(2, 2)
    for rows in ([0, 1], [2, 0]):  # side by side, and not
        starts = [cached[row][0].shape[2] for row in rows]
        keys, values = cache.view(rows, starts, 2)[0].append(key, value)
        for place, row in enumerate(rows):
            torch.testing.assert_close(keys[place, :, : starts[place]], cached[row][0][0])
            torch.testing.assert_close(keys[place, :, starts[place] : starts[place] + 2], key[place])
            torch.testing.assert_close(values[place, :, starts[place] : starts[place] + 2], value[place])


def test_swapping_copying_and_clearing_rows() -> None:
    cache = Cache(SHAPE, most_tokens=10_000)
    cache.reserve(3, 8, [])
    first, second = new(1, 4), new(1, 6)
    cache.view([0], [0], 4)[0].append(*first)
    cache.view([1], [0], 6)[0].append(*second)
    cache.swap(0, 1, 6)
    cache.copy(0, 2, 6)
    torch.testing.assert_close(cache.layers[0].keys[0, :, :6], second[0][0])
    torch.testing.assert_close(cache.layers[0].values[1, :, :4], first[1][0])
    torch.testing.assert_close(cache.layers[0].keys[2, :, :6], second[0][0])
    cache.clear(2)
    assert not cache.layers[0].keys[2].any()
    cache.release()
    assert cache.layers[0].keys.numel() == 0
