/* kvlayout.c - see kvlayout.h. */
#include "engine/kvlayout.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/err.h"
#include "kernels/kern.h"

static bool has_layer(const struct kv_stream *s, uint32_t layer)
{
    for (uint32_t i = 0; i < s->n_layers; i++)
        if (s->layers[i] == layer)
            return true;
    return false;
}

/* Bytes one layer of a stream takes in a page: all heads, all rows. */
static uint64_t extent_bytes(const struct kv_stream *s)
{
    return (uint64_t)s->heads * (BLOCK_TOKENS / s->tokens_row) * s->row_bytes;
}

static bool stream_ok(const struct kv_stream *s)
{
    bool ok = s->name[0] && s->part < KV_PART_ && s->fmt < K_ROW_ && s->tokens_row > 0 &&
              s->tokens_row <= RATIO_MAX && BLOCK_TOKENS % s->tokens_row == 0 && s->heads > 0 &&
              s->row_bytes > 0 && s->n_layers > 0 && s->n_layers <= KV_LAYERS_MAX;

    for (uint32_t i = 1; ok && i < s->n_layers; i++)
        ok = s->layers[i] > s->layers[i - 1];
    return ok;
}

/* The id becomes the name of a folder. */
static bool id_ok(const char *id, size_t cap)
{
    size_t n = strnlen(id, cap);

    if (n == 0 || n == cap || id[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!((id[i] >= 'a' && id[i] <= 'z') || (id[i] >= 'A' && id[i] <= 'Z') ||
              (id[i] >= '0' && id[i] <= '9') || id[i] == '.' || id[i] == '-'))
            return false;
    return true;
}

int kv_layout_close(struct kv_layout *l)
{
    uint64_t bytes[KV_PART_] = {0};

    if (!id_ok(l->id, sizeof l->id) || l->n_streams > STREAMS_MAX || l->n_states > STREAMS_MAX)
        return E_LIMIT;
    for (uint32_t i = 0; i < l->n_streams; i++) {
        const struct kv_stream *s = &l->stream[i];
        uint64_t all;
        if (!stream_ok(s) || !mul_ok(extent_bytes(s), s->n_layers, &all) ||
            !add_ok(bytes[s->part], all, &bytes[s->part]) || bytes[s->part] > KV_PAGE_BYTES_MAX)
            return E_LIMIT;
    }
    for (int p = 0; p < KV_PART_; p++)
        l->page_bytes[p] = round_up(bytes[p], IO_ALIGN);
    return 0;
}

uint64_t kv_layout_off(const struct kv_layout *l, uint32_t stream, uint32_t layer)
{
    must(stream < l->n_streams);
    const struct kv_stream *me = &l->stream[stream];
    must(has_layer(me, layer));
    uint64_t off = 0;

    /* Everything that comes before: whole layers below, and in this layer earlier streams. */
    for (uint32_t i = 0; i < l->n_streams; i++) {
        const struct kv_stream *s = &l->stream[i];
        for (uint32_t j = 0; s->part == me->part && j < s->n_layers; j++)
            if (s->layers[j] < layer || (s->layers[j] == layer && i < stream))
                off += extent_bytes(s);
    }
    return off;
}
