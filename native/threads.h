// A few threads that walk through one step together. Between steps they sleep; within one they wait for each other by watching a number.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace danlu {

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Team {
  public:
    explicit Team(int size) : size(size) {
        for (int i = 1; i < size; i++) threads.emplace_back([this, i] { serve(i); });
    }
    ~Team() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            closed = true;
        }
        woken.notify_all();
        for (auto& thread : threads) thread.join();
    }

    // Run work(thread) once on every thread, this one included; returns when all are done.
    void run(const std::function<void(int)>& work) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            job = &work;
            left.store(size - 1, std::memory_order_relaxed);
            round.fetch_add(1, std::memory_order_release);
        }
        woken.notify_all();
        work(0);
        for (int turn = 0; left.load(std::memory_order_acquire); turn++) linger(turn);
    }

    // Wait until all threads of the step are here.
    void meet() {
        if (size == 1) return;
        unsigned now = met.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            met.store(now + 1, std::memory_order_release);
        } else {
            for (int turn = 0; met.load(std::memory_order_acquire) == now; turn++) linger(turn);
        }
    }

    const int size;

  private:
    static constexpr int WATCHED = 2000;  // looks, some tens of microseconds, before the processor is offered to others

    static void linger(int turn) {
        if (turn < WATCHED) pause();
        else std::this_thread::yield();
    }

    void serve(int thread) {
        unsigned done = 0;
        while (true) {
            for (int turn = 0; turn < WATCHED && round.load(std::memory_order_acquire) == done; turn++) pause();
            {
                std::unique_lock<std::mutex> lock(mutex);
                woken.wait(lock, [&] { return closed || round.load(std::memory_order_relaxed) != done; });
                if (closed) return;
                done = round.load(std::memory_order_relaxed);
            }
            (*job)(thread);
            left.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> threads;
    std::mutex mutex;
    std::condition_variable woken;
    const std::function<void(int)>* job = nullptr;
    bool closed = false;
    alignas(64) std::atomic<unsigned> round{0};
    alignas(64) std::atomic<int> left{0};
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<unsigned> met{0};
};

}  // namespace danlu
