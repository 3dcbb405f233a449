// Tiles (AMX): 16 rows of 64 bytes, which one instruction multiplies. The system gives them to a process that asks.
#pragma once
#include <cstdint>
#if defined(__AMX_BF16__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace danlu {

#if defined(__AMX_BF16__)

constexpr int TILE = 16;  // rows of a tile

// Asks the system for the room that tiles take in every thread of this process.
inline bool tiles_granted() {
    static const bool granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
    return granted;
}

// All tiles are 16 rows of 64 bytes. 4 to 7 hold sums, the others what is multiplied.
inline void shape_tiles() {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, zeros[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    asm volatile("" : : "m"(shape));  // compilers believe that only its first bytes are read
    _tile_loadconfig(&shape);
}

// Before tiles are loaded: compilers do not know that these read memory.
inline void memory_is_read() { asm volatile("" : : : "memory"); }

#else

inline bool tiles_granted() { return false; }

#endif

}  // namespace danlu
