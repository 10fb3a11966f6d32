// The pool of threads: every chunk once, nothing nested in parallel, callers beside each other, scratch that stays.
#include "../../native/cpu/pool.h"
#include <atomic>
#include <chrono>
#include <stdio.h>
#include <stdlib.h>
#include <thread>
#include <vector>

namespace {

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #what); \
            exit(1); \
        } \
    } while (false)

void runs_every_chunk_once() {
    for (int threads : {1, 2, 3, 8}) {
        lr::set_threads(threads);
        CHECK(lr::threads() == threads);
        for (int64_t chunks : {0, 1, 2, 3, 7, 64, 5000}) {
            std::vector<std::atomic<int>> runs(static_cast<size_t>(chunks));
            lr::parallel_for(chunks, [&](int64_t c) { runs[static_cast<size_t>(c)].fetch_add(1); });
            for (auto& n : runs) CHECK(n.load() == 1);
        }
    }
}

void covers_ranges_in_chunks_that_do_not_depend_on_threads() {
    for (int64_t count : {0, 1, 16384, 16385, 100003}) {
        std::vector<int64_t> before;
        for (int threads : {1, 4}) {
            lr::set_threads(threads);
            std::vector<int64_t> begins(static_cast<size_t>(count) + 1, -1);
            lr::parallel_range(count, 1, [&](int64_t a, int64_t b) {
                CHECK(0 <= a && a < b && b <= count);
                for (int64_t i = a; i < b; ++i) begins[static_cast<size_t>(i)] = a;
            });
            for (int64_t i = 0; i < count; ++i) CHECK(begins[static_cast<size_t>(i)] >= 0);
            CHECK(before.empty() || before == begins);
            before = begins;
        }
    }
}

void nested_loops_run_where_they_are_called() {
    lr::set_threads(4);
    std::atomic<int> inner{0}, strangers{0};
    lr::parallel_for(16, [&](int64_t) {
        const auto self = std::this_thread::get_id();
        int64_t expected = 0;
        lr::parallel_for(5, [&](int64_t c) {
            if (std::this_thread::get_id() != self || c != expected++) ++strangers;
            ++inner;
        });
    });
    CHECK(inner == 80 && strangers == 0);
}

void short_loops_follow_each_other() {
    lr::set_threads(3);
    int64_t total = 0;
    for (int loop = 0; loop < 20000; ++loop) {
        int64_t parts[4] = {};
        lr::parallel_for(4, [&](int64_t c) { parts[c] = loop + c; });
        total += parts[0] + parts[1] + parts[2] + parts[3];
    }
    CHECK(total == 4 * (int64_t(20000) * 19999 / 2) + 20000 * 6);
}

void callers_do_not_disturb_each_other() {
    lr::set_threads(4);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < 3; ++t)
        callers.emplace_back([&wrong, t] {
            for (int loop = 0; loop < 500; ++loop) {
                std::vector<int64_t> parts(33);
                lr::parallel_for(33, [&](int64_t c) { parts[static_cast<size_t>(c)] = c * t + loop; });
                for (int64_t c = 0; c < 33; ++c) wrong += parts[static_cast<size_t>(c)] != c * t + loop;
            }
        });
    for (int threads : {1, 5, 2, 64, 3}) {
        lr::set_threads(threads);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    for (auto& caller : callers) caller.join();
    CHECK(wrong == 0);
}

void sleeping_bodies_are_waited_for() {
    lr::set_threads(4);
    for (int loop = 0; loop < 3; ++loop) {
        std::atomic<int> done{0};
        lr::parallel_for(9, [&](int64_t) {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            ++done;
        });
        CHECK(done == 9);
        std::this_thread::sleep_for(std::chrono::milliseconds(3)); // workers fall asleep between the loops
    }
}

void thread_counts_are_bounded() {
    lr::set_threads(0);
    CHECK(lr::threads() == 1);
    lr::set_threads(1000);
    CHECK(lr::threads() == 64);
    CHECK(lr::set_threads(2) == 64);
}

void scratch_grows_stays_and_fails_cleanly() {
    float* small = lr::scratch(0, 10);
    CHECK(small && reinterpret_cast<uintptr_t>(small) % 64 == 0);
    small[9] = 3;
    CHECK(lr::scratch(0, 10) == small && small[9] == 3);
    float* other = lr::scratch(1, 10);
    CHECK(other && other != small);
    float* large = lr::scratch(0, 1 << 20);
    CHECK(large);
    large[(1 << 20) - 1] = 1;
    CHECK(lr::scratch(2, int64_t(1) << 56) == nullptr);
    CHECK(lr::scratch(2, 100) != nullptr);
    std::thread([&] { CHECK(lr::scratch(1, 10) != other); }).join();
}

} // namespace

int main() {
    runs_every_chunk_once();
    covers_ranges_in_chunks_that_do_not_depend_on_threads();
    nested_loops_run_where_they_are_called();
    short_loops_follow_each_other();
    callers_do_not_disturb_each_other();
    sleeping_bodies_are_waited_for();
    thread_counts_are_bounded();
    scratch_grows_stays_and_fails_cleanly();
    puts("pool: ok");
}
