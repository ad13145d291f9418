/* table.h - aligned columns on stdout. */
#ifndef CLIENT_TABLE_H
#define CLIENT_TABLE_H
#include <stdbool.h>

enum { TABLE_COLS_MAX = 12 };
struct table {
    int cols, rows, cap;
    const char *const *head;
    char **cell; /* rows * cols, malloc'd */
    bool bad;
};
/* head: cols names, kept by address; a name that begins with '>' aligns right. */
void table_init(struct table *t, const char *const *head, int cols);
void table_add(struct table *t, ...); /* cols strings, copied; control bytes become '?' */
void table_print(struct table *t);    /* and empties it */
int table_width(const char *s);       /* columns on a terminal */

#endif
