// One token drawn from its logits. danlu/inference/sampling.py says the same in PyTorch's operations, which pass over the vocabulary a
// dozen times: every limit on what may be drawn is a least logit here, and all but the few tokens that can still win are left out by
// blocks.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "vectors.h"

namespace danlu {

constexpr float NEGLIGIBLE = 25.0f;  // nats below the likeliest
constexpr int DRAW_BLOCK = 64;       // tokens that are passed over together

struct Drawing {
    float temperature, top_p, min_p;  // top_p 1 and min_p 0: no limit
    int32_t top_k;                    // 0: no limit
    uint64_t key;                     // what a token's random number hangs on, beside the token
};

// A token's random number, of 53 bits. Source: Steele et al. 2014, doi:10.1145/2714064.2660195 (SplitMix64).
inline uint64_t number_of(uint64_t key, uint64_t token) {
    uint64_t x = token * 0x9E3779B97F4A7C15u + key;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (x ^ (x >> 31)) >> 11;
}

// The logarithm of an exponentially distributed number: the least number / probability is drawn with that probability (Gumbel 1954).
inline float log_wait(uint64_t number) {
    const auto uniform = (float)(((double)number + 0.5) * 0x1p-53);
    return std::log(-std::log1p(-std::min(uniform, 1.0f - 0x1p-24f)));
}

inline float largest_of(const float* x, int count) {
    Floats most = all(-INFINITY);
    int i = 0;
    for (; i + LANES <= count; i += LANES) most = larger(most, load<Floats>(x + i));
    float found = largest(most);
    for (; i < count; i++) found = std::max(found, x[i]);
    return found;
}

class Draw {
  public:
    Draw(const float* logits, int size, const Drawing& how) : logits(logits), size(size), how(how) {
        for (int block = 0; block < size; block += DRAW_BLOCK) most.push_back(largest_of(logits + block, length(block)));
        best = *std::max_element(most.begin(), most.end());
    }

    int token() {
        if (how.top_k > 0 && how.top_k < size) least = largest_but(how.top_k - 1);
        if (how.top_p < 1) least = std::max(least, least_of_share());
        const float nats = how.min_p > 0 ? std::min(-std::log(how.min_p), NEGLIGIBLE) : NEGLIGIBLE;
        least = std::max(least, best - nats * how.temperature);
        return winner();
    }

  private:
    const float* logits;
    const int size;
    const Drawing& how;
    std::vector<float> most;  // of each block
    float best, least = -INFINITY;

    int length(int block) const { return std::min(DRAW_BLOCK, size - block); }

    // All logits from a bound upwards.
    std::vector<float> from(float bound) const {
        std::vector<float> found;
        for (int block = 0; block < size; block += DRAW_BLOCK)
            if (most[block / DRAW_BLOCK] >= bound)
                for (int i = block; i < block + length(block); i++)
                    if (logits[i] >= bound) found.push_back(logits[i]);
        return found;
    }

    // The largest logit but `count`.
    float largest_but(int count) const {
        for (float nats = 4;; nats *= 2) {  // few are looked at first
            auto found = from(nats < 1e3f ? best - nats : -INFINITY);
            if ((int)found.size() <= count) continue;
            std::nth_element(found.begin(), found.begin() + count, found.end(), std::greater<float>());
            return found[count];
        }
    }

    // The summed probabilities of some logits, in the likeliest token's.
    float share_of(const float* x, int count) const {
        Floats sums = {};
        for (int i = 0; i < count; i += LANES) {
            float lanes[LANES];
            if (i + LANES > count) {
                std::fill(lanes, lanes + LANES, -INFINITY);
                std::memcpy(lanes, x + i, (count - i) * sizeof(float));
            }
            sums += exponential((load<Floats>(i + LANES > count ? lanes : x + i) - best) * (1 / how.temperature));
        }
        return sum(sums);
    }

    // The least of the fewest largest logits that hold the share top_p. Source: Holtzman et al. 2020, arXiv:1904.09751.
    float least_of_share() const {
        const bool limited = least > -INFINITY;
        std::vector<float> found = limited ? from(least) : std::vector<float>();
        float wanted = how.top_p * (limited ? share_of(found.data(), (int)found.size()) : share_of(logits, size));
        for (float nats = 2;; nats *= 2) {  // few are looked at first
            const bool everything = nats > 1e3f;
            found = from(everything ? least : std::max(least, best - nats * how.temperature));
            if (everything || share_of(found.data(), (int)found.size()) >= wanted) break;
        }
        // The upper half of what is left holds the least one, or comes before it.
        auto begin = found.begin(), end = found.end();
        while (end - begin > 1) {
            const auto middle = begin + (end - begin) / 2;
            std::nth_element(begin, middle, end, std::greater<float>());
            const float share = share_of(&*begin, (int)(middle - begin));
            if (share >= wanted) {
                end = middle;
            } else {
                wanted -= share;
                begin = middle;
            }
        }
        return *begin;
    }

    // The token with the largest logit / temperature - log(wait).
    int winner() const {
        int token = (int)(std::find(logits, logits + size, best) - logits);
        float score = -log_wait(number_of(how.key, token));
        for (int block = 0; block < size; block += DRAW_BLOCK) {
            const float nearest = most[block / DRAW_BLOCK];
            if (nearest < least) continue;
            // To win, a wait must be under e^(logit / temperature - score), so a random number under that share of 2^53, at most.
            const float share = std::exp((nearest - best) / how.temperature - score) * 1.001f;
            const uint64_t bound = share < 1 ? (uint64_t)(share * 0x1p53f) + 1 : UINT64_MAX;
            uint64_t numbers[DRAW_BLOCK], fewest = UINT64_MAX;
            for (int i = 0; i < DRAW_BLOCK; i++) numbers[i] = number_of(how.key, block + i);
            for (int i = 0; i < DRAW_BLOCK; i++) fewest = std::min(fewest, numbers[i]);
            if (fewest > bound) continue;
            for (int i = 0; i < length(block); i++) {
                if (numbers[i] > bound || logits[block + i] < least) continue;
                const float other = (logits[block + i] - best) / how.temperature - log_wait(numbers[i]);
                if (other > score) token = block + i, score = other;
            }
        }
        return token;
    }
};

}  // namespace danlu

extern "C" {

// The token that is drawn from `size` logits, none of which is NaN, and not all of which are -infinity; -1 if there was no memory.
int32_t danlu_draw(const float* logits, int32_t size, const danlu::Drawing* how) {
    try {
        return danlu::Draw(logits, size, *how).token();
    } catch (...) {
        return -1;
    }
}
}
