// What Python hands over: a model as a table of layers, and one step's work. kernels/native.py mirrors these structs field by field.
#pragma once
#include <cstdint>

namespace danlu {

constexpr int32_t LAYOUT = 3;  // raised, here and in native.py, with the layout of panels, pages and structs, and with functions

enum Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };
enum Activation : int32_t { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3 };

// y = W x + bias. W's rows come in panels of 16 that lie side by side in memory, so that one vector holds 16 rows:
//   FLOAT32   columns x 16 numbers
//   BFLOAT16  columns / 2 x 16 x 2 numbers
//   INT8      groups, each 8 x 16 x 4 unsigned bytes, then 16 scales, then 16 minimums if there are any
//   INT4      groups, each 4 x 16 x 4 bytes (low halves: columns 0 to 15 of the group, high halves: 16 to 31), scales, minimums as above
// A group is 32 columns; a weight is scale * q + minimum, both float16. Columns are padded to 32, rows to 16, with zeros. In INT8 with
// minimums q is at most 15: such weights had 4 bits before they were widened.
struct Matrix {
    const uint8_t* panels;
    const float* bias;  // padded as the rows are, or null
    int64_t panel_bytes;
    int32_t kind, rows, columns;
    int32_t minimums;  // if not, a minimum is -128 or -8 times its scale and not stored
    int32_t pairs;     // panels alternate between a gate and what it gates
    int32_t pad;
};

struct Norm {
    const float* weight;  // null: there is no such norm
    const float* bias;    // null: RMS
    float epsilon;
    int32_t pad;
};

struct Layer {
    Norm attention_norm, query_norm, key_norm, feedforward_norm;
    Matrix query_key_value, output, up, down;
};

struct Model {
    const Layer* layers;
    Norm norm;
    Matrix embedding, head;
    const float* cosines;  // (context, head_dim / 2), or null
    const float* sines;
    const float* positions;  // (context, width), or null
    int32_t num_layers, width, num_heads, num_kv_heads, head_dim, hidden_width, activation, vocabulary_size;
    float score_scale;
    int32_t cache_kind;  // FLOAT32, BFLOAT16 or INT8: see attention.h
};

// A step computes `rows` new positions. Rows of one sequence follow each other and form a part; its pages are listed from `first_page` on.
// The last `read` rows are prompts', which tiles may serve where there are any (tiles.h).
struct Step {
    const int32_t *tokens, *positions;                   // (rows)
    const int32_t *part_rows, *part_first_page, *pages;  // (parts), (parts), pages of 16 positions each
    const int32_t* wanted;                               // (num_wanted), rising: rows whose logits are asked for
    float* logits;                                       // (num_wanted, vocabulary_size)
    int32_t* likeliest;                                  // (num_wanted)
    int32_t* finite;                                     // (num_wanted): 1, or 0 if a logit is not
    uint8_t* cache;                                      // (layers, kv heads, num_pages, page)
    int64_t num_pages;
    int32_t rows, parts, num_wanted, read;
};

}  // namespace danlu
