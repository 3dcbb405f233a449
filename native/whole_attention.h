// Attention of whole sequences in bfloat16, for training, with its gradient. A thread computes all of one head of keys and values: a few
// queries at a time against a few vectors of keys, so that scores stay near the processor and those of later positions are hardly computed.
// Source of the gradient without kept scores: Dao et al. 2022, arXiv:2205.14135, appendix B.
#pragma once
#include <algorithm>
#include <cmath>

#include "pairs.h"

namespace danlu {

constexpr float LEAST = -87;  // a power of e below which a weight is nothing

// One of the arrays (batch, heads, positions, channels), bfloat16: the channels lie side by side, all else by strides, in numbers.
struct Strided {
    uint16_t* first;
    int64_t batch, head, position;
    uint16_t* at(int64_t b, int64_t h) const { return first + b * batch + h * head; }
};

// danlu/nn/native.py has the same. `rests` are the logarithms of each query's sum of e^score: (batch, heads, positions), float32.
struct Whole {
    Strided query, key, value, mixed, mixed_back, query_back, key_back, value_back;
    float* rests;
    int32_t batches, heads, kv_heads, length, channels, causal;
    float scale;

    int keys() const { return seen(length); }
    int half() const { return round_up(channels / 2, DEPTH); }  // pairs of channels, as products take them
    // How many keys are multiplied where so many are seen.
    static int seen(int count) { return round_up(count, std::max(LANES, 2 * DEPTH)); }
};

// Words, pairs of bfloat16, that a thread needs.
inline int64_t whole_room(const Whole& w) {
    const int64_t keys = w.keys(), half = w.half();
    return 5 * keys * half + keys * keys + 2 * keys * w.channels + ROWS * (2 * keys + 2 * half) + 2 * LANES;
}

// What all queries of one head of keys and values see, and how it is mixed.
inline void attend_whole(const Whole& w, int64_t b, int64_t kv, uint32_t* room) {
    const int length = w.length, channels = w.channels, keys = w.keys(), group = w.heads / w.kv_heads;
    const int64_t half = w.half(), panel = half * LANES;
    [[maybe_unused]] const Multiplying multiplying;
    uint32_t *key_lanes = room, *value_pairs = key_lanes + keys * half, *queries = value_pairs + keys * half;
    uint32_t *weights = queries + ROWS * half, *scores = weights + ROWS * keys / 2;
    lay_lanes(w.key.at(b, kv), w.key.position, length, keys, channels, (int)half, key_lanes);
    lay_pairs(w.value.at(b, kv), w.value.position, length, keys, channels, value_pairs);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int begin = 0; begin < length; begin += ROWS) {
            const int count = std::min(ROWS, length - begin), seen = w.causal ? begin + count : length;
            const int panels = Whole::seen(seen) / LANES;
            lay_rows(w.query.at(b, head) + begin * w.query.position, w.query.position, count, channels, half, queries);
            take_pairs(queries, half, 1, key_lanes, LANES, panel, panels, (int)half,
                       [&](int r, int p, Floats sums) { store(scores + (int64_t)r * keys + p * LANES, sums); });
            float shares[ROWS];
            for (int r = 0; r < ROWS; r++) {
                float* row = (float*)scores + (int64_t)r * keys;
                auto* halves = (uint16_t*)(weights + (int64_t)r * keys / 2);
                const int own = w.causal ? std::min(begin + r + 1, length) : length;
                Floats most = all(-INFINITY), total = {};
                for (int i = 0; i < own; i += LANES) most = larger(first_lanes(load<Floats>(row + i), own - i, -INFINITY), most);
                const float top = largest(most) * w.scale;
                for (int i = 0; i < panels * LANES; i += LANES) {
                    const Floats e = near_exponential(larger(multiply_add(load<Floats>(row + i), all(w.scale), all(-top)), all(LEAST)));
                    total += store_bfloats(halves + i, first_lanes(e, own - i, 0));
                }
                const float whole = sum(total);
                shares[r] = 1 / whole;
                if (r < count) w.rests[(b * w.heads + head) * length + begin + r] = top + std::log(whole);
            }
            uint16_t* mixed = w.mixed.at(b, head) + begin * w.mixed.position;
            take_pairs(weights, keys / 2, 1, value_pairs, channels, LANES, channels / LANES, panels * LANES / 2,
                       [&](int r, int vector, Floats sums) {
                           if (r < count) store_bfloats(mixed + r * w.mixed.position + vector * LANES, sums * shares[r]);
                       });
        }
}

// The gradients of one head of keys and values, and of all queries that see it.
inline void attend_whole_back(const Whole& w, int64_t b, int64_t kv, uint32_t* room) {
    const int length = w.length, channels = w.channels, keys = w.keys(), group = w.heads / w.kv_heads;
    const int64_t half = w.half(), panel = half * LANES;
    [[maybe_unused]] const Multiplying multiplying;
    uint32_t *key_lanes = room, *value_lanes = key_lanes + keys * half, *key_pairs = value_lanes + keys * half;
    uint32_t *query_pairs = key_pairs + keys * half, *back_pairs = query_pairs + keys * half, *queries = back_pairs + keys * half;
    uint32_t *backs = queries + ROWS * half, *rows = backs + ROWS * half;  // some rows of the scores' gradients
    // Weights and the scores' gradients as pairs of neighbouring queries: (queries / 2, keys).
    uint32_t *weights = rows + ROWS * keys / 2, *slopes = weights + (int64_t)keys / 2 * keys;
    auto *key_sums = (float*)(slopes + (int64_t)keys / 2 * keys), *value_sums = key_sums + keys * channels;
    std::fill(key_sums, value_sums + keys * channels, 0.0f);
    lay_lanes(w.key.at(b, kv), w.key.position, length, keys, channels, (int)half, key_lanes);
    lay_lanes(w.value.at(b, kv), w.value.position, length, keys, channels, (int)half, value_lanes);
    lay_pairs(w.key.at(b, kv), w.key.position, length, keys, channels, key_pairs);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
        const uint16_t *query = w.query.at(b, head), *back = w.mixed_back.at(b, head), *mixed = w.mixed.at(b, head);
        lay_pairs(query, w.query.position, length, keys, channels, query_pairs);
        lay_pairs(back, w.mixed_back.position, length, keys, channels, back_pairs);
        const int whole = round_up(length, BLOCK);
        for (int begin = 0; begin < whole; begin += ROWS) {
            const int count = std::clamp(length - begin, 0, ROWS), seen = w.causal ? begin + count : length;
            const int panels = Whole::seen(seen) / LANES;
            lay_rows(query + begin * w.query.position, w.query.position, count, channels, half, queries);
            lay_rows(back + begin * w.mixed_back.position, w.mixed_back.position, count, channels, half, backs);
            float rest[ROWS] = {}, even[ROWS] = {};  // `even`: what a query's weights times their gradients sum to
            for (int r = 0; r < count; r++) {
                Floats total = {};
                for (int e = 0; e < channels; e += LANES)
                    total = multiply_add(load_bfloats(back + (begin + r) * w.mixed_back.position + e),
                                         load_bfloats(mixed + (begin + r) * w.mixed.position + e), total);
                even[r] = sum(total), rest[r] = w.rests[(b * w.heads + head) * length + begin + r];
            }
            for (int p = 0; p < panels; p += 2) {
                Floats scores[ROWS][2], gains[ROWS][2];
                const int second = p + 1 < panels ? 1 : 0;
                multiply_pairs<2>(queries, half, 1, key_lanes + p * panel, LANES, second * panel, (int)half, scores);
                multiply_pairs<2>(backs, half, 1, value_lanes + p * panel, LANES, second * panel, (int)half, gains);
                for (int c = 0; c <= second; c++) {
                    const int first = (p + c) * LANES;
                    Floats weight[ROWS], slope[ROWS];
                    for (int r = 0; r < ROWS; r++) {
                        const int own = r >= count ? 0 : w.causal ? begin + r + 1 : length;
                        weight[r] = near_exponential(larger(multiply_add(scores[r][c], all(w.scale), all(-rest[r])), all(LEAST)));
                        if (own < first + LANES) weight[r] = first_lanes(weight[r], own - first, 0);
                        const Floats steep = weight[r] * (gains[r][c] - even[r]) * w.scale;
                        slope[r] = store_bfloats((uint16_t*)(rows + (int64_t)r * keys / 2) + first, steep);
                        weight[r] = rounded_to_bfloats(weight[r]);
                    }
                    for (int r = 0; r < ROWS; r += 2) {
                        const int64_t place = (int64_t)(begin + r) / 2 * keys + first;
                        store(weights + place, paired(weight[r], weight[r + 1]));
                        store(slopes + place, paired(slope[r], slope[r + 1]));
                    }
                }
            }
            uint16_t* given = w.query_back.at(b, head) + begin * w.query_back.position;
            take_pairs(rows, keys / 2, 1, key_pairs, channels, LANES, channels / LANES, panels * LANES / 2,
                       [&](int r, int vector, Floats sums) {
                           if (r < count) store_bfloats(given + r * w.query_back.position + vector * LANES, sums);
                       });
        }
        for (int begin = 0; begin < length; begin += ROWS) {  // some keys: what all queries that see them give
            const int64_t from = w.causal ? begin / BLOCK * BLOCK / 2 : 0;
            const int pairs = whole / 2 - (int)from;
            auto gather = [&](const uint32_t* left, const uint32_t* right, float* to) {
                take_pairs(left + from * keys + begin, 1, keys, right + from * channels, channels, LANES, channels / LANES, pairs,
                           [&](int r, int vector, Floats sums) {
                               float* place = to + (int64_t)(begin + r) * channels + vector * LANES;
                               store(place, load<Floats>(place) + sums);
                           });
            };
            gather(weights, back_pairs, value_sums);
            gather(slopes, query_pairs, key_sums);
        }
    }
    for (int row = 0; row < length; row++)
        for (int e = 0; e < channels; e += LANES) {
            store_bfloats(w.key_back.at(b, kv) + row * w.key_back.position + e, load<Floats>(key_sums + row * channels + e));
            store_bfloats(w.value_back.at(b, kv) + row * w.value_back.position + e, load<Floats>(value_sums + row * channels + e));
        }
}

}  // namespace danlu
