// Attention of whole sequences in bfloat16, for training, with its gradient. A thread computes all of one head of keys and values: eight
// queries at a time against 16 or 32 keys, so that scores stay near the processor and those of later positions are hardly computed.
// Source of the gradient without kept scores: Dao et al. 2022, arXiv:2205.14135, appendix B.
#pragma once
#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace danlu {

constexpr int QUERIES = 8;  // rows whose sums stay in registers

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

    int keys() const { return (length + LANES - 1) / LANES * LANES; }  // rounded up to whole vectors
};

// Words, pairs of bfloat16, that a thread needs.
inline int64_t whole_room(const Whole& w) {
    const int64_t keys = w.keys(), half = w.channels / 2;
    return 5 * keys * half + keys * keys + 2 * keys * w.channels + QUERIES * (2 * keys + 2 * half) + 2 * LANES;
}

// sums[r][c] = sum over k of pairs left[r * row + k * step] . right[k * next + c * side], in 16 lanes.
template <int C>
inline void multiply_pairs(const uint32_t* left, int64_t row, int64_t step, const uint32_t* right, int64_t next, int64_t side, int count,
                           Floats (&sums)[QUERIES][C]) {
    Floats total[QUERIES][C] = {};
    const uint32_t* later = left + 4 * row;
    for (int k = 0; k < count; k++, left += step, later += step, right += next) {
        Ints column[C];
        UNROLLED
        for (int c = 0; c < C; c++) column[c] = load<Ints>(right + c * side);
        UNROLLED
        for (int r = 0; r < QUERIES; r++) {
            const Ints both = all(load<int32_t>((r < 4 ? left : later) + r % 4 * row));
            UNROLLED
            for (int c = 0; c < C; c++) total[r][c] = dot2(total[r][c], column[c], both);
        }
    }
    UNROLLED
    for (int r = 0; r < QUERIES; r++) UNROLLED
    for (int c = 0; c < C; c++) sums[r][c] = total[r][c];
}

// Rows of bfloat16 as 16 of them side by side: for each 16 rows, for each two channels, 16 pairs. Rows beyond `length` are 0.
inline void lay_lanes(const uint16_t* rows, int64_t stride, int length, int channels, uint32_t* to) {
    for (int begin = 0; begin < length; begin += LANES)
        for (int e = 0; e < channels; e += 2 * LANES) {
            const int words = std::min(LANES, (channels - e) / 2);
            uint32_t square[LANES][LANES] = {};
            for (int row = 0; row < std::min(LANES, length - begin); row++)
                std::memcpy(square[row], rows + (begin + row) * stride + e, words * sizeof(uint32_t));
            turn(square);
            std::memcpy(to, square, words * sizeof square[0]);
            to += words * LANES;
        }
}

// Rows of bfloat16 as pairs of neighbours: for each two rows, for each channel, its two numbers. Rows beyond `length` are 0.
inline void lay_pairs(const uint16_t* rows, int64_t stride, int length, int whole, int channels, uint32_t* to) {
    for (int row = 0; row < whole; row += 2, to += channels) {
        const uint16_t *even = rows + row * stride, *odd = even + stride;
        if (row + 1 < length)
            for (int e = 0; e < channels; e++) to[e] = even[e] | (uint32_t)odd[e] << 16;
        else if (row < length) std::copy(even, even + channels, to);
        else std::fill(to, to + channels, 0);
    }
}

// Eight rows side by side; those beyond `count` are 0.
inline void lay_rows(const uint16_t* rows, int64_t stride, int count, int channels, uint32_t* to) {
    for (int r = 0; r < QUERIES; r++, to += channels / 2) {
        if (r < count) std::memcpy(to, rows + r * stride, channels * sizeof(uint16_t));
        else std::fill(to, to + channels / 2, 0);
    }
}

// Calls sink(channel, C, sums) with eight rows' sums of pairs (see multiply_pairs) for all channels, 32 or 16 at a time.
template <class Sink>
inline void mix_pairs(const uint32_t* left, int64_t row, int64_t step, const uint32_t* right, int channels, int count, Sink sink) {
    int channel = 0;
    for (; channel + 2 * LANES <= channels; channel += 2 * LANES) {
        Floats sums[QUERIES][2];
        multiply_pairs<2>(left, row, step, right + channel, channels, LANES, count, sums);
        for (int r = 0; r < QUERIES; r++) sink(r, channel, sums[r][0]), sink(r, channel + LANES, sums[r][1]);
    }
    if (channel == channels) return;
    Floats sums[QUERIES][1];
    multiply_pairs<1>(left, row, step, right + channel, channels, LANES, count, sums);
    for (int r = 0; r < QUERIES; r++) sink(r, channel, sums[r][0]);
}

// What all queries of one head of keys and values see, and how it is mixed.
inline void attend_whole(const Whole& w, int64_t b, int64_t kv, uint32_t* room) {
    const int length = w.length, channels = w.channels, keys = w.keys(), group = w.heads / w.kv_heads;
    const int64_t half = channels / 2, panel = half * LANES;
    uint32_t *key_lanes = room, *value_pairs = key_lanes + keys * half, *queries = value_pairs + keys * half;
    uint32_t *weights = queries + QUERIES * half, *scores = weights + QUERIES * keys / 2;
    lay_lanes(w.key.at(b, kv), w.key.position, length, channels, key_lanes);
    lay_pairs(w.value.at(b, kv), w.value.position, length, keys, channels, value_pairs);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int begin = 0; begin < length; begin += QUERIES) {
            const int count = std::min(QUERIES, length - begin), seen = w.causal ? begin + count : length;
            const int panels = (seen + LANES - 1) / LANES;
            lay_rows(w.query.at(b, head) + begin * w.query.position, w.query.position, count, channels, queries);
            for (int p = 0; p < panels; p += 2) {
                Floats sums[QUERIES][2];
                const int second = p + 1 < panels ? 1 : 0;  // else the first once more
                multiply_pairs<2>(queries, half, 1, key_lanes + p * panel, LANES, second * panel, (int)half, sums);
                for (int r = 0; r < QUERIES; r++)
                    for (int c = 0; c <= second; c++) store(scores + (int64_t)r * keys + (p + c) * LANES, sums[r][c]);
            }
            float shares[QUERIES];
            for (int r = 0; r < QUERIES; r++) {
                float* row = (float*)scores + (int64_t)r * keys;
                auto* halves = (uint16_t*)(weights + (int64_t)r * keys / 2);
                const int own = w.causal ? std::min(begin + r + 1, length) : length;
                std::fill(row + own, row + panels * LANES, -INFINITY);
                Floats most = all(-INFINITY), total = {};
                for (int i = 0; i < panels * LANES; i += LANES) most = larger(load<Floats>(row + i), most);
                const float top = largest(most) * w.scale;
                for (int i = 0; i < panels * LANES; i += LANES) {
                    const Floats e = exponential(multiply_add(load<Floats>(row + i), all(w.scale), all(-top)));
                    total += store_bfloats(halves + i, e);
                }
                std::fill(halves + own, halves + panels * LANES, 0);
                const float whole = sum(total);
                shares[r] = 1 / whole;
                if (r < count) w.rests[(b * w.heads + head) * length + begin + r] = top + std::log(whole);
            }
            uint16_t* mixed = w.mixed.at(b, head) + begin * w.mixed.position;
            mix_pairs(weights, keys / 2, 1, value_pairs, channels, panels * LANES / 2, [&](int r, int channel, Floats sums) {
                if (r < count) store_bfloats(mixed + r * w.mixed.position + channel, sums * shares[r]);
            });
        }
}

// Numbers of two rows as pairs.
inline Ints paired_bfloats(Floats even, Floats odd) {
    uint16_t halves[2 * LANES];
    const Ints low = (Ints)store_bfloats(halves, even), high = (Ints)store_bfloats(halves + LANES, odd);
    return ((low >> 16) & 0xffff) | (high & (int32_t)0xffff0000);
}

// The gradients of one head of keys and values, and of all queries that see it.
inline void attend_whole_back(const Whole& w, int64_t b, int64_t kv, uint32_t* room) {
    const int length = w.length, channels = w.channels, keys = w.keys(), group = w.heads / w.kv_heads;
    const int64_t half = channels / 2, panel = half * LANES;
    uint32_t *key_lanes = room, *value_lanes = key_lanes + keys * half, *key_pairs = value_lanes + keys * half;
    uint32_t *query_pairs = key_pairs + keys * half, *back_pairs = query_pairs + keys * half, *queries = back_pairs + keys * half;
    uint32_t *backs = queries + QUERIES * half, *rows = backs + QUERIES * half;  // eight rows of the scores' gradients
    // Weights and the scores' gradients as pairs of neighbouring queries: (queries / 2, keys).
    uint32_t *weights = rows + QUERIES * keys / 2, *slopes = weights + (int64_t)keys / 2 * keys;
    auto *key_sums = (float*)(slopes + (int64_t)keys / 2 * keys), *value_sums = key_sums + keys * channels;
    std::fill(key_sums, value_sums + keys * channels, 0.0f);
    lay_lanes(w.key.at(b, kv), w.key.position, length, channels, key_lanes);
    lay_lanes(w.value.at(b, kv), w.value.position, length, channels, value_lanes);
    lay_pairs(w.key.at(b, kv), w.key.position, length, keys, channels, key_pairs);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
        const uint16_t *query = w.query.at(b, head), *back = w.mixed_back.at(b, head), *mixed = w.mixed.at(b, head);
        lay_pairs(query, w.query.position, length, keys, channels, query_pairs);
        lay_pairs(back, w.mixed_back.position, length, keys, channels, back_pairs);
        const int blocks = (length + QUERIES - 1) / QUERIES;
        for (int begin = 0; begin < length; begin += QUERIES) {
            const int count = std::min(QUERIES, length - begin), seen = w.causal ? begin + count : length;
            const int panels = (seen + LANES - 1) / LANES;
            lay_rows(query + begin * w.query.position, w.query.position, count, channels, queries);
            lay_rows(back + begin * w.mixed_back.position, w.mixed_back.position, count, channels, backs);
            float rest[QUERIES] = {}, even[QUERIES] = {};  // `even`: what a query's weights times their gradients sum to
            for (int r = 0; r < count; r++) {
                Floats total = {};
                for (int e = 0; e < channels; e += LANES)
                    total = multiply_add(load_bfloats(back + (begin + r) * w.mixed_back.position + e),
                                         load_bfloats(mixed + (begin + r) * w.mixed.position + e), total);
                even[r] = sum(total), rest[r] = w.rests[(b * w.heads + head) * length + begin + r];
            }
            for (int p = 0; p < panels; p += 2) {
                Floats scores[QUERIES][2], gains[QUERIES][2];
                const int second = p + 1 < panels ? 1 : 0;
                multiply_pairs<2>(queries, half, 1, key_lanes + p * panel, LANES, second * panel, (int)half, scores);
                multiply_pairs<2>(backs, half, 1, value_lanes + p * panel, LANES, second * panel, (int)half, gains);
                for (int c = 0; c <= second; c++) {
                    const int first = (p + c) * LANES;
                    Floats weight[QUERIES], slope[QUERIES];
                    for (int r = 0; r < QUERIES; r++) {
                        const int own = r >= count ? 0 : w.causal ? begin + r + 1 : length;
                        weight[r] = exponential(multiply_add(scores[r][c], all(w.scale), all(-rest[r])));
                        if (own < first + LANES) {
                            float lanes[LANES];
                            store(lanes, weight[r]);
                            std::fill(lanes + std::max(0, own - first), lanes + LANES, 0.0f);
                            weight[r] = load<Floats>(lanes);
                        }
                        slope[r] = weight[r] * (gains[r][c] - even[r]) * w.scale;
                        store_bfloats((uint16_t*)(rows + (int64_t)r * keys / 2) + first, slope[r]);
                    }
                    for (int r = 0; r < QUERIES; r += 2) {
                        const int64_t place = (int64_t)(begin + r) / 2 * keys + first;
                        store(weights + place, paired_bfloats(weight[r], weight[r + 1]));
                        store(slopes + place, paired_bfloats(slope[r], slope[r + 1]));
                    }
                }
            }
            uint16_t* given = w.query_back.at(b, head) + begin * w.query_back.position;
            mix_pairs(rows, keys / 2, 1, key_pairs, channels, panels * LANES / 2, [&](int r, int channel, Floats sums) {
                if (r < count) store_bfloats(given + r * w.query_back.position + channel, sums);
            });
        }
        for (int begin = 0; begin < length; begin += QUERIES) {  // eight keys: what all queries that see them give
            const int64_t from = w.causal ? begin / 2 : 0;
            const int pairs = blocks * QUERIES / 2 - (int)from;
            auto gather = [&](const uint32_t* left, const uint32_t* right, float* to) {
                mix_pairs(left + from * keys + begin, 1, keys, right + from * channels, channels, pairs,
                          [&](int r, int channel, Floats sums) {
                              float* place = to + (int64_t)(begin + r) * channels + channel;
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
