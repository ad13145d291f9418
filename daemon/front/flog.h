/* flog.h - where log_at() of hearth-front writes; set once by main. */
#ifndef FRONT_FLOG_H
#define FRONT_FLOG_H
#include "base/log.h"
#include <stdbool.h>

/* name: "nn" or "http", kept by address. journal: stderr is the journal's (JOURNAL_STREAM). */
void flog_init(const char *name, bool journal, enum log_level level);

#endif
