/* log.h - one line to whoever runs the program.
 *
 * Declared here, defined once by each program (daemon/log.c, daemon/front, tests): library
 * folders cannot choose a destination, and below daemon/ nobody calls it. */
#ifndef BASE_LOG_H
#define BASE_LOG_H
enum log_level { LOG_ERROR_ = 3, LOG_WARN_ = 4, LOG_INFO_ = 6, LOG_DEBUG_ = 7 };
void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#endif
