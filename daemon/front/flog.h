/* flog.h - where log_at() of hearth-front writes; set once by main. */
#ifndef FRONT_FLOG_H
#define FRONT_FLOG_H
#include "base/log.h"
#include <stdbool.h>

/* name: "nn" or "http", kept by address. journal: stderr is the journal's (JOURNAL_STREAM). */
void flog_init(const char *name, bool journal, enum log_level level);
/* SIGHUP's handler.  Once confined the front opens no file, so there is nothing to read again; but
 * it does not end either.  flog_hup_said, of whoever's loop it wakes, says so. */
void flog_on_hup(int sig);
void flog_hup_said(void);

#endif
