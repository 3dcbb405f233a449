// Attention over a paged cache: all scores of a query, their softmax, then the weighted sum of values. A page is 16 positions of one
// head, so that one vector holds a channel, or four bytes of channels, of 16 keys:
//   FLOAT32   keys E x 16, then values 16 x E
//   BFLOAT16  keys E/2 x 16 x 2, then values 8 x E x 2 (pairs of positions)
//   INT8      keys E/4 x 16 x 4 (from 128) with E/16 x 16 scales, then values 4 x E x 4 (fours of positions) with 16 scales
#pragma once
#include "model.h"
#include "vectors.h"

namespace danlu {

constexpr int PAGE = 16;
constexpr int MOST_QUERIES = 12;
constexpr int SOON = 2;  // pages between the one that is looked at and the one that is asked of memory

inline size_t key_bytes(int32_t kind, int head_dim) {
    return (size_t)PAGE * head_dim * (kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1) + (kind == INT8 ? 4 * head_dim : 0);
}
inline size_t page_bytes(int32_t kind, int head_dim) { return kind == INT8 ? 36 * (size_t)head_dim + 64 : 2 * key_bytes(kind, head_dim); }

// Put one position's key and value where it stands within its page.
inline void put_position(uint8_t* page, int32_t kind, int slot, int head_dim, const float* key, const float* value) {
    uint8_t* value_part = page + key_bytes(kind, head_dim);
    if (kind == FLOAT32) {
        for (int e = 0; e < head_dim; e++) ((float*)page)[e * PAGE + slot] = key[e];
        std::memcpy((float*)value_part + slot * head_dim, value, head_dim * sizeof(float));
    } else if (kind == BFLOAT16) {
        uint16_t *keys = (uint16_t*)page, *values = (uint16_t*)value_part + slot / 2 * 2 * head_dim;
        for (int e = 0; e < head_dim; e++) {
            keys[(e / 2 * PAGE + slot) * 2 + e % 2] = bfloat_of(key[e]);
            values[2 * e + slot % 2] = bfloat_of(value[e]);
        }
    } else {
        float *key_scales = (float*)(page + PAGE * head_dim), *value_scales = (float*)(value_part + PAGE * head_dim), most = 0;
        for (int e = 0; e < head_dim; e += 4 * LANES) {
            Floats part[4] = {};
            int8_t bytes[4 * LANES];
            float scales[4];
            int32_t sums[4];
            const int left = std::min(4 * LANES, head_dim - e);
            std::memcpy(part, key + e, left * sizeof(float));
            bytes_of(part, bytes, scales, sums);
            for (int i = 0; i < left / LANES; i++) key_scales[(e / LANES + i) * PAGE + slot] = scales[i];
            for (int i = 0; i < left; i += 4) {
                const uint32_t four = load<uint32_t>(bytes + i) ^ 0x80808080u;
                std::memcpy(page + ((e + i) / 4 * PAGE + slot) * 4, &four, 4);
            }
        }
        float nothing = 0;
        for (int e = 0; e < head_dim; e++) most = std::max(most, std::fabs(value[e])), nothing += value[e] * 0.0f;
        const float times = 127.0f / std::max(most, 1e-30f);
        value_scales[slot] = nothing == 0 ? most / 127.0f : NAN;
        uint8_t* values = value_part + slot / 4 * 4 * head_dim + slot % 4;
        for (int e = 0; e < head_dim; e++) values[4 * e] = (uint8_t)(int8_t)std::nearbyint(value[e] * times);
    }
}

// The queries of some rows that look at one head of one sequence.
struct Queries {
    int count = 0;
    const float* query[MOST_QUERIES];
    float* mixed[MOST_QUERIES];
    int seen[MOST_QUERIES];  // positions that each may look at
};

struct Pages {
    const uint8_t* base;  // of this layer and head
    const int32_t* numbers;
    size_t bytes, key_bytes;
    const uint8_t* operator[](int index) const { return base + numbers[index] * bytes; }
};

// Q queries as keys of a kind meet them: numbers, bfloat16, or bytes with a scale and a start for each 16 channels.
template <int Q, int KIND, int DIM>
struct Asked {
    static constexpr int CHANNELS = KIND == FLOAT32 ? 1 : KIND == BFLOAT16 ? 2 : 4;  // in a word
    uint8_t* words;
    float* scales;
    int32_t* starts;
    const int any_dim;

    int head_dim() const { return DIM ? DIM : any_dim; }
    Asked(float* room, int dim)
        : words((uint8_t*)room), scales(room + Q * dim / CHANNELS), starts((int32_t*)scales + Q * dim / LANES), any_dim(dim) {}
    const uint8_t* word(int q, int index) const { return words + (q * (head_dim() / CHANNELS) + index) * 4; }

    void put(int q, const float* query) {
        const int head_dim = this->head_dim();
        uint8_t* to = words + q * (head_dim / CHANNELS) * 4;
        if constexpr (KIND == FLOAT32) std::memcpy(to, query, head_dim * sizeof(float));
        for (int e = 0; KIND == BFLOAT16 && e < head_dim; e += LANES) store_bfloats((uint16_t*)to + e, load<Floats>(query + e));
        for (int e = 0; KIND == INT8 && e < head_dim; e += 4 * LANES) {
            Floats part[4] = {};
            int8_t bytes[4 * LANES];
            float scale[4];
            int32_t sums[4];
            const int left = std::min(4 * LANES, head_dim - e), group = q * (head_dim / LANES) + e / LANES;
            std::memcpy(part, query + e, left * sizeof(float));
            bytes_of(part, bytes, scale, sums);
            std::memcpy(to + e, bytes, left);
            for (int i = 0; i < left / LANES; i++) {
                scales[group + i] = scale[i];
                starts[group + i] = -128 * sums[i];
            }
        }
    }
};

// Scores of Q queries with all keys. Of numbers, even and odd words are summed apart, so that few queries too keep the processor busy.
template <int Q, int KIND, int DIM>
void scores_of(const Pages& pages, int num_pages, const Asked<Q, KIND, DIM>& asked, float* scores, size_t stride) {
    const int head_dim = asked.head_dim(), words = head_dim / Asked<Q, KIND, DIM>::CHANNELS;
    for (int p = 0; p < num_pages; p++) {
        const uint8_t *keys = pages[p], *next = pages[std::min(p + SOON, num_pages - 1)];
        for (size_t line = 0; line < pages.key_bytes; line += 64) __builtin_prefetch(next + line);
        Floats total[Q][2] = {};
        if constexpr (KIND == INT8) {
            for (int g = 0; g < head_dim / LANES; g++) {
                const Floats scale = load<Floats>(keys + (size_t)PAGE * head_dim + g * 64);
                Ints key[4];
                UNROLLED
                for (int j = 0; j < 4; j++) key[j] = load<Ints>(keys + (4 * g + j) * 64);
                UNROLLED
                for (int q = 0; q < Q; q++) {
                    const int group = q * (head_dim / LANES) + g;
                    Ints dots = all(asked.starts[group]);
                    UNROLLED
                    for (int j = 0; j < 4; j++) dots = dot4(dots, key[j], (const int8_t*)asked.word(q, 4 * g + j));
                    total[q][0] = multiply_add(floats_of(dots) * scale, all(asked.scales[group]), total[q][0]);
                }
            }
        } else {
            for (int e = 0; e < words; e += 2)
                for (int odd = 0; odd < 2; odd++) {
                    const Ints key = load<Ints>(keys + (e + odd) * 64);
                    UNROLLED
                    for (int q = 0; q < Q; q++) {
                        if constexpr (KIND == FLOAT32)
                            total[q][odd] = multiply_add((Floats)key, all(load<float>(asked.word(q, e + odd))), total[q][odd]);
                        else total[q][odd] = dot2(total[q][odd], key, all(load<int32_t>(asked.word(q, e + odd))));
                    }
                }
        }
        UNROLLED
        for (int q = 0; q < Q; q++) store(scores + q * stride + p * PAGE, total[q][0] + total[q][1]);
    }
}

// Scores of one query to weights, in place: e^(score - largest); returns their sum. Numbers stay numbers; bfloat16 are put in half their
// room; bytes in a quarter of it, each page's with a scale, after the weights took up the scales of their values.
template <int KIND>
float weigh(const Pages& pages, int num_pages, int seen, float* row, float* scales) {
    const int own = (seen + PAGE - 1) / PAGE;
    for (int i = seen; i < num_pages * PAGE; i++) row[i] = -INFINITY;
    Floats most = all(-INFINITY), total = {};
    for (int p = 0; p < own; p++) most = larger(most, load<Floats>(row + p * PAGE));
    const float top = largest(most);
    Floats four[4] = {};
    for (int p = 0; p < (KIND == INT8 ? (num_pages + 3) / 4 * 4 : num_pages); p++) {  // bytes by fours, for which there is room behind
        Floats weight = p < own ? exponential(load<Floats>(row + p * PAGE) - top) : Floats{};
        if (p == own - 1) {
            float lanes[PAGE];
            store(lanes, weight);
            for (int i = seen - p * PAGE; i < PAGE; i++) lanes[i] = 0;
            weight = load<Floats>(lanes);
        }
        if constexpr (KIND == FLOAT32) store(row + p * PAGE, weight);
        if constexpr (KIND == BFLOAT16) weight = store_bfloats((uint16_t*)row + p * PAGE, weight);
        total += weight;
        if constexpr (KIND == INT8) {
            four[p % 4] = p < own ? weight * load<Floats>(pages[p] + pages.bytes - 64) : weight;
            if (p % 4 == 3) {
                int32_t sums[4];
                bytes_of(four, (int8_t*)row + (p - 3) * PAGE, scales + p - 3, sums);
            }
        }
    }
    return sum(total);
}

// Values weighted and summed, C x 16 channels from `channel` on.
template <int Q, int C, int KIND, int DIM>
void mix(const Pages& pages, int num_pages, int any_dim, int channel, const float* weights, size_t stride, const float* scales,
         Floats (*total)[4]) {
    const int head_dim = DIM ? DIM : any_dim;
    constexpr int TOGETHER = KIND == FLOAT32 ? 1 : KIND == BFLOAT16 ? 2 : 4;  // positions in a word
    Floats sums[Q][C] = {};
    for (int p = 0; p < num_pages; p++) {
        const uint8_t *values = pages[p] + pages.key_bytes, *next = pages[std::min(p + SOON, num_pages - 1)] + pages.key_bytes;
        for (int s = 0; s < PAGE / TOGETHER; s++)
            for (int c = 0; c < C; c++) __builtin_prefetch(next + (size_t)(s * head_dim + channel) * 4 + c * 64);
        if constexpr (KIND == INT8) {
            UNROLLED
            for (int q = 0; q < Q; q++) {
                const int8_t* row = (const int8_t*)(weights + q * stride) + p * PAGE;
                Ints dots[C] = {};
                UNROLLED
                for (int s = 0; s < 4; s++) UNROLLED
                for (int c = 0; c < C; c++)
                    dots[c] = dot4_signed(dots[c], load<Ints>(values + (size_t)(s * head_dim + channel) * 4 + c * 64), row + 4 * s);
                const Floats scale = all(scales[q * num_pages + p]);
                UNROLLED
                for (int c = 0; c < C; c++) sums[q][c] = multiply_add(floats_of(dots[c]), scale, sums[q][c]);
            }
        } else {
            for (int s = 0; s < PAGE / TOGETHER; s++) {
                Ints value[C];
                UNROLLED
                for (int c = 0; c < C; c++) value[c] = load<Ints>(values + (size_t)(s * head_dim + channel) * 4 + c * 64);
                UNROLLED
                for (int q = 0; q < Q; q++) {
                    const uint8_t* word = (const uint8_t*)(weights + q * stride) + (p * PAGE / TOGETHER + s) * 4;
                    UNROLLED
                    for (int c = 0; c < C; c++) {
                        if constexpr (KIND == FLOAT32) sums[q][c] = multiply_add((Floats)value[c], all(load<float>(word)), sums[q][c]);
                        else sums[q][c] = dot2(sums[q][c], value[c], all(load<int32_t>(word)));
                    }
                }
            }
        }
    }
    UNROLLED
    for (int q = 0; q < Q; q++) UNROLLED
    for (int c = 0; c < C; c++) total[q][c] = sums[q][c];
}

template <int Q, int KIND, int DIM>
void attend_some(const Pages& pages, int any_dim, const Queries& queries, int first, float* room) {
    const int head_dim = DIM ? DIM : any_dim;
    int most = 0;
    for (int q = 0; q < Q; q++) most = std::max(most, queries.seen[first + q]);
    const int num_pages = (most + PAGE - 1) / PAGE;
    const size_t stride = (size_t)num_pages * PAGE;
    float *scores = room + Q * head_dim, *scales = scores + Q * stride, share[Q];
    Asked<Q, KIND, DIM> asked(room, head_dim);
    for (int q = 0; q < Q; q++) asked.put(q, queries.query[first + q]);
    scores_of<Q, KIND, DIM>(pages, num_pages, asked, scores, stride);
    for (int q = 0; q < Q; q++)
        share[q] = 1.0f / weigh<KIND>(pages, num_pages, queries.seen[first + q], scores + q * stride, scales + q * num_pages);
    for (int channel = 0, width; channel < head_dim; channel += width) {
        const bool wide = head_dim - channel >= 64;
        width = wide ? 64 : 16;
        constexpr int HALF = Q > 6 ? Q / 2 : Q;
        for (int part = 0; part < Q; part += HALF) {
            Floats total[HALF][4] = {};
            if (wide)
                mix<HALF, 4, KIND, DIM>(pages, num_pages, head_dim, channel, scores + part * stride, stride, scales + part * num_pages,
                                        total);
            else
                mix<HALF, 1, KIND, DIM>(pages, num_pages, head_dim, channel, scores + part * stride, stride, scales + part * num_pages,
                                        total);
            for (int q = 0; q < HALF; q++)
                for (int c = 0; c < width / LANES; c++)
                    store(queries.mixed[first + part + q] + channel + c * LANES, total[q][c] * share[part + q]);
        }
    }
}

template <int KIND, int DIM>
void attend_all(const Pages& pages, int head_dim, const Queries& queries, float* room) {
    for (int done = 0, count; done < queries.count; done += count) {
        const int left = queries.count - done;
        count = left >= 12 ? 12 : left >= 6 ? 6 : left >= 3 ? 3 : 1;
        if (count == 12) attend_some<12, KIND, DIM>(pages, head_dim, queries, done, room);
        else if (count == 6) attend_some<6, KIND, DIM>(pages, head_dim, queries, done, room);
        else if (count == 3) attend_some<3, KIND, DIM>(pages, head_dim, queries, done, room);
        else attend_some<1, KIND, DIM>(pages, head_dim, queries, done, room);
    }
}

inline size_t attention_room(int head_dim, int positions) {
    return (size_t)MOST_QUERIES * (head_dim + positions + PAGE + positions / PAGE + 1);
}

// `room` holds attention_room numbers.
inline void attend(const Pages& pages, int32_t kind, int head_dim, const Queries& queries, float* room) {
    if (kind == FLOAT32) attend_all<FLOAT32, 0>(pages, head_dim, queries, room);
    else if (kind == BFLOAT16) attend_all<BFLOAT16, 0>(pages, head_dim, queries, room);
    else if (head_dim == 64) attend_all<INT8, 64>(pages, head_dim, queries, room);  // the usual size: known addresses, a third quicker
    else attend_all<INT8, 0>(pages, head_dim, queries, room);
}

}  // namespace danlu
