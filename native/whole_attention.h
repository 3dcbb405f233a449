// Attention of whole sequences in bfloat16 or float32, with its gradient. A thread computes all of one head of keys and values: a few
// queries at a time against a few vectors of keys, so that scores stay near the processor and those of later positions are hardly computed;
// on the way back weights and the scores' gradients of a whole head are kept.
// Source of the gradient without kept scores: Dao et al. 2022, arXiv:2205.14135, appendix B.
#pragma once
#include <algorithm>
#include <cmath>

#include "words.h"

namespace danlu {

constexpr float LEAST = -87;  // a power of e below which a weight is nothing

// One of the arrays (batch, heads, positions, channels): the channels lie side by side, all else by strides, in numbers.
struct Strided {
    void* first;
    int64_t batch, head, position;
};

// danlu/nn/native.py has the same. `rests` are the logarithms of each query's sum of e^score: (batch, heads, positions), float32.
struct Whole {
    Strided query, key, value, mixed, mixed_back, query_back, key_back, value_back;
    float* rests;
    int32_t batches, heads, kv_heads, length, channels, causal, halves;  // halves: bfloat16, else float32
    float scale;

    int keys() const { return seen(length); }
    int in_word() const { return halves ? 2 : 1; }
    int width() const { return round_up(channels / in_word(), DEPTH); }  // words of all channels, as products take them
    // How many keys are multiplied where so many are seen.
    static int seen(int count) { return round_up(count, std::max(LANES, 2 * DEPTH)); }
};

// Words that a thread needs, there and back.
inline int64_t attend_room(const Whole& w) {
    const int64_t keys = w.keys(), width = w.width();
    return 2 * keys * std::max<int64_t>(width, w.channels / w.in_word()) + ROWS * (2 * keys + width) + 2 * LANES;
}
inline int64_t attend_back_room(const Whole& w) {
    const int64_t keys = w.keys(), width = w.width();
    return 5 * keys * width + 2 / w.in_word() * keys * keys + 2 * keys * w.channels + ROWS * (2 * keys + 2 * width) + 2 * LANES;
}

// What all queries of one head of keys and values see, and how it is mixed.
template <class Word>
inline void attend_whole(const Whole& w, int64_t b, int64_t kv, uint32_t* room) {
    const int length = w.length, channels = w.channels, keys = w.keys(), group = w.heads / w.kv_heads;
    const int64_t width = w.width(), panel = width * LANES;
    auto at = [b](const Strided& array, int64_t h) { return (typename Word::Number*)array.first + b * array.batch + h * array.head; };
    [[maybe_unused]] const Multiplying multiplying;
    uint32_t *key_lanes = room, *value_columns = key_lanes + keys * width, *queries = value_columns + keys * width;
    uint32_t *weights = queries + ROWS * width, *scores = weights + ROWS * keys / Word::IN_WORD;
    lay_lanes<Word>(at(w.key, kv), w.key.position, length, keys, channels, (int)width, key_lanes);
    lay_columns<Word>(at(w.value, kv), w.value.position, length, keys, channels, value_columns);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int begin = 0; begin < length; begin += ROWS) {
            const int count = std::min(ROWS, length - begin), seen = w.causal ? begin + count : length;
            const int panels = Whole::seen(seen) / LANES;
            lay_rows<Word>(at(w.query, head) + begin * w.query.position, w.query.position, count, channels, width, queries);
            take_words<Word>(queries, width, 1, key_lanes, LANES, panel, panels, (int)width,
                             [&](int r, int p, Floats sums) { store(scores + (int64_t)r * keys + p * LANES, sums); });
            float shares[ROWS];
            for (int r = 0; r < ROWS; r++) {
                float* row = (float*)scores + (int64_t)r * keys;
                auto* numbers = (typename Word::Number*)(weights + (int64_t)r * keys / Word::IN_WORD);
                const int own = w.causal ? std::min(begin + r + 1, length) : length;
                Floats most = all(-INFINITY), total = {};
                for (int i = 0; i < own; i += LANES) most = larger(first_lanes(load<Floats>(row + i), own - i, -INFINITY), most);
                const float top = largest(most) * w.scale;
                for (int i = 0; i < panels * LANES; i += LANES) {
                    const Floats e = Word::exponential(larger(multiply_add(load<Floats>(row + i), all(w.scale), all(-top)), all(LEAST)));
                    total += Word::store(numbers + i, first_lanes(e, own - i, 0));
                }
                const float whole = sum(total);
                shares[r] = 1 / whole;
                if (r < count) w.rests[(b * w.heads + head) * length + begin + r] = top + std::log(whole);
            }
            auto* mixed = at(w.mixed, head) + begin * w.mixed.position;
            take_words<Word>(weights, keys / Word::IN_WORD, 1, value_columns, channels, LANES, channels / LANES,
                             panels * LANES / Word::IN_WORD, [&](int r, int vector, Floats sums) {
                                 if (r < count) Word::store(mixed + r * w.mixed.position + vector * LANES, sums * shares[r]);
                             });
        }
}

// The gradients of one head of keys and values, and of all queries that see it.
template <class Word>
inline void attend_whole_back(const Whole& w, int64_t b, int64_t kv, uint32_t* room) {
    const int length = w.length, channels = w.channels, keys = w.keys(), group = w.heads / w.kv_heads;
    const int64_t width = w.width(), panel = width * LANES;
    constexpr int SIDE = std::min(2, WIDE);  // vectors of keys at a time
    auto at = [b](const Strided& array, int64_t h) { return (typename Word::Number*)array.first + b * array.batch + h * array.head; };
    [[maybe_unused]] const Multiplying multiplying;
    uint32_t *key_lanes = room, *value_lanes = key_lanes + keys * width, *key_columns = value_lanes + keys * width;
    uint32_t *query_columns = key_columns + keys * width, *back_columns = query_columns + keys * width,
             *queries = back_columns + keys * width;
    uint32_t *backs = queries + ROWS * width, *rows = backs + ROWS * width;  // some rows of the scores' gradients
    // Weights and the scores' gradients as words of one key each: (queries / 1 or 2, keys).
    uint32_t *weights = rows + ROWS * keys / Word::IN_WORD, *slopes = weights + (int64_t)keys / Word::IN_WORD * keys;
    auto *key_sums = (float*)(slopes + (int64_t)keys / Word::IN_WORD * keys), *value_sums = key_sums + keys * channels;
    std::fill(key_sums, value_sums + keys * channels, 0.0f);
    lay_lanes<Word>(at(w.key, kv), w.key.position, length, keys, channels, (int)width, key_lanes);
    lay_lanes<Word>(at(w.value, kv), w.value.position, length, keys, channels, (int)width, value_lanes);
    lay_columns<Word>(at(w.key, kv), w.key.position, length, keys, channels, key_columns);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
        const auto *query = at(w.query, head), *back = at(w.mixed_back, head), *mixed = at(w.mixed, head);
        lay_columns<Word>(query, w.query.position, length, keys, channels, query_columns);
        lay_columns<Word>(back, w.mixed_back.position, length, keys, channels, back_columns);
        const int whole = round_up(length, BLOCK);
        for (int begin = 0; begin < whole; begin += ROWS) {
            const int count = std::clamp(length - begin, 0, ROWS), seen = w.causal ? begin + count : length;
            const int panels = Whole::seen(seen) / LANES;
            lay_rows<Word>(query + begin * w.query.position, w.query.position, count, channels, width, queries);
            lay_rows<Word>(back + begin * w.mixed_back.position, w.mixed_back.position, count, channels, width, backs);
            float rest[ROWS] = {}, even[ROWS] = {};  // `even`: what a query's weights times their gradients sum to
            for (int r = 0; r < count; r++) {
                Floats total = {};
                for (int e = 0; e < channels; e += LANES)
                    total = multiply_add(Word::load(back + (begin + r) * w.mixed_back.position + e),
                                         Word::load(mixed + (begin + r) * w.mixed.position + e), total);
                even[r] = sum(total), rest[r] = w.rests[(b * w.heads + head) * length + begin + r];
            }
            for (int p = 0; p < panels; p += SIDE) {
                Floats scores[ROWS][SIDE], gains[ROWS][SIDE];
                const int second = SIDE > 1 && p + 1 < panels ? 1 : 0;
                multiply_words<Word, SIDE>(queries, width, 1, key_lanes + p * panel, LANES, second * panel, (int)width, scores);
                multiply_words<Word, SIDE>(backs, width, 1, value_lanes + p * panel, LANES, second * panel, (int)width, gains);
                for (int c = 0; c <= second; c++) {
                    const int first = (p + c) * LANES;
                    Floats weight[ROWS], slope[ROWS];
                    for (int r = 0; r < ROWS; r++) {
                        const int own = r >= count ? 0 : w.causal ? begin + r + 1 : length;
                        weight[r] = Word::exponential(larger(multiply_add(scores[r][c], all(w.scale), all(-rest[r])), all(LEAST)));
                        if (own < first + LANES) weight[r] = first_lanes(weight[r], own - first, 0);
                        const Floats steep = weight[r] * (gains[r][c] - even[r]) * w.scale;
                        slope[r] = Word::store((typename Word::Number*)(rows + (int64_t)r * keys / Word::IN_WORD) + first, steep);
                        weight[r] = Word::rounded(weight[r]);
                    }
                    put_columns<Word>(weight, begin, keys, weights + first);
                    put_columns<Word>(slope, begin, keys, slopes + first);
                }
            }
            auto* given = at(w.query_back, head) + begin * w.query_back.position;
            take_words<Word>(rows, keys / Word::IN_WORD, 1, key_columns, channels, LANES, channels / LANES, panels * LANES / Word::IN_WORD,
                             [&](int r, int vector, Floats sums) {
                                 if (r < count) Word::store(given + r * w.query_back.position + vector * LANES, sums);
                             });
        }
        for (int begin = 0; begin < length; begin += ROWS) {  // some keys: what all queries that see them give
            const int64_t from = w.causal ? begin / BLOCK * BLOCK / Word::IN_WORD : 0;
            const int words = whole / Word::IN_WORD - (int)from;
            auto gather = [&](const uint32_t* left, const uint32_t* right, float* to) {
                take_words<Word>(left + from * keys + begin, 1, keys, right + from * channels, channels, LANES, channels / LANES, words,
                                 [&](int r, int vector, Floats sums) {
                                     float* place = to + (int64_t)(begin + r) * channels + vector * LANES;
                                     store(place, load<Floats>(place) + sums);
                                 });
            };
            gather(weights, back_columns, value_sums);
            gather(slopes, query_columns, key_sums);
        }
    }
    for (int row = 0; row < length; row++)
        for (int e = 0; e < channels; e += LANES) {
            Word::store(at(w.key_back, kv) + row * w.key_back.position + e, load<Floats>(key_sums + row * channels + e));
            Word::store(at(w.value_back, kv) + row * w.value_back.position + e, load<Floats>(value_sums + row * channels + e));
        }
}

// Calls `work` with what a word holds.
template <class Work>
inline void by_word(const Whole& w, Work work) {
    if (w.halves) return work(Pairs());
#if !defined(__AMX_BF16__)
    work(Singles());
#endif
}

}  // namespace danlu
