/* test_gguf.c - right files are read, and no wrong field of a file gets past the loader. */
#include "engine/gguf.h"
#include "tests/engine/mkgguf.h"
#include "tests/t.h"
#include <errno.h>
#include <unistd.h>

/* A small right file with every kind of value.  at[] says where its fields lie. */
enum field {
    F_MAGIC,
    F_VERSION,
    F_TENSORS,
    F_KV,
    F_KEY_LEN,
    F_KEY,
    F_TYPE,
    F_ALIGN,
    F_STR_LEN,
    F_ARR_ELEM,
    F_ARR_LEN,
    F_STRS_ELEM,
    F_STRS_LEN,
    F_STRS_0,
    F_BOOL,
    F_T0_NAME_LEN,
    F_T0_NAME,
    F_T0_DIMS,
    F_T0_COLS,
    F_T0_ROWS,
    F_T0_TYPE,
    F_T0_OFF,
    F_T1_NAME,
    F_T1_TYPE,
    F_T1_OFF,
    F_END,
    F_
};
static size_t at[F_];

static void good(struct mk *m)
{
    float f = 0.5f;
    double d = 2.5;

    m->n = 0;
    at[F_MAGIC] = 0;
    at[F_VERSION] = 4;
    at[F_TENSORS] = 8;
    at[F_KV] = 16;
    mk_head(m, 2, 9);
    at[F_KEY_LEN] = m->n;
    at[F_KEY] = m->n + 8;
    at[F_TYPE] = m->n + 8 + 17;
    mk_kv_u32(m, "general.alignment", 64);
    at[F_ALIGN] = m->n - 4;
    mk_str(m, "a.str");
    mk_u32(m, GGUF_STR);
    at[F_STR_LEN] = m->n;
    mk_str(m, "hello");
    mk_str(m, "a.nums");
    mk_u32(m, GGUF_ARR);
    at[F_ARR_ELEM] = m->n;
    mk_u32(m, GGUF_I16);
    at[F_ARR_LEN] = m->n;
    mk_u64(m, 3);
    mk_add(m, (int16_t[]){1, -2, 300}, 6);
    mk_str(m, "a.strs");
    mk_u32(m, GGUF_ARR);
    at[F_STRS_ELEM] = m->n;
    mk_u32(m, GGUF_STR);
    at[F_STRS_LEN] = m->n;
    mk_u64(m, 2);
    at[F_STRS_0] = m->n;
    mk_str(m, "one");
    mk_str(m, "");
    mk_str(m, "a.bool");
    mk_u32(m, GGUF_BOOL);
    at[F_BOOL] = m->n;
    mk_add(m, "\1", 1);
    mk_str(m, "a.i8");
    mk_u32(m, GGUF_I8);
    mk_add(m, "\xff", 1);
    mk_str(m, "a.u64");
    mk_u32(m, GGUF_U64);
    mk_u64(m, UINT64_MAX);
    mk_str(m, "a.f32");
    mk_u32(m, GGUF_F32);
    mk_add(m, &f, 4);
    mk_str(m, "a.f64");
    mk_u32(m, GGUF_F64);
    mk_add(m, &d, 8);
    at[F_T0_NAME_LEN] = m->n;
    at[F_T0_NAME] = m->n + 8;
    at[F_T0_DIMS] = m->n + 9;
    at[F_T0_COLS] = m->n + 13;
    at[F_T0_ROWS] = m->n + 21;
    at[F_T0_TYPE] = m->n + 29;
    at[F_T0_OFF] = m->n + 33;
    mk_tensor(m, "x", K_Q8_0, 64, 3, 0); /* 3 rows of 2 blocks of 34 bytes: 204 */
    at[F_T1_NAME] = m->n + 8;
    at[F_T1_TYPE] = m->n + 8 + 1 + 4 + 8;
    at[F_T1_OFF] = m->n + 8 + 1 + 4 + 8 + 4;
    mk_tensor(m, "y", K_F32, 5, 0, 320);
    mk_pad(m, 64);
    for (int i = 0; i < 320; i++)
        mk_add(m, (uint8_t[]){(uint8_t)i}, 1);
    float y[5] = {1, 2, 3, 4, 5};
    mk_add(m, y, sizeof y);
    at[F_END] = m->n;
}

/* A right file reads back what was written, through every accessor. */
static void a_good_file_reads_back(void)
{
    struct mk m = {0};
    struct gguf *g = NULL;
    struct errbuf eb = {""};
    uint64_t u = 7;
    double d = 0;
    bool b = false;
    struct gguf_str s = {0};

    good(&m);
    CHECK_EQ(gguf_parse(&g, m.p, m.n, &eb), 0);
    if (!g) {
        printf("    %s\n", eb.s);
        return;
    }
    CHECK_EQ(gguf_bytes(g), m.n);
    CHECK_EQ(gguf_n_kv(g), 9);
    CHECK_EQ(gguf_n_tensors(g), 2);
    CHECK(gguf_u64(g, "general.alignment", &u) && u == 64);
    CHECK(gguf_u64(g, "a.u64", &u) && u == UINT64_MAX);
    u = 7;
    CHECK(!gguf_u64(g, "a.i8", &u)); /* -1 does not fit */
    CHECK(!gguf_u64(g, "a.f32", &u) && !gguf_u64(g, "none", &u) && !gguf_u64(g, "a.nums", &u));
    CHECK_EQ(u, 7);
    CHECK(gguf_f64(g, "a.f32", &d) && d == 0.5);
    CHECK(gguf_f64(g, "a.f64", &d) && d == 2.5);
    CHECK(!gguf_f64(g, "a.u64", &d));
    CHECK(gguf_bool(g, "a.bool", &b) && b);
    CHECK(gguf_str(g, "a.str", &s) && s.bytes == 5 && memcmp(s.p, "hello", 5) == 0);
    CHECK_EQ(gguf_arr(g, "a.nums", GGUF_I16), 3);
    CHECK_EQ(gguf_arr(g, "a.nums", GGUF_U16), -1);
    CHECK_EQ(gguf_arr(g, "none", GGUF_U16), -1);
    CHECK(gguf_arr_num(g, "a.nums", 1) == -2 && gguf_arr_num(g, "a.nums", 2) == 300);
    CHECK_EQ(gguf_arr(g, "a.strs", GGUF_STR), 2);
    s = gguf_arr_str(g, "a.strs", 0);
    CHECK(s.bytes == 3 && memcmp(s.p, "one", 3) == 0);
    CHECK_EQ(gguf_arr_str(g, "a.strs", 1).bytes, 0);
    const struct gguf_tensor *x = gguf_tensor(g, "x"), *y = gguf_tensor(g, "y");
    CHECK(x && y && !gguf_tensor(g, "z") && !gguf_tensor(g, ""));
    CHECK(x && x->bytes == 204 && x->dims[0] == 64 && x->dims[1] == 3 && x->dims[2] == 1);
    CHECK(x && y && y->bytes == 20 && y->at - x->at == 320);
    uint8_t one[4] = {0};
    CHECK(y && gguf_read(g, y, 0, one, 4, &eb) == 0 && ld32(one) == 0x3f800000);
    CHECK(y && gguf_read(g, y, 20, one, 0, &eb) == 0); /* nothing, at the very end */
    gguf_close(g);
    free(m.p);
}

/* Each row damages one field; the words must name it. */
static void every_wrong_field_is_named(void)
{
    static const struct {
        enum field f;
        int width;
        uint64_t v;
        int code;
        const char *words; /* a part of the error */
    } t[] = {
        {F_MAGIC, 4, 0x46554746, E_CORRUPT, "magic"},
        {F_VERSION, 4, 1, E_VERSION, "version is 1"},
        {F_VERSION, 4, 4, E_VERSION, "version is 4"},
        {F_VERSION, 4, 0x03000000, E_VERSION, "big-endian"},
        {F_TENSORS, 8, 1000, E_CORRUPT, "n_tensors is 1000"},
        {F_TENSORS, 8, UINT64_MAX, E_CORRUPT, "n_tensors is 18446744073709551615"},
        {F_TENSORS, 8, 3, E_CORRUPT, "tensor"},
        {F_KV, 8, UINT64_MAX, E_CORRUPT, "n_kv is"},
        {F_KV, 8, 10, E_CORRUPT, ""},
        {F_KEY_LEN, 8, 0, E_CORRUPT, "key 0 is 0 bytes long"},
        {F_KEY_LEN, 8, UINT64_MAX, E_CORRUPT, "key at byte"},
        {F_KEY, 1, 0, E_CORRUPT, "NUL"},
        {F_TYPE, 4, 13, E_CORRUPT, "general.alignment has value type 13"},
        {F_TYPE, 4, GGUF_I32, E_CORRUPT, "general.alignment has value type 5"},
        {F_ALIGN, 4, 0, E_CORRUPT, "general.alignment is 0"},
        {F_ALIGN, 4, 48, E_CORRUPT, "general.alignment is 48"},
        {F_ALIGN, 4, 4, E_CORRUPT, "general.alignment is 4"},
        {F_ALIGN, 4, 0x80000000, E_CORRUPT, "general.alignment is 2147483648"},
        {F_ALIGN, 4, 128, E_CORRUPT, "multiple of general.alignment 128"},
        {F_STR_LEN, 8, UINT64_MAX - 3, E_CORRUPT, "string value"},
        {F_STR_LEN, 8, 5000, E_CORRUPT, "string value"},
        {F_ARR_ELEM, 4, GGUF_ARR, E_UNSUPP, "a.nums is an array of arrays"},
        {F_ARR_ELEM, 4, 77, E_CORRUPT, "a.nums has array element type 77"},
        {F_ARR_LEN, 8, UINT64_MAX / 2 + 1, E_CORRUPT, "a.nums claims an array of"},
        {F_STRS_LEN, 8, 1u << 20, E_CORRUPT, "a.strs claims an array of 1048576"},
        {F_STRS_0, 8, 1u << 30, E_CORRUPT, "string in an array"},
        {F_BOOL, 1, 2, E_CORRUPT, "a.bool holds 2"},
        {F_T0_NAME_LEN, 8, 0, E_CORRUPT, "tensor name 0 is 0 bytes"},
        {F_T0_NAME_LEN, 8, 65, E_CORRUPT, "tensor name 0 is 65 bytes"},
        {F_T0_NAME, 1, 'y', E_CORRUPT, "tensor name y occurs twice"},
        {F_T0_DIMS, 4, 0, E_CORRUPT, "n_dims 0"},
        {F_T0_DIMS, 4, 5, E_CORRUPT, "n_dims 5"},
        {F_T0_COLS, 8, 0, E_CORRUPT, "dims[0] = 0"},
        {F_T0_COLS, 8, 33, E_CORRUPT, "rows of 33 elements, type Q8_0 needs a multiple of 32"},
        {F_T0_COLS, 8, UINT64_MAX - 31, E_CORRUPT, "dims["},
        {F_T0_ROWS, 8, UINT64_MAX / 64, E_CORRUPT, "dims[1]"},
        {F_T0_ROWS, 8, INT64_MAX / 64, E_CORRUPT, "tensor x"},
        {F_T0_ROWS, 8, 5, E_CORRUPT, "overlap"},
        {F_T0_ROWS, 8, 400, E_CORRUPT, "tensor x at offset 0 needs"},
        {F_T0_TYPE, 4, 9, E_UNSUPP, "tensor x has type 9"},
        {F_T0_TYPE, 4, 0xffffffff, E_UNSUPP, "tensor x has type"},
        {F_T0_OFF, 8, 7, E_CORRUPT, "offset 7, not a multiple"},
        {F_T0_OFF, 8, 256, E_CORRUPT, ""},
        {F_T1_OFF, 8, 0, E_CORRUPT, "overlap"},
        {F_T1_OFF, 8, 192, E_CORRUPT, "overlap"},
        {F_T1_OFF, 8, 384, E_CORRUPT, "tensor y at offset 384"},
        {F_T1_OFF, 8, UINT64_MAX - 63, E_CORRUPT, "tensor y at offset"},
    };
    struct mk m = {0};

    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct gguf *g = NULL;
        struct errbuf eb = {""};
        good(&m);
        memcpy(m.p + at[t[i].f], &t[i].v, (size_t)t[i].width);
        int r = gguf_parse(&g, m.p, m.n, &eb);
        if (r != t[i].code || !strstr(eb.s, t[i].words) || !eb.s[0])
            t_fail(__FILE__, __LINE__, "row %zu: got %d '%s', want %d '%s'", i, r, eb.s,
                   t[i].code, t[i].words);
        if (r == 0)
            gguf_close(g);
    }
    free(m.p);
}

static void a_key_that_occurs_twice_is_refused(void)
{
    struct mk m = {0};
    struct gguf *g = NULL;
    struct errbuf eb = {""};

    mk_head(&m, 0, 2);
    mk_kv_u32(&m, "same", 1);
    mk_kv_u32(&m, "same", 2);
    CHECK_EQ(gguf_parse(&g, m.p, m.n, &eb), E_CORRUPT);
    CHECK(strstr(eb.s, "key same occurs twice") != NULL);
    free(m.p);
}

/* Every prefix of a right file is refused; the copy has exactly its size, for the sanitizers. */
static void every_truncation_is_refused(void)
{
    struct mk m = {0};
    int bad = 0;

    good(&m);
    for (size_t n = 0; n < m.n; n++) {
        struct gguf *g = NULL;
        struct errbuf eb = {""};
        uint8_t *p = malloc(n + !n);
        memcpy(p, m.p, n);
        int r = gguf_parse(&g, p, n, &eb);
        bad += r != E_CORRUPT || !eb.s[0];
        if (r == 0)
            gguf_close(g);
        free(p);
    }
    CHECK_EQ(bad, 0);
    free(m.p);
}

/* Any byte changed to anything: accepted or refused, never a crash (run under sanitizers). */
static void random_damage_never_crashes(void)
{
    const char *env = getenv("SEED");
    uint64_t seed = env ? strtoull(env, NULL, 0) : (uint64_t)getpid();
    struct mk m = {0};
    uint32_t ok = 0;

    printf("    SEED=%llu\n", (unsigned long long)seed);
    for (int i = 0; i < 20000; i++) {
        struct gguf *g = NULL;
        good(&m);
        for (uint64_t n = mk_next(&seed) % 4 + 1; n; n--)
            m.p[mk_next(&seed) % m.n] = (uint8_t)mk_next(&seed);
        if (gguf_parse(&g, m.p, m.n, NULL) == 0) {
            ok++;
            gguf_close(g);
        }
    }
    CHECK(ok > 0); /* damage in names and data is not the loader's to see */
    free(m.p);
}

static void a_missing_file_and_a_directory_say_so(void)
{
    struct gguf *g = NULL;
    struct errbuf eb = {""};

    CHECK_EQ(gguf_open(&g, "/nonexistent/model.gguf", &eb), -ENOENT);
    CHECK(strstr(eb.s, "/nonexistent/model.gguf") != NULL);
    CHECK_EQ(gguf_open(&g, "/", &eb), -EISDIR);
    CHECK_EQ(gguf_open(&g, "/dev/null", &eb), -EINVAL);
}

static void an_empty_file_is_corrupt(void)
{
    struct gguf *g = NULL;
    struct errbuf eb = {""};
    struct mk m = {0};
    char path[64];

    mk_add(&m, "", 0);
    mk_file(&m, path, sizeof path);
    CHECK_EQ(gguf_open(&g, path, &eb), E_CORRUPT);
    CHECK(strstr(eb.s, path) && strstr(eb.s, "magic"));
    unlink(path);
    free(m.p);
}

static void a_file_on_disk_opens(void)
{
    struct gguf *g = NULL;
    struct errbuf eb = {""};
    struct mk m = {0};
    char path[64];

    good(&m);
    mk_file(&m, path, sizeof path);
    CHECK_EQ(gguf_open(&g, path, &eb), 0);
    float y4 = 0;
    CHECK(g && gguf_read(g, gguf_tensor(g, "y"), 16, &y4, 4, &eb) == 0 && y4 == 5);
    gguf_close(g);
    unlink(path);
    free(m.p);
}

/* A download in place truncates the file first: what is wanted of it later must be here. */
static void a_detached_file_may_be_truncated(void)
{
    struct gguf *g = NULL;
    struct mk m = {0};
    char path[64];

    good(&m);
    mk_file(&m, path, sizeof path);
    CHECK_EQ(gguf_open(&g, path, NULL), 0);
    uint32_t n = gguf_n_kv(g);
    CHECK_EQ(gguf_detach(g, NULL), 0);
    CHECK_EQ(truncate(path, 0), 0);
    uint32_t named = 0;
    enum gguf_kv_type type;
    for (uint32_t i = 0; i < n; i++)
        named += gguf_key_at(g, i, &type).p[0] != 0;
    CHECK(named == n && n > 0);
    CHECK(gguf_tensor(g, "y") != NULL);
    gguf_close(g);
    unlink(path);
    free(m.p);
}

/* Sparse files cost nothing to make and would cost all memory to believe. */
static void a_head_without_end_is_refused(void)
{
    struct gguf *g = NULL;
    struct errbuf eb = {""};
    struct mk m = {0};
    char path[64];

    mk_head(&m, 0, 1);
    mk_str(&m, "tokens");
    mk_u32(&m, GGUF_ARR);
    mk_u32(&m, GGUF_STR);
    mk_u64(&m, (128 << 20) / 8 - 100); /* empty strings: a hole */
    mk_file(&m, path, sizeof path);
    CHECK_EQ(truncate(path, 64ll << 30), 0);
    CHECK_EQ(gguf_open(&g, path, &eb), 0); /* just as many as may be */
    CHECK(g && gguf_bytes(g) == 64ull << 30);
    gguf_close(g);
    mk_u64(&m, 0);
    uint64_t n = 1ull << 32;
    memcpy(m.p + m.n - 16, &n, 8);
    unlink(path);
    mk_file(&m, path, sizeof path);
    CHECK_EQ(truncate(path, 64ll << 30), 0);
    g = NULL;
    CHECK_EQ(gguf_open(&g, path, &eb), E_CORRUPT);
    CHECK(strstr(eb.s, "tokens claims an array of 4294967296 elements") != NULL);
    unlink(path);
    m.n = 0;
    mk_head(&m, 0, 1);
    mk_str(&m, "text");
    mk_u32(&m, GGUF_STR);
    mk_u64(&m, 1ull << 30);
    mk_file(&m, path, sizeof path);
    CHECK_EQ(truncate(path, 64ll << 30), 0);
    CHECK_EQ(gguf_open(&g, path, &eb), E_LIMIT);
    CHECK(strstr(eb.s, "string value at byte 48 needs 1073741824 bytes") != NULL);
    unlink(path);
    free(m.p);
}

/* Many keys with one hash or one order would be slow in a table that trusts its input. */
static void a_hundred_thousand_keys_take_under_two_seconds(void)
{
    struct mk m = {0};
    struct gguf *g = NULL;
    uint64_t v = 0;
    char key[32];

    mk_head(&m, 0, 100000);
    for (uint32_t i = 0; i < 100000; i++) {
        snprintf(key, sizeof key, "k.%u", i ^ 0x1ffff);
        mk_kv_u32(&m, key, i);
    }
    CHECK_EQ(gguf_parse(&g, m.p, m.n, NULL), 0);
    CHECK(g && gguf_u64(g, "k.131071", &v) && v == 0);
    gguf_close(g);
    free(m.p);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(a_good_file_reads_back), CASE(a_detached_file_may_be_truncated),
       CASE(every_wrong_field_is_named), CASE(a_key_that_occurs_twice_is_refused),
       CASE(every_truncation_is_refused), CASE(random_damage_never_crashes),
       CASE(a_missing_file_and_a_directory_say_so), CASE(an_empty_file_is_corrupt),
       CASE(a_head_without_end_is_refused), CASE(a_file_on_disk_opens),
       CASE(a_hundred_thousand_keys_take_under_two_seconds))
