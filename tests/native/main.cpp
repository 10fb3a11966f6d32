// Every kernel of LR_KERNELS on ragged shapes, in every instruction set of the machine; fails if one has no case.
#include "check.h"

namespace test {

namespace {
#if defined(LR_ASAN)
constexpr int64_t Guard = 0;
#else
constexpr int64_t Guard = 72; // keeps float64 aligned and nothing wider
#endif
constexpr unsigned char Mark = 0xA5;

// Fraction bits below the leading one and the smallest exponent of a 16-bit type
double rounded(double v, int fraction, int smallest) {
    if (v == 0 || !isfinite(v)) return v;
    const int e = ilogb(v) < smallest ? smallest : ilogb(v);
    return ldexp(nearbyint(ldexp(v, fraction - e)), e - fraction);
}
} // namespace

int size_of(int32_t dtype) { return dtype == LR_F64 || dtype == LR_I64 ? 8 : dtype == LR_BF16 || dtype == LR_F16 ? 2 : dtype == LR_U8 ? 1 : 4; }

double get(const void* data, int32_t dtype, int64_t i) {
    auto as = [&]<class T>(T v) {
        memcpy(&v, static_cast<const char*>(data) + i * int64_t(sizeof v), sizeof v);
        return v;
    };
    if (dtype == LR_F64) return as(double{});
    if (dtype == LR_I32) return as(int32_t{});
    if (dtype == LR_U8) return as(uint8_t{});
    if (dtype == LR_F32) return double(as(float{}));
    const uint16_t h = as(uint16_t{});
    if (dtype == LR_BF16) {
        const uint32_t u = uint32_t(h) << 16;
        float f;
        memcpy(&f, &u, sizeof f);
        return double(f);
    }
    const int e = h >> 10 & 31;
    const double m = h & 1023, v = e == 31 ? (m != 0 ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

void set(void* data, int32_t dtype, int64_t i, double value) {
    auto to = [&](auto v) { memcpy(static_cast<char*>(data) + i * int64_t(sizeof v), &v, sizeof v); };
    if (dtype == LR_F64) to(value);
    else if (dtype == LR_I32) to(int32_t(value));
    else if (dtype == LR_U8) to(uint8_t(value));
    else if (dtype == LR_F32) to(float(value));
    else if (dtype == LR_BF16) {
        const float f = float(rounded(value, 7, -126));
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        to(uint16_t(u >> 16));
    } else {
        const double r = rounded(fabs(value), 10, -14);
        const uint16_t sign = signbit(value) ? 0x8000 : 0;
        uint16_t bits;
        if (isnan(value)) bits = 0x7E00;
        else if (r >= 65536) bits = 0x7C00;
        else if (r < 0x1p-14) bits = uint16_t(ldexp(r, 24));
        else bits = uint16_t((ilogb(r) + 15) << 10 | (int(ldexp(r, 10 - ilogb(r))) & 1023));
        to(uint16_t(bits | sign));
    }
}

Buffer::Buffer(int32_t type, int64_t n) : dtype(type), count(n) {
    const size_t size = size_t(n) * size_t(size_of(type));
    block = static_cast<char*>(malloc(size + 2 * Guard + (size + Guard == 0)));
    data = block + Guard;
    memset(block, Mark, size + 2 * Guard);
    start.assign(data, data + size);
}

bool Buffer::guards_hold() const {
    for (int64_t i = 0; i < Guard; ++i)
        if (static_cast<unsigned char>(block[i]) != Mark || static_cast<unsigned char>(data[int64_t(start.size()) + i]) != Mark) return false;
    return true;
}

Buffer random_buffer(int32_t dtype, int64_t count, double scale) {
    Buffer b(dtype, count);
    for (int64_t i = 0; i < count; ++i) b.put(i, scale * (uniform() + uniform() + uniform()));
    return b;
}

Buffer ids_buffer(int64_t count, int limit) {
    Buffer b(LR_I32, count);
    for (int64_t i = 0; i < count; ++i) b.put(i, floor((uniform() + 1) / 2 * limit));
    return b;
}

Buffer mask_buffer(int64_t rows, int64_t cols) {
    Buffer b(LR_U8, rows * cols);
    for (int64_t i = 0; i < rows * cols; ++i) b.put(i, i % cols == 0 || uniform() > -0.3);
    return b;
}

// The generator as its authors state it, one counter at a time
double philox(uint64_t seed, uint64_t stream, int64_t index) {
    uint32_t c[4] = {uint32_t(index / 4), uint32_t(uint64_t(index / 4) >> 32), uint32_t(stream), uint32_t(stream >> 32)}, k[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (int round = 0; round < 10; ++round, k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u) {
        const uint64_t a = uint64_t(c[0]) * 0xD2511F53u, b = uint64_t(c[2]) * 0xCD9E8D57u;
        const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ k[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k[1], uint32_t(a)};
        memcpy(c, next, sizeof c);
    }
    return double(c[index % 4] >> 8) * 0x1p-24;
}

double error_of(const Buffer& b, const std::vector<double>& want) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < b.count; ++i) {
        const double got = b.now(i), w = want[size_t(i)];
        norm += isfinite(w) ? w * w : 0;
        if (got != w && !(isnan(got) && isnan(w))) difference += (got - w) * (got - w);
    }
    return sqrt(difference) / (norm > 0 ? sqrt(norm) : 1);
}

} // namespace test

int main() {
    test::pointwise();
    test::rows();
    test::attention();
    test::products();
    test::quantised();
    test::cosines();
    test::wavelets();
    test::sparse();
    test::merging();
#define LR_COVERED(name, Args) \
    if (!test::covered.count(#name)) test::fail(#name, "no case runs it");
    LR_KERNELS(LR_COVERED)
    printf("%zu kernels on %zu instruction sets: %d failures\n", test::covered.size(), test::levels_here(), test::failures);
    return test::failures != 0;
}
