/* place.h - where this user's things are: the only client file that reads XDG variables. */
#ifndef CLIENT_PLACE_H
#define CLIENT_PLACE_H
#include <stdbool.h>
#include <stddef.h>

/* $XDG_RUNTIME_DIR/hearth; without it /run/hearth for root, /tmp/hearth-UID for others. */
int place_runtime(char *ret, size_t cap);
/* $XDG_STATE_HOME/hearth-cli (~/.local/state/hearth-cli), made when missing: what the command
 * line itself remembers (history of chat, what ingest has done). -errno. */
int place_state(char *ret, size_t cap);
/* $XDG_DATA_HOME/hearth/models */
int place_models(char *ret, size_t cap);
/* mkdir -p, 0700. */
int place_make(const char *dir);
/* Where hearthd keeps its store when it is told nothing: the user's, or the system service's. */
int place_store(char *ret, size_t cap, bool system);

#endif
