// Matrix instructions of a warp. Fragment maps (lane l, g = l/4, c = l%4) of m16n8: A register i holds row g + 8(i&1), columns 2c + {0,1} + 8(i>>1);
// B register i holds k = 2c + {0,1} + 8i of column g; D element i is row g + 8(i>>1), column 2c + (i&1).
#pragma once
#include "block.h"

// Matrix m's row j is at the address that lane 8m + j gives; lane l receives bytes 4(l%4) of row l/4 of each.
template <bool Transposed> LR_DEV void lr_ldmatrix(uint32_t (&r)[4], uint32_t address) {
    if (address % 16) emu::fail("lr_ldmatrix: a row's address is not a multiple of 16");
    emu::leave(address);
    emu::meet_lanes(~0u, "lr_ldmatrix");
    const uint32_t l = emu::lane();
    for (uint32_t m = 0; m < 4; ++m) {
        if (!Transposed) {
            memcpy(&r[m], emu::shared_at(emu::left_by<uint32_t>(m * 8 + l / 4), 16, "lr_ldmatrix") + l % 4 * 4, 4);
            continue;
        }
        uint16_t pair[2];
        for (uint32_t h = 0; h < 2; ++h) memcpy(&pair[h], emu::shared_at(emu::left_by<uint32_t>(m * 8 + l % 4 * 2 + h), 16, "lr_ldmatrix") + l / 4 * 2, 2);
        r[m] = pair[0] | uint32_t(pair[1]) << 16;
    }
    emu::meet_lanes(~0u, "lr_ldmatrix, leaving");
}
LR_DEV void lr_ldmatrix_x4(uint32_t (&r)[4], uint32_t address) { lr_ldmatrix<false>(r, address); }
LR_DEV void lr_ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) { lr_ldmatrix<true>(r, address); }

template <class Half> LR_DEV float lr_half_of(uint32_t packed, uint32_t which) { return lr_widen(Half{uint16_t(which ? packed >> 16 : packed)}); }

// d[16,8] += a[16,Steps] b[Steps,8] in float32, the operands `Packed` elements a register: element k of a row is in register k / (4 Packed) of the row's
// half, lane c = k / Packed % 4; element(register, k % Packed) is its value.
template <uint32_t Steps, uint32_t Packed, class Element> LR_DEV void lr_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* name, Element&& element) {
    for (int i = 0; i < 4; ++i) emu::leave(a[i], i);
    for (int i = 0; i < 2; ++i) emu::leave(b[i], 4 + i);
    emu::meet_lanes(~0u, name);
    const uint32_t l = emu::lane();
    for (uint32_t o = 0; o < 4; ++o) {
        const uint32_t row = l / 4 + (o >> 1) * 8, col = l % 4 * 2 + (o & 1);
        float sum = 0;
        for (uint32_t k = 0; k < Steps; ++k) {
            const uint32_t c = k / Packed % 4, high = k / (4 * Packed);
            sum += element(emu::left_by<uint32_t>(row % 8 * 4 + c, static_cast<int>((row >= 8) + 2 * high)), k % Packed) * element(emu::left_by<uint32_t>(col * 4 + c, static_cast<int>(4 + high)), k % Packed);
        }
        d[o] += sum;
    }
    emu::meet_lanes(~0u, name);
}

// m16n8k16: two 16-bit elements a register
template <class Half> LR_DEV void lr_mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    lr_mma<16, 2>(d, a, b, "lr_mma_16816", [](uint32_t packed, uint32_t which) { return lr_half_of<Half>(packed, which); });
}
