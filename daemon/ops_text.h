/* ops_text.h - what main.c must know of ops_text.c. */
#ifndef DAEMON_OPS_TEXT_H
#define DAEMON_OPS_TEXT_H
struct daemon;
struct model;
/* To be given to models_on_change: calls that wait for a model go on, or fail. */
void ops_text_model_changed(struct daemon *d, struct model *m);
/* Fails the calls that still wait; before the links close. */
void ops_text_close(void);
#endif
