/* table.c - see table.h. */
#include "client/table.h"
#include "client/say.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

void table_init(struct table *t, const char *const *head, int cols)
{
    *t = (struct table){.head = head, .cols = cols};
}

void table_add(struct table *t, ...)
{
    if (t->rows == t->cap) {
        int cap = t->cap ? t->cap * 2 : 16;
        char **p = realloc(t->cell, sizeof *p * (size_t)(cap * t->cols));
        if (!p) {
            t->bad = true;
            return;
        }
        t->cell = p;
        t->cap = cap;
    }
    va_list ap;
    va_start(ap, t);
    for (int i = 0; i < t->cols; i++) {
        char *s = strdup(shown(va_arg(ap, const char *))); /* data must not steer a terminal */
        t->bad |= !s;
        t->cell[t->rows * t->cols + i] = s;
    }
    va_end(ap);
    t->rows++;
}

int table_width(const char *s)
{
    int w = 0;
    mbstate_t st = {0};
    wchar_t wc;
    for (size_t n = strlen(s); n;) {
        size_t k = mbrtowc(&wc, s, n, &st);
        if (k == 0 || k > n) { /* not of this locale: one column a byte */
            w++;
            k = 1;
            st = (mbstate_t){0};
        } else {
            int one = wcwidth(wc);
            w += one < 0 ? 1 : one;
        }
        s += k;
        n -= k;
    }
    return w;
}

/* owed: blanks that the next cell with something in it is preceded by; a line ends in none. */
static void put(const char *s, int width, bool right, int *owed)
{
    int pad = width - table_width(s);
    *owed += right ? pad : 0;
    if (s[0]) {
        say_out("%*s%s", *owed, "", s);
        *owed = 0;
    }
    *owed += (right ? 0 : pad) + 2;
}

void table_print(struct table *t)
{
    int width[TABLE_COLS_MAX] = {0};
    for (int i = 0; i < t->cols; i++) {
        width[i] = table_width(t->head[i] + (t->head[i][0] == '>'));
        for (int r = 0; r < t->rows && !t->bad; r++) {
            int w = table_width(t->cell[r * t->cols + i]);
            if (w > width[i])
                width[i] = w;
        }
    }
    for (int r = -1; r < t->rows && !t->bad; r++) {
        int owed = 0;
        for (int i = 0; i < t->cols; i++) {
            bool right = t->head[i][0] == '>';
            put(r < 0 ? t->head[i] + right : t->cell[r * t->cols + i], width[i], right, &owed);
        }
        putchar('\n');
    }
    for (int i = 0; i < t->rows * t->cols; i++)
        free(t->cell[i]);
    free(t->cell);
    *t = (struct table){.head = t->head, .cols = t->cols};
}
