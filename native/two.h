// A vector as two of half its width: for processors whose registers hold less than 16 numbers. Compilers keep these in registers, which
// they do not with vectors that are wider than the processor's.
#pragma once
#include <type_traits>
#include <utility>

namespace danlu {

template <class V>
struct Two {
    V low, high;

    template <class W>
    explicit operator Two<W>() const {  // the same bits
        return {(W)low, (W)high};
    }
    Two operator-() const { return {-low, -high}; }
    Two operator~() const { return {~low, ~high}; }
    Two& operator+=(Two other) { return *this = *this + other; }
};

template <class V>
struct Memory<Two<V>> {  // each half by itself: compilers copy the whole by way of other memory
    static Two<V> load(const void* from) { return {Memory<V>::load(from), Memory<V>::load((const char*)from + sizeof(V))}; }
    static void store(void* to, Two<V> value) {
        Memory<V>::store(to, value.low);
        Memory<V>::store((char*)to + sizeof(V), value.high);
    }
};

#define DANLU_OPERATOR(sign)                                                       \
    template <class V>                                                             \
    inline Two<V> operator sign(Two<V> a, Two<V> b) {                              \
        return {a.low sign b.low, a.high sign b.high};                             \
    }                                                                              \
    template <class V, class S, class = std::enable_if_t<std::is_arithmetic_v<S>>> \
    inline Two<V> operator sign(Two<V> a, S b) {                                   \
        return {a.low sign b, a.high sign b};                                      \
    }                                                                              \
    template <class V, class S, class = std::enable_if_t<std::is_arithmetic_v<S>>> \
    inline Two<V> operator sign(S a, Two<V> b) {                                   \
        return {a sign b.low, a sign b.high};                                      \
    }
DANLU_OPERATOR(+)
DANLU_OPERATOR(-)
DANLU_OPERATOR(*)
DANLU_OPERATOR(/)
DANLU_OPERATOR(&)
DANLU_OPERATOR(|)
DANLU_OPERATOR(<<)
DANLU_OPERATOR(>>)
#undef DANLU_OPERATOR

}  // namespace danlu
