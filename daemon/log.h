/* log.h - where hearthd's lines go: stderr, for a person or for the journal. */
#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H
#include "base/log.h"
#include <stdbool.h>

/* Lines above level are dropped.  journal: a priority "<4>" in front instead of date and
 * word, as systemd reads it.  Before any thread starts. */
void log_setup(int level, bool journal);

#endif
