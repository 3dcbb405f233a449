// Normalisation of rows, with its gradient: each row is read once from memory, computed in float32 and written as the next product reads
// it. Sources: Ba et al. 2016, arXiv:1607.06450; Zhang & Sennrich 2019, arXiv:1910.07467. Gradients: with n the normalised row and g =
// y_back * weight, x_back = scale * (g - mean(g) - n * mean(g n)); without a mean taken away, mean(g) is left out.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "vectors.h"

namespace danlu {

constexpr int64_t NORM_PART = 64;  // rows whose gradients of weights are summed together, whatever the threads

// danlu/nn/native.py has the same. x, added, total, y and their gradients (rows, width); found: mean and scale of each row, (rows, 2);
// sums: gradients of weight and bias by each part, (parts, 2, width), or NULL if nobody asks for them. bfloat16 where `half_` says so, else
// float32. With `added`, the total of x and it is made and normalised; on the way back x is the total, total_back (or NULL) what else came
// back to it, and added_back (or NULL) takes the same as x_back.
struct NormRows {
    const void *x, *added, *y_back, *total_back;
    void *total, *y, *x_back, *added_back;
    const float *weight, *bias;  // no bias: NULL
    float *found, *sums;
    int64_t rows, width;  // the width is a multiple of 16
    int32_t half_x, half_added, half_y, centred;
    float epsilon;
};

template <bool HALF_X, bool HALF_ADDED, bool HALF_Y>
inline void norm_part(const NormRows& norm, int64_t part) {
    using X = Numbers<HALF_X>;
    using A = Numbers<HALF_ADDED>;
    using Y = Numbers<HALF_Y>;
    const int64_t width = norm.width;
    for (int64_t row = part * NORM_PART; row < std::min(norm.rows, (part + 1) * NORM_PART); row++) {
        const void* x = (const char*)norm.x + row * width * X::width;
        void* y = (char*)norm.y + row * width * Y::width;
        if (norm.added) {
            const void* added = (const char*)norm.added + row * width * A::width;
            void* total = (char*)norm.total + row * width * X::width;
            for (int64_t i = 0; i < width; i += LANES) X::store(total, i, X::load(x, i) + A::load(added, i));
            x = total;
        }
        Floats level = {}, squares = {};
        if (norm.centred)
            for (int64_t i = 0; i < width; i += LANES) level += X::load(x, i);
        const float mean = sum(level) / width;
        for (int64_t i = 0; i < width; i += LANES) {
            const Floats far = X::load(x, i) - mean;
            squares = multiply_add(far, far, squares);
        }
        const float square = sum(squares) / width;
        const float scale = 1 / std::sqrt(square + norm.epsilon) + square * 0;  // what overflows makes NaN, not zeros, so that it is seen
        norm.found[2 * row] = mean, norm.found[2 * row + 1] = scale;
        for (int64_t i = 0; i < width; i += LANES) {
            const Floats weighed = (X::load(x, i) - mean) * scale * load<Floats>(norm.weight + i);
            Y::store(y, i, norm.bias ? weighed + load<Floats>(norm.bias + i) : weighed);
        }
    }
}

template <bool HALF_X, bool HALF_ADDED, bool HALF_Y>
inline void norm_part_back(const NormRows& norm, int64_t part) {
    using X = Numbers<HALF_X>;
    using A = Numbers<HALF_ADDED>;
    using Y = Numbers<HALF_Y>;
    const int64_t width = norm.width;
    float *by_weight = norm.sums ? norm.sums + part * 2 * width : nullptr, *by_bias = by_weight + width;
    if (by_weight) std::fill(by_weight, by_bias + width, 0.0f);
    for (int64_t row = part * NORM_PART; row < std::min(norm.rows, (part + 1) * NORM_PART); row++) {
        const void *x = (const char*)norm.x + row * width * X::width, *back = (const char*)norm.y_back + row * width * Y::width;
        const void* total_back = norm.total_back ? (const char*)norm.total_back + row * width * X::width : nullptr;
        void* given = (char*)norm.x_back + row * width * X::width;
        void* added = norm.added_back ? (char*)norm.added_back + row * width * A::width : nullptr;
        const float mean = norm.found[2 * row], scale = norm.found[2 * row + 1];
        Floats slopes = {}, along = {};
        for (int64_t i = 0; i < width; i += LANES) {
            const Floats normed = (X::load(x, i) - mean) * scale, y_back = Y::load(back, i), slope = y_back * load<Floats>(norm.weight + i);
            slopes += slope;
            along = multiply_add(slope, normed, along);
            if (!by_weight) continue;
            store(by_weight + i, multiply_add(y_back, normed, load<Floats>(by_weight + i)));
            store(by_bias + i, load<Floats>(by_bias + i) + y_back);
        }
        const float level = norm.centred ? sum(slopes) / width : 0, share = sum(along) / width;
        for (int64_t i = 0; i < width; i += LANES) {
            const Floats normed = (X::load(x, i) - mean) * scale, slope = Y::load(back, i) * load<Floats>(norm.weight + i);
            Floats back_here = (slope - level - normed * share) * scale;
            if (total_back) back_here += X::load(total_back, i);
            X::store(given, i, back_here);
            if (added) A::store(added, i, back_here);
        }
    }
}

// Calls work(whether x is bfloat16, whether what is added is, whether y is, part) for all parts of the rows, by so many threads.
template <class Work>
inline void parts_by(const NormRows& norm, int32_t threads, Work work) {
    const std::true_type half;
    const std::false_type whole;
    const int64_t parts = (norm.rows + NORM_PART - 1) / NORM_PART;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        if (norm.half_x) work(half, half, half, part);
        else if (norm.half_y) work(whole, half, half, part);
        else if (norm.half_added) work(whole, half, whole, part);
        else work(whole, whole, whole, part);
    }
}

}  // namespace danlu
