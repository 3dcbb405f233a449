// One step of a decoder: new positions of many sequences at once, from token ids to logits, in one call.
// The same source is compiled for several instruction sets; Python loads the one that the processor has.
#include <algorithm>
#include <cstdlib>

#include "attention.h"
#include "drawing.h"
#include "model.h"
#include "products.h"
#include "threads.h"
#include "tiles.h"
#include "vectors.h"

namespace danlu {
namespace {

constexpr int SHORT = 256;  // positions that stay in the cache while one query after another looks at them
constexpr int ALONE = 2;    // so few rows are prepared by every thread for itself: quicker than waiting for another

// Memory that starts at a multiple of 64 bytes and grows when it must.
class Buffer {
  public:
    ~Buffer() { std::free(start); }
    template <class T>
    T* room(size_t count) {
        const size_t bytes = (count * sizeof(T) + 64 + 63) / 64 * 64;
        if (bytes > size) {
            std::free(start);
            start = std::aligned_alloc(64, bytes);
            size = start ? bytes : 0;
            if (!start) throw std::bad_alloc();
        }
        return (T*)start;
    }

  private:
    void* start = nullptr;
    size_t size = 0;
};

struct RowsBuffer {
    Buffer values, scales, starts, lows;

    // Room for rows of any product of up to so many columns; before threads share it.
    void reserve(int rows, int columns) {
        const size_t numbers = (size_t)rows * padded(columns);
        values.room<float>(numbers), scales.room<float>(numbers / FINE), starts.room<int32_t>(numbers / FINE),
            lows.room<float>(numbers / GROUP);
    }
    Rows rows_for(const Matrix& m) {
        return {m.kind, padded(m.columns), values.room<uint8_t>(0), scales.room<float>(0), starts.room<int32_t>(0), lows.room<float>(0)};
    }
    static int padded(int columns) { return (columns + GROUP - 1) / GROUP * GROUP; }
};

struct Given {       // the rows that a product reads
    Rows said;       // of answers, and all where there are no tiles
    uint16_t* read;  // of prompts, as bfloat16
    int split;       // the first that is read
};

struct Item {  // some rows of one sequence
    int row, rows, first_page;
};

const float* normalise(const Norm& norm, const float* x, float* to, int count) {
    Floats squares = {}, total = {};
    float mean = 0, rest = 0, rest_total = 0;
    const int whole = count / LANES * LANES;
    if (norm.bias) {
        for (int i = 0; i < whole; i += LANES) total += load<Floats>(x + i);
        for (int i = whole; i < count; i++) rest_total += x[i];
        mean = (sum(total) + rest_total) / count;
    }
    for (int i = 0; i < whole; i += LANES) {
        Floats centred = load<Floats>(x + i) - mean;
        squares = multiply_add(centred, centred, squares);
    }
    for (int i = whole; i < count; i++) rest += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / std::sqrt((sum(squares) + rest) / count + norm.epsilon);
    for (int i = 0; i < count; i++) to[i] = (x[i] - mean) * scale * norm.weight[i] + (norm.bias ? norm.bias[i] : 0);
    return to;
}

Floats activate(int32_t activation, Floats x) {
    if (activation == RELU) return larger(x, Floats{});
    if (activation == SILU) return x / (1.0f + exponential(-x));
    if (activation == GELU_TANH) {
        Floats inner = 0.7978845608f * (x + 0.044715f * x * x * x);
        return x / (1.0f + exponential(-2.0f * inner));  // (1 + tanh u) / 2 = 1 / (1 + e^(-2 u))
    }
    float lanes[LANES];
    store(lanes, x);
    for (float& lane : lanes) lane = lane * 0.5f * (1.0f + std::erf(lane * 0.70710678f));
    return load<Floats>(lanes);
}

class Engine {
  public:
    explicit Engine(int threads) : team(threads), own_rows(threads), own_room(threads) {}
    void step(const Model& model, const Step& step);

  private:
    friend class Walk;
    Team team;
    Buffer stream, heads, mixed, hidden;
    RowsBuffer shared_rows;
    Buffer read_rows;
    std::vector<RowsBuffer> own_rows;
    std::vector<Buffer> own_room;
};

// What one thread does of one step. Phases that need each other's results are parted by meetings; within a phase threads take what is next.
class Walk {
  public:
    Walk(Engine& engine, const Model& model, const Step& step, std::vector<std::atomic<int>>& counters, const std::vector<Item>& items,
         int thread)
        : engine(engine),
          model(model),
          step(step),
          counters(counters),
          items(items),
          thread(thread),
          threads(engine.team.size),
          rows(step.rows),
          said(step.rows - (tiles_granted() ? step.read : 0)) {
        width = model.width;
        query_width = model.num_heads * model.head_dim;
        key_width = model.num_kv_heads * model.head_dim;
        head_width = query_width + 2 * key_width;
        head_stride = (head_width + LANES - 1) / LANES * LANES;
        longest = *std::max_element(step.positions, step.positions + rows) + 1;
    }

    void walk(float* stream, float* heads, float* mixed, float* hidden) {
        share(rows, [&](int row) { embed(row, stream + (size_t)row * width); });
        meet();
        for (int l = 0; l < model.num_layers; l++) {
            const Layer& layer = model.layers[l];
            const Given x = prepare(layer.query_key_value, [&](int row, float* room) {
                return normalise(layer.attention_norm, stream + (size_t)row * width, room, width);
            });
            product(layer.query_key_value, x,
                    [&](int panel, int row, Floats y, Floats) { store(heads + (size_t)row * head_stride + panel * LANES, y); });
            meet();
            share(rows, [&](int row) { place(layer, l, row, heads + (size_t)row * head_stride); });
            meet();
            look(l, heads, mixed);
            meet();
            if (l == model.num_layers - 1) said = rows;                 // few are left from here on
            if (l == model.num_layers - 1 && step.num_wanted < rows) {  // nobody asks for the others any more
                if (thread == 0)
                    for (int i = 0; i < step.num_wanted; i++) {
                        std::memmove(mixed + (size_t)i * query_width, mixed + (size_t)step.wanted[i] * query_width,
                                     query_width * sizeof(float));
                        std::memmove(stream + (size_t)i * width, stream + (size_t)step.wanted[i] * width, width * sizeof(float));
                    }
                rows = said = step.num_wanted;
                meet();
            }
            const Given y = prepare(layer.output, [&](int row, float*) { return mixed + (size_t)row * query_width; });
            product(layer.output, y, [&](int panel, int row, Floats z, Floats) { add(stream, row, panel, z); });
            meet();
            const Given z = prepare(layer.up, [&](int row, float* room) {
                return normalise(layer.feedforward_norm, stream + (size_t)row * width, room, width);
            });
            const int hidden_stride = (model.hidden_width + LANES - 1) / LANES * LANES;
            product(layer.up, z, [&](int panel, int row, Floats gate, Floats up) {
                Floats bent = activate(model.activation, gate);
                store(hidden + (size_t)row * hidden_stride + panel * LANES, layer.up.pairs ? bent * up : bent);
            });
            meet();
            const Given h = prepare(layer.down, [&](int row, float*) { return hidden + (size_t)row * hidden_stride; });
            product(layer.down, h, [&](int panel, int row, Floats w, Floats) { add(stream, row, panel, w); });
            meet();
        }
        if (!step.num_wanted) return;
        const Given x =
            prepare(model.head, [&](int row, float* room) { return normalise(model.norm, stream + (size_t)row * width, room, width); });
        const int size = model.vocabulary_size;
        product(model.head, x, [&](int panel, int row, Floats y, Floats) {
            float* to = step.logits + (size_t)row * size + panel * LANES;
            if ((panel + 1) * LANES <= size) store(to, y);
            else std::memcpy(to, &y, (size - panel * LANES) * sizeof(float));
        });
        meet();
        share(rows, [&](int row) { read(row); });
    }

  private:
    Engine& engine;
    const Model& model;
    const Step& step;
    std::vector<std::atomic<int>>& counters;
    const std::vector<Item>& items;
    const int thread, threads;
    int rows, said, phase = 0, width, query_width, key_width, head_width, head_stride, longest;

    void meet() { engine.team.meet(); }
    std::atomic<int>& next() { return counters[phase++]; }

    template <class Work>
    void share(int count, Work work) {
        auto& taken = next();
        const int chunk = std::max(1, count / (threads * 8));
        for (int begin; (begin = taken.fetch_add(chunk, std::memory_order_relaxed)) < count;)
            for (int i = begin; i < std::min(count, begin + chunk); i++) work(i);
    }

    // The rows that a product with m reads; `make(row, room)` says where each one's numbers are, maybe in the room.
    template <class Make>
    Given prepare(const Matrix& m, Make make) {
        const int split = m.kind == FLOAT32 ? rows : said, columns = RowsBuffer::padded(m.columns);
        const bool alone = rows <= ALONE && split == rows;
        const Given to{(alone ? engine.own_rows[thread] : engine.shared_rows).rows_for(m), engine.read_rows.room<uint16_t>(0), split};
        float* room = engine.own_room[thread].room<float>(0);
        auto one = [&](int row) {
            const float* numbers = make(row, room);
            if (row < split) put_row(to.said, row, numbers, m.columns);
            else put_read_row(to.read + (size_t)(row - split) * columns, numbers, m.columns, columns);
        };
        if (alone) {
            for (int row = 0; row < rows; row++) one(row);
        } else {
            share(rows, one);
            meet();
        }
        return to;
    }

    // This thread's share of x W^T: `sink` as in multiply.
    template <class Sink>
    void product(const Matrix& m, const Given& x, Sink sink) {
        if (x.split) multiply(m, x.said, x.split, threads, next(), sink);
        if (x.split < rows)
            multiply_read(m, x.read, rows - x.split, threads, next(), engine.own_room[thread].room<float>(0),
                          [&](int panel, int row, Floats first, Floats second) { sink(panel, x.split + row, first, second); });
    }

    void embed(int row, float* to) {
        read_row(model.embedding, step.tokens[row], to, width);
        if (model.positions)
            for (int i = 0; i < width; i++) to[i] += model.positions[(size_t)step.positions[row] * width + i];
    }

    void add(float* stream, int row, int panel, Floats y) {
        float* to = stream + (size_t)row * width + panel * LANES;
        if ((panel + 1) * LANES <= width) return store(to, load<Floats>(to) + y);
        float lanes[LANES];
        store(lanes, y);
        for (int i = 0; i < width - panel * LANES; i++) to[i] += lanes[i];
    }

    size_t page_size() const { return page_bytes(model.cache_kind, model.head_dim); }
    uint8_t* pages_of(int layer, int head) const {
        return step.cache + ((size_t)layer * model.num_kv_heads + head) * step.num_pages * page_size();
    }

    // Queries and keys of a row are normalised and turned to its position; its keys and values go to the cache.
    void place(const Layer& layer, int index, int row, float* heads) {
        const int position = step.positions[row], dim = model.head_dim, half = dim / 2;
        for (int h = 0; h < model.num_heads + model.num_kv_heads; h++) {
            float* x = heads + h * dim;
            const Norm& norm = h < model.num_heads ? layer.query_norm : layer.key_norm;
            if (norm.weight) normalise(norm, x, x, dim);
            if (model.cosines) {
                const float *cosines = model.cosines + (size_t)position * half, *sines = model.sines + (size_t)position * half;
                for (int e = 0; e < half; e++) {
                    const float first = x[e], second = x[e + half];
                    x[e] = first * cosines[e] - second * sines[e];
                    x[e + half] = second * cosines[e] + first * sines[e];
                }
            }
            if (h < model.num_heads)
                for (int e = 0; e < dim; e++) x[e] *= model.score_scale;
        }
        const Item& item = *(std::upper_bound(items.begin(), items.end(), row, [](int r, const Item& i) { return r < i.row; }) - 1);
        const int page = step.pages[item.first_page + position / PAGE];
        for (int h = 0; h < model.num_kv_heads; h++)
            put_position(pages_of(index, h) + page * page_size(), model.cache_kind, position % PAGE, dim, heads + query_width + h * dim,
                         heads + query_width + key_width + h * dim);
    }

    // Attention of all rows: some rows and one head of keys at a time; with few of them, each query by itself.
    void look(int layer, float* heads, float* mixed) {
        const int grouped = model.num_heads / model.num_kv_heads, dim = model.head_dim;
        const bool fine = (int)items.size() * model.num_kv_heads < 4 * threads && grouped > 1 && longest <= SHORT;
        const int per_item = fine ? model.num_heads : model.num_kv_heads;
        auto& taken = next();
        for (int i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < (int)items.size() * per_item;) {
            const Item& item = items[i / per_item];
            const int head = fine ? i % per_item / grouped : i % per_item, first = fine ? i % per_item : head * grouped;
            Queries asked;
            auto flush = [&] {
                Pages pages{pages_of(layer, head), step.pages + item.first_page, page_size(), key_bytes(model.cache_kind, dim)};
                attend(pages, model.cache_kind, dim, asked, engine.own_room[thread].room<float>(0));
                asked.count = 0;
            };
            for (int row = item.row; row < item.row + item.rows; row++)
                for (int h = first; h < first + (fine ? 1 : grouped); h++) {
                    const int n = asked.count++;
                    asked.query[n] = heads + (size_t)row * head_stride + h * dim;
                    asked.mixed[n] = mixed + (size_t)row * query_width + h * dim;
                    asked.seen[n] = step.positions[row] + 1;
                    if (asked.count == MOST_QUERIES) flush();
                }
            if (asked.count) flush();
        }
    }

    // The likeliest token of a row, the first of several, and whether all its numbers are finite.
    void read(int row) {
        const float* logits = step.logits + (size_t)row * model.vocabulary_size;
        const int size = model.vocabulary_size, whole = size / LANES * LANES;
        Floats best = all(-INFINITY), total = {};
        for (int i = 0; i < whole; i += LANES) {
            Floats x = load<Floats>(logits + i);
            best = larger(best, x);
            total += x * 0.0f;
        }
        float top = largest(best), check = sum(total);
        for (int i = whole; i < size; i++) top = std::max(top, logits[i]), check += logits[i] * 0.0f;
        int at = 0;
        while (at < size - 1 && logits[at] != top) at++;
        step.likeliest[row] = at;
        step.finite[row] = check == 0.0f;
    }
};

void Engine::step(const Model& model, const Step& step) {
    const size_t rows = step.rows, heads_width = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim;
    float* x = stream.room<float>(rows * model.width);
    float* h = heads.room<float>(rows * ((heads_width + LANES - 1) / LANES * LANES));
    float* m = mixed.room<float>(rows * model.num_heads * model.head_dim);
    float* f = hidden.room<float>(rows * ((model.hidden_width + LANES - 1) / LANES * LANES));
    std::vector<Item> items;
    const int tile = std::max(1, MOST_QUERIES / (model.num_heads / model.num_kv_heads));
    for (int part = 0, row = 0; part < step.parts; row += step.part_rows[part++])
        for (int done = 0; done < step.part_rows[part]; done += tile)
            items.push_back({row + done, std::min(tile, step.part_rows[part] - done), step.part_first_page[part]});
    // Room for all that a thread may meet is made before they start, so that nothing can fail between two meetings.
    const int widest = std::max({model.width, model.num_heads * model.head_dim, model.hidden_width});
    const int longest = *std::max_element(step.positions, step.positions + rows) + 1;
    shared_rows.reserve((int)rows, widest);
    read_rows.room<uint16_t>((size_t)(step.read + READ_ROWS - 1) / READ_ROWS * READ_ROWS * RowsBuffer::padded(widest));
    for (auto& own : own_rows) own.reserve(ALONE, widest);
    const size_t room = std::max({attention_room(model.head_dim, longest), (size_t)widest + LANES, tiles_room(widest)});
    for (auto& own : own_room) own.room<float>(room);
    std::vector<std::atomic<int>> counters((size_t)model.num_layers * 16 + 8);
    team.run([&](int thread) { Walk(*this, model, step, counters, items, thread).walk(x, h, m, f); });
}

}  // namespace
}  // namespace danlu

extern "C" {

// Sizes of the structs as this library has them, and the number of its layouts: Python checks its own against them.
void danlu_sizes(int32_t* sizes) {
    sizes[4] = danlu::LAYOUT;
    sizes[0] = sizeof(danlu::Matrix), sizes[1] = sizeof(danlu::Layer), sizes[2] = sizeof(danlu::Model), sizes[3] = sizeof(danlu::Step);
}
// Whether prompts' rows are served by tiles: this build uses them, and the system grants them.
int32_t danlu_tiles() { return danlu::tiles_granted(); }
void* danlu_open(int32_t threads) {
    try {
        return new danlu::Engine(threads);
    } catch (...) {
        return nullptr;
    }
}
void danlu_close(void* engine) { delete (danlu::Engine*)engine; }

// 0, or 1 if there was no memory.
int32_t danlu_step(void* engine, const danlu::Model* model, const danlu::Step* step) {
    try {
        ((danlu::Engine*)engine)->step(*model, *step);
        return 0;
    } catch (...) {
        return 1;
    }
}

// y (rows, padded rows of the matrix) = x (rows, columns) W^T + bias, on one thread: what tests and figures of a kernel alone use. `read`:
// as rows of prompts.
int32_t danlu_multiply(const danlu::Matrix* matrix, const float* x, int32_t rows, int32_t read, float* y) {
    using namespace danlu;
    try {
        const int panels = (matrix->rows + LANES - 1) / LANES, columns = RowsBuffer::padded(matrix->columns);
        std::atomic<int> next{0};
        auto sink = [&](int panel, int row, Floats first, Floats second) {
            float* to = y + ((size_t)row * panels + panel * (matrix->pairs ? 2 : 1)) * LANES;
            store(to, first);
            if (matrix->pairs) store(to + LANES, second);
        };
        if (read && tiles_granted()) {
            Buffer numbers, room;
            auto* given = numbers.room<uint16_t>((size_t)(rows + READ_ROWS) * columns);
            for (int row = 0; row < rows; row++)
                put_read_row(given + (size_t)row * columns, x + (size_t)row * matrix->columns, matrix->columns, columns);
            multiply_read(*matrix, given, rows, 1, next, room.room<float>(tiles_room(columns)), sink);
            return 0;
        }
        RowsBuffer buffer;
        buffer.reserve(rows, matrix->columns);
        Rows prepared = buffer.rows_for(*matrix);
        for (int row = 0; row < rows; row++) put_row(prepared, row, x + (size_t)row * matrix->columns, matrix->columns);
        multiply(*matrix, prepared, rows, 1, next, sink);
        return 0;
    } catch (...) {
        return 1;
    }
}
}
