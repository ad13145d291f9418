/* openai.h - the OpenAI dialect: chat completions and models.
 *
 * Every field of a request is honoured or refused by its name; nothing is dropped silently. */
#ifndef FRONT_OPENAI_H
#define FRONT_OPENAI_H
#include "base/err.h"
#include "daemon/front/http.h"
#include <cjson/cJSON.h>
#include <stdbool.h>

struct openai_req {
    char id[33];     /* START's id, and the stream's */
    char *start;     /* START's JSON, malloc'd */
    char model[256]; /* as asked; "" when absent */
    bool stream, include_usage, logprobs;
    uint32_t top_logprobs;
};
/* What a 400 says. param "": none. */
struct openai_error {
    int code; /* HTTP */
    const char *slug;
    char param[96];
    char message[512];
};
/* body: the parsed request. 0, or -EINVAL with err filled; ret->start is to be freed. */
int openai_parse(const cJSON *body, struct openai_req *ret, struct openai_error *err);
/* {"error":{"message","type","code","param"}}; malloc'd. */
char *openai_error_json(int code, const char *slug, const char *param, const char *message);

/* The endpoints; each answers x sooner or later. */
void openai_chat(struct hx *x, const char *body, size_t n);
void openai_models(struct hx *x, const char *id); /* id NULL: all */
void openai_fail(struct hx *x, int code, const char *slug, const char *param,
                 const char *message, uint32_t retry_after_ms);

#endif
