// What layers do to each number, with its gradient, for training: in one pass over memory what torch does in several, or slowly.
// The same source is compiled for several instruction sets; danlu/nn/native.py calls the one that the processor has.
#include <algorithm>
#include <new>

#include "model.h"
#include "norms.h"
#include "vectors.h"
#include "weight_gradient.h"
#include "whole_attention.h"

namespace danlu {
namespace {

constexpr int PART = 4096;  // numbers that a thread takes at once

// Calls `work` with places of 16 numbers; the last of them by way of copies, so that nothing beyond `count` is touched.
template <bool HALF, int IN, int OUT, class Work>
inline void walk(int64_t count, const void* const (&in)[IN], void* const (&out)[OUT], Work work) {
    using N = Numbers<HALF>;
    Floats x[IN], y[OUT];
    const int64_t whole = count / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int k = 0; k < IN; k++) x[k] = N::load(in[k], i);
        work(x, y);
        for (int k = 0; k < OUT; k++) N::store(out[k], i, y[k]);
    }
    if (whole == count) return;
    const int64_t left = (count - whole) * N::width;
    char copies[IN + OUT][LANES * 4] = {};
    for (int k = 0; k < IN; k++) std::memcpy(copies[k], (const char*)in[k] + whole * N::width, left), x[k] = N::load(copies[k], 0);
    work(x, y);
    for (int k = 0; k < OUT; k++) N::store(copies[IN + k], 0, y[k]), std::memcpy((char*)out[k] + whole * N::width, copies[IN + k], left);
}

// y = a(x) and its slope; with NEAR to 2e-4, for what is rounded to bfloat16 next.
template <int ACTIVATION, bool NEAR>
inline void bend(Floats x, Floats& y, Floats& slope) {
    constexpr auto exponential = NEAR ? danlu::near_exponential : danlu::exponential;
    constexpr auto reciprocal = NEAR ? danlu::near_reciprocal : danlu::reciprocal;
    constexpr float SILU_FAR = 87, GELU_FAR = 10;  // beyond, nothing changes but what overflows
    if constexpr (ACTIVATION == SILU) {
        const Floats power = exponential(smaller(larger(-x, all(-SILU_FAR)), all(SILU_FAR))), share = reciprocal(1.0f + power);
        y = x * share;
        slope = multiply_add(y, power * share, share);
    } else {  // x (1 + tanh u) / 2 = x / (1 + e^(-2 u))
        constexpr float C = 0.7978845608f, D = 0.044715f;
        const Floats near = smaller(larger(x, all(-GELU_FAR)), all(GELU_FAR));
        const Floats square = near * near, power = exponential(-2.0f * C * near * multiply_add(square, all(D), all(1.0f)));
        const Floats share = reciprocal(1.0f + power);
        y = x * share;
        slope = multiply_add(near * share * power * share, 2.0f * C * multiply_add(square, all(3.0f * D), all(1.0f)), share);
    }
}

template <int ACTIVATION, bool HALF>
void bend_part(int64_t count, const void* x, const void* other, const void* back, void* y, void* other_back) {
    Floats bent, slope;
    if (!back && !other)
        walk<HALF>(count, {x}, {y}, [&](const Floats(&in)[1], Floats(&out)[1]) { bend<ACTIVATION, HALF>(in[0], out[0], slope); });
    else if (!back)
        walk<HALF>(count, {x, other}, {y}, [&](const Floats(&in)[2], Floats(&out)[1]) {
            bend<ACTIVATION, HALF>(in[0], bent, slope);
            out[0] = bent * in[1];
        });
    else if (!other)
        walk<HALF>(count, {x, back}, {y}, [&](const Floats(&in)[2], Floats(&out)[1]) {
            bend<ACTIVATION, HALF>(in[0], bent, slope);
            out[0] = in[1] * slope;
        });
    else
        walk<HALF>(count, {x, other, back}, {y, other_back}, [&](const Floats(&in)[3], Floats(&out)[2]) {
            bend<ACTIVATION, HALF>(in[0], bent, slope);
            out[0] = in[2] * in[1] * slope;
            out[1] = in[2] * bent;
        });
}

template <bool HALF>
void bend_all(int32_t activation, int64_t count, const void* x, const void* other, const void* back, void* y, void* other_back,
              int threads) {
    constexpr int64_t width = Numbers<HALF>::width;
    const int64_t parts = (count + PART - 1) / PART;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        const int64_t at = part * PART, many = std::min((int64_t)PART, count - at);
        auto moved = [&](auto* pointer) { return pointer ? (decltype(pointer))((char*)pointer + at * width) : nullptr; };
        auto work = activation == SILU ? bend_part<SILU, HALF> : bend_part<GELU_TANH, HALF>;
        work(many, moved(x), moved(other), moved(back), moved(y), moved(other_back));
    }
}

// 16 numbers of a row from `i` on; beyond its end `beyond`.
template <bool HALF>
inline Floats some(const void* row, int64_t i, int64_t count, float beyond) {
    if (i + LANES <= count) return Numbers<HALF>::load(row, i);
    char copy[LANES * 4] = {};
    float lanes[LANES];
    std::memcpy(copy, (const char*)row + i * Numbers<HALF>::width, (count - i) * Numbers<HALF>::width);
    store(lanes, Numbers<HALF>::load(copy, 0));
    for (int64_t k = count - i; k < LANES; k++) lanes[k] = beyond;
    return load<Floats>(lanes);
}
template <bool HALF>
inline void put(void* row, int64_t i, int64_t count, Floats x) {
    if (i + LANES <= count) return Numbers<HALF>::store(row, i, x);
    char copy[LANES * 4];
    Numbers<HALF>::store(copy, 0, x);
    std::memcpy((char*)row + i * Numbers<HALF>::width, copy, (count - i) * Numbers<HALF>::width);
}

// e^(x - the largest) of a row, as float32 in room for whole vectors; returns their sum.
template <bool HALF>
float exponentials(const void* row, int64_t count, float* to, float& top) {
    Floats most = all(-INFINITY), total = {};
    for (int64_t i = 0; i < count; i += LANES) {
        const Floats x = some<HALF>(row, i, count, -INFINITY);
        store(to + i, x);
        most = larger(x, most);
    }
    top = largest(most);
    for (int64_t i = 0; i < count; i += LANES) {
        const Floats e = exponential(load<Floats>(to + i) - top);
        store(to + i, e);
        total += e;
    }
    return sum(total);
}

template <bool HALF>
void nats_of(int64_t words, const void* logits, int64_t target, bool asked, float smoothing, float* room, float* nats, void* gradient) {
    *nats = 0;
    if (!asked) {
        if (gradient) std::memset(gradient, 0, words * Numbers<HALF>::width);
        return;
    }
    float top, wanted[LANES], mean = 0;
    const float total = exponentials<HALF>(logits, words, room, top), rest = std::log(total);
    store(wanted, some<HALF>(logits, target / LANES * LANES, words, 0));
    *nats = (1 - smoothing) * (top - wanted[target % LANES] + rest);
    if (smoothing) {
        Floats sums = {};
        for (int64_t i = 0; i < words; i += LANES) sums += some<HALF>(logits, i, words, 0);
        mean = sum(sums) / words;
        *nats += smoothing * (top - mean + rest);
    }
    if (!gradient) return;
    room[target] -= (1 - smoothing) * total;
    const float share = 1 / total, less = smoothing / words;
    for (int64_t i = 0; i < words; i += LANES) put<HALF>(gradient, i, words, load<Floats>(room + i) * share - less);
}

// Calls work(row, room for a row as float32) for all rows, by so many threads; 1 if there was no memory.
template <class Work>
int32_t rows_by(int64_t rows, int64_t length, int32_t threads, Work work) {
    const int64_t stride = (length + 2 * LANES - 1) / LANES * LANES;
    float* rooms = new (std::nothrow) float[stride * threads];
    if (!rooms) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int32_t thread = 0; thread < threads; thread++)
        for (int64_t row = rows * thread / threads; row < rows * (thread + 1) / threads; row++) work(row, rooms + stride * thread);
    delete[] rooms;
    return 0;
}

// Calls work(number, a thread's own room) for all numbers, by so many threads; 1 if there was no memory.
template <class Work>
int32_t numbers_by(int64_t count, int64_t words, int32_t threads, Work work) {
    constexpr int64_t LINE = 64 / sizeof(uint32_t);
    threads = (int32_t)std::min<int64_t>(threads, count);
    words = (words + LINE - 1) / LINE * LINE;
    uint32_t* rooms = new (std::nothrow) uint32_t[words * threads + LINE];
    if (!rooms) return 1;
    uint32_t* aligned = rooms + (LINE - (uintptr_t)rooms / sizeof(uint32_t) % LINE) % LINE;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int32_t thread = 0; thread < threads; thread++)
        for (int64_t i = count * thread / threads; i < count * (thread + 1) / threads; i++) work(i, aligned + words * thread);
    delete[] rooms;
    return 0;
}

}  // namespace
}  // namespace danlu

extern "C" {

// Raised, here and in danlu/nn/native.py, whenever these functions take something else.
int32_t danlu_layers() { return 8; }

// y = a(x), times `other` if there is one. With `back`, the gradient of y: y takes the gradient of x, other_back that of `other`.
// Numbers are bfloat16 if `half`, else float32.
void danlu_bend(int32_t activation, int32_t half, int64_t count, const void* x, const void* other, const void* back, void* y,
                void* other_back, int32_t threads) {
    (half ? danlu::bend_all<true> : danlu::bend_all<false>)(activation, count, x, other, back, y, other_back, threads);
}

// Each row's cross-entropy with its target (words that none is asked of have a target below 0: 0 nats) and, if there is room for it, the
// gradient of their sum. Shapes: logits and gradient (rows, words); 1 if there was no memory.
int32_t danlu_nats(int32_t half, int64_t rows, int64_t words, const void* logits, const int64_t* targets, float smoothing, float* nats,
                   void* gradient, int32_t threads) {
    const int64_t stride = words * (half ? 2 : 4);
    return danlu::rows_by(rows, words, threads, [&](int64_t row, float* room) {
        (half ? danlu::nats_of<true> : danlu::nats_of<false>)(words, (const char*)logits + row * stride, targets[row], targets[row] >= 0,
                                                              smoothing, room, nats + row,
                                                              gradient ? (char*)gradient + row * stride : nullptr);
    });
}

// Rows whose gradients of weights are summed together: a norm's `sums` has room for so many parts of them.
int64_t danlu_norm_part() { return danlu::NORM_PART; }

// Rows of x, or of x and what is added to it, normalised and weighed: `y`, `found` and, of two, `total` are made.
void danlu_norm(const danlu::NormRows* norm, int32_t threads) {
    danlu::parts_by(*norm, threads, [&](auto x, auto added, auto y, int64_t part) { danlu::norm_part<x, added, y>(*norm, part); });
}

// Its gradients, given that of `y` and, if there is one, of `total`: `x_back`, `sums` and, where asked for, `added_back` are made.
void danlu_norm_back(const danlu::NormRows* norm, int32_t threads) {
    danlu::parts_by(*norm, threads, [&](auto x, auto added, auto y, int64_t part) { danlu::norm_part_back<x, added, y>(*norm, part); });
}

// Up to how many positions attention is quicker here than torch's; 0 where it never is. In bfloat16 it needs an instruction for pairs, in
// float32 enough registers; tiles have no float32.
int32_t danlu_longest(int32_t halves, [[maybe_unused]] int32_t causal) {
#if defined(__AMX_BF16__)
    return halves && danlu::tiles_granted() ? 512 : 0;
#elif defined(__AVX512BF16__)
    return halves ? 4096 : 2048;
#elif defined(DANLU_WIDE)
    return halves ? 0 : 2048;
#elif defined(__AVX2__)
    return !halves && causal ? 512 : 0;
#else
    return 0;
#endif
}

// Attention of whole sequences: `mixed` and `rests` are made. 1 if there was no memory.
int32_t danlu_attend(const danlu::Whole* whole, int32_t threads) {
    return danlu::numbers_by(
        (int64_t)whole->batches * whole->kv_heads, danlu::attend_back_room(*whole), threads, [&](int64_t i, uint32_t* room) {
            danlu::by_word(*whole,
                           [&](auto word) { danlu::attend_whole<decltype(word)>(*whole, i / whole->kv_heads, i % whole->kv_heads, room); });
        });
}

// Its gradients, given that of `mixed`: query_back, key_back and value_back are made.
int32_t danlu_attend_back(const danlu::Whole* whole, int32_t threads) {
    return danlu::numbers_by((int64_t)whole->batches * whole->kv_heads, danlu::attend_back_room(*whole), threads,
                             [&](int64_t i, uint32_t* room) {
                                 danlu::by_word(*whole, [&](auto word) {
                                     danlu::attend_whole_back<decltype(word)>(*whole, i / whole->kv_heads, i % whole->kv_heads, room);
                                 });
                             });
}

// Whether products are made by tiles here, and so the gradients of their weights.
int32_t danlu_tiled() { return danlu::tiles_granted(); }

// The gradient of a product's weights, and of its bias: `weight` and `bias` are made. 1 if there was no memory.
int32_t danlu_weight_gradient(const danlu::WeightGradient* gradient, int32_t threads) {
    const int64_t blocks = gradient->outs / danlu::GRADIENT_BLOCK;
    return danlu::numbers_by(threads, danlu::GRADIENT_ROOM, threads, [&](int64_t thread, uint32_t* room) {
        const int64_t begin = blocks * thread / threads, end = blocks * (thread + 1) / threads;
        if (begin < end) danlu::gradient_part(*gradient, begin * danlu::GRADIENT_BLOCK, end * danlu::GRADIENT_BLOCK, room);
    });
}
}
