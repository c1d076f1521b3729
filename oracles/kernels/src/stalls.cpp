// Stalls threads in the middle of a kernel, so that a race need not wait for an unlucky schedule: a kernel compiled with
// -fsanitize-coverage=trace-pc calls this in every basic block, and now and then the caller sleeps while the other threads go on.
// That is the noise maker of ConTest (Multithreaded Java program test generation), for C++.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <ctime>

namespace {

constexpr int STALLS = 6;                  // of one thread in one call
constexpr double DEPTHS[] = {8, 14, 20};   // blocks between two of them: up to 2 to the power of this, every magnitude as often

std::atomic<uint64_t> run{0};  // 0 or even: nobody is stalled

struct Thread {
    uint64_t run = 0, state = 0;
    int64_t blocks = 0;  // until the next stall
    int stalls = 0;      // that are left

    // SplitMix64
    uint64_t next() {
        uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    void wait() { blocks = (int64_t)std::exp2(DEPTHS[run / 2 % 3] * (double)(next() >> 11) / 9007199254740992.0); }
};

thread_local Thread mine;

void stall(Thread &thread, uint64_t now) {
    if (thread.run != now) {
        thread.run = now;
        thread.state = now * 0x9E3779B97F4A7C15u ^ (uint64_t)(uintptr_t)&thread;
        thread.stalls = STALLS;
    } else {
        const timespec t = {0, 30000 + (long)(thread.next() % 400000)};
        nanosleep(&t, nullptr);
        thread.stalls--;
    }
    thread.wait();
}

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
    const uint64_t now = run.load(std::memory_order_relaxed);
    if (!(now & 1)) return;
    Thread &thread = mine;
    if (thread.run != now || (thread.stalls > 0 && --thread.blocks < 0)) stall(thread, now);
}

extern "C" void stalls_begin() { run.fetch_or(1); }
extern "C" void stalls_end() { run.fetch_add(1); }
