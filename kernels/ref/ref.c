/* ref.c - the oracle backend: plain loops, double sums, no threads, no hurry.
 *
 * Weights are kept as floats, dequantised once; a matmul rounds its activations to the same
 * int8 blocks as the cpu backend does (unless act_f32), so that the two differ only by the
 * order and width of sums: NMSE <= 5e-6 is then a test of code, not of formats. */
#include "kernels/ref/ref.h"
#include "base/bytes.h"
#include "base/check.h"
#include "kernels/num.h"
#include "kernels/types.h"
#include <errno.h>
#include <stdlib.h>

enum { REF_MAGIC = 0x52654631 };

static int ref_open(struct kern **ret, const struct kern_opts *o, struct errbuf *eb)
{
    struct kern_ref *k = calloc(1, sizeof *k);
    if (!k)
        return err_set(eb, -ENOMEM, "ref: no memory for the backend");
    k->kern.ops = &kern_ref;
    k->act_f32 = o && o->act_f32;
    k->magic = REF_MAGIC;
    *ret = &k->kern;
    return 0;
}

static void ref_close(struct kern *kern)
{
    struct kern_ref *k = (struct kern_ref *)kern;
    if (!k)
        return;
    must_be(k, REF_MAGIC);
    must(k->n_alloc == 0);
    must(k->n_weight == 0);
    k->magic = 0;
    free(k);
}

static void ref_props(const struct kern *kern, struct kern_props *ret)
{
    (void)kern;
    *ret = (struct kern_props){.name = "ref", .exact = true, .host_memory = true};
}

static void *ref_alloc(struct kern *kern, uint64_t bytes)
{
    struct kern_ref *k = (struct kern_ref *)kern;
    void *p = NULL;
    must_be(k, REF_MAGIC);
    if (bytes > 1ull << 40 || /* no machine has that; a size gone wrong */
        posix_memalign(&p, IO_ALIGN, (bytes + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN + !bytes))
        return NULL;
    memset(p, 0, bytes);
    k->n_alloc++;
    return p;
}

static void ref_free(struct kern *kern, void *p)
{
    struct kern_ref *k = (struct kern_ref *)kern;
    must_be(k, REF_MAGIC);
    k->n_alloc -= p != NULL;
    free(p);
}

static int ref_copy(struct kern *kern, void *to, const void *from, uint64_t bytes)
{
    (void)kern;
    memcpy(to, from, bytes);
    return 0;
}

/* --- weights ------------------------------------------------------------------------- */
static void ref_weight_free(struct kern *kern, struct k_weight *w)
{
    if (!w)
        return;
    ((struct kern_ref *)kern)->n_weight--;
    free(w->f);
    free(w);
}

static int take_floats(struct k_weight *w, const struct k_weight_src *src, struct errbuf *eb)
{
    void *row = malloc(w->row_bytes);
    int r = 0;

    w->f = malloc((size_t)w->rows * w->cols * 4);
    if (!row || !w->f)
        r = err_set(eb, -ENOMEM, "%s: no memory for %u x %u floats", src->name, w->rows,
                    w->cols);
    for (uint32_t i = 0; r == 0 && i < w->rows; i++) {
        r = k_src_read(src, i * w->row_bytes, row, w->row_bytes, eb);
        if (r == 0)
            k_dequant_row(w->type, row, w->f + (size_t)i * w->cols, w->cols);
    }
    free(row);
    return r;
}

static int ref_weight(struct kern *kern, struct k_weight **ret, const struct k_weight_src *src,
                      uint32_t use, enum k_residency res, struct errbuf *eb)
{
    struct kern_ref *k = (struct kern_ref *)kern;
    const struct k_type_info *ti = k_type_info(src->type);
    struct k_weight *w;

    must_be(k, REF_MAGIC);
    if (!ti)
        return err_set(eb, E_UNSUPP, "%s: type %d is unknown", src->name, (int)src->type);
    if (!src->rows || !src->cols || src->cols % ti->block)
        return err_set(eb, E_SHAPE, "%s: %u rows of %u columns; %s needs a multiple of %u",
                       src->name, src->rows, src->cols, ti->name, ti->block);
    if (!src->data && (res == K_RES_MAPPED || !src->read))
        return err_set(eb, -EINVAL, "%s: weights used as they lie must lie in memory",
                       src->name);
    if (!(w = calloc(1, sizeof *w)))
        return err_set(eb, -ENOMEM, "%s: no memory", src->name);
    w->type = src->type;
    w->rows = src->rows;
    w->cols = src->cols;
    w->row_bytes = (uint64_t)src->cols / ti->block * ti->block_bytes;
    w->raw = src->data;
    k->n_weight++;
    int r = res == K_RES_RELAID || (use & K_USE_VECTOR) ? take_floats(w, src, eb) : 0;
    if (r < 0) {
        ref_weight_free(kern, w);
        return r;
    }
    *ret = w;
    return 0;
}

static uint64_t ref_weight_bytes(const struct k_weight *w)
{
    return w->f ? (uint64_t)w->rows * w->cols * 4 : 0;
}

static uint64_t ref_weight_need(enum k_type t, uint64_t rows, uint64_t cols, uint32_t use)
{
    uint64_t n;

    (void)t, (void)use;
    return mul_ok(rows, cols, &n) && mul_ok(n, 4, &n) ? n : UINT64_MAX;
}

/* Nothing to size: scratch is taken per call. */
static int ref_reserve(struct kern *kern, uint32_t tokens, uint32_t cols_max, uint64_t ctx)
{
    (void)kern, (void)tokens, (void)cols_max, (void)ctx;
    return 0;
}

static int ref_sync(struct kern *kern)
{
    (void)kern;
    return 0;
}

/* Every operation is its formula in double; there is one such arithmetic. */
static int ref_epoch(struct kern *kern, uint64_t *ret)
{
    *ret = ((struct kern_ref *)kern)->act_f32 ? 0x7265662d66333201u : 0x7265662d69383201u;
    return 0;
}

static uint64_t ref_saturations(const struct kern *kern)
{
    return ((const struct kern_ref *)kern)->saturations;
}

const struct kern_ops kern_ref = {
    .name = "ref",
    .open = ref_open,
    .close = ref_close,
    .props = ref_props,
    .alloc = ref_alloc,
    .free = ref_free,
    .up = ref_copy,
    .down = ref_copy,
    .weight = ref_weight,
    .weight_free = ref_weight_free,
    .weight_bytes = ref_weight_bytes,
    .weight_need = ref_weight_need,
    .reserve = ref_reserve,
    .embed = ref_embed,
    .matmul = ref_matmul,
    .ffn = ref_ffn,
    .norm = ref_norm,
    .rope_store = ref_rope_store,
    .attn = ref_attn,
    .sync = ref_sync,
    .epoch = ref_epoch,
    .saturations = ref_saturations,
};
